"""The steps of a run on one model: launched ahead of their reports, and done again if their numbers overflow."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..angles import mean_angle
from ..backbone import Backbone, FrozenModel
from ..gpu.graphs import Recorder, graphs_of
from ..gpu.modes import collect_all_garbage, is_out_of_memory, release_memory
from ..precision import precision_of
from .batches import TrainingBatch
from .memory import MemoryPlan
from .ranks import ProcessError
from .settings import InversionSettings
from .state import Run, RunState
from .step import Step, StepNumbers

log = logging.getLogger(__name__)

LOSS_SCALE = 2.0**16
"""Where float16 starts. A loss that is a mean over 100,000 latent values has gradients below float16's smallest number.
Source of the recipe: Micikevicius et al., "Mixed Precision Training", ICLR 2018."""


@dataclass(frozen=True)
class StepReport:
    """What happened in a step.

    `step` counts from 1; `loss` is the diffusion loss and `distance` the mean distance from the start, both at the vectors
    that the step began with; `vectors` (K, d) float32 on the CPU are those it ended with; `denoised` (1, 4, h, w) on the
    CPU is the model's estimate of the latents of the step's first sample.
    """

    step: int
    steps: int
    loss: float
    distance: float
    vectors: Tensor
    denoised: Tensor

    @property
    def regularization(self) -> float:
        """The earlier name of `distance`."""
        return self.distance


class OverflowedError(FloatingPointError):
    """A step's numbers are not finite in the model's precision; the state is that of the step before it."""


def steps_ahead(device: torch.device) -> int:
    """Steps that are launched before the first of them is reported: while Python reports one, a GPU is at the other."""
    return 2 if device.type == "cuda" else 1


def steps(backbone: Backbone, model: FrozenModel, run: Run, plan: MemoryPlan) -> Iterator[StepReport]:
    """Do the steps that are left of a run on a model, and report each as it becomes known; `run.state` is then its end.

    Raises OverflowedError if the model's precision does not hold the numbers, ValueError if the batches end too early,
    and torch.OutOfMemoryError if even a single sample does not fit.
    """
    signature = None if model.signature is None else (model.signature, backbone.prediction_type)
    graphs = graphs_of(model.device) if run.settings.cuda_graph else None
    recorder = Recorder(model.device, graphs, signature, run.memory) if graphs else None
    step = Step(backbone, model, run.start, run.settings, recorder, plan.micro_batch_size, run.ranks)
    first, ahead = run.state.step + 1, steps_ahead(model.device)
    launched: deque[Callable[[], StepNumbers]] = deque()
    failure: Exception | None = None

    def start_from(state: RunState) -> None:
        """Whatever was launched since is done again."""
        run.state = state
        launched.clear()
        run.batches.rewind()
        step.load(state)

    precision, scale = precision_of(model.dtype), LOSS_SCALE if model.dtype == torch.float16 else 1.0
    same = run.state.precision == precision
    start_from(run.state if same else replace(run.state, precision=precision, loss_scale=scale))
    try:
        while run.state.step < run.settings.steps:
            while failure is None and len(launched) < min(ahead, run.settings.steps - run.state.step):
                try:
                    number = run.state.step + len(launched) + 1
                    batch = _next_batch(run, number, model.device)
                    launched.append(_launch(step, batch, number, run, plan))
                except Exception as error:
                    failure = error  # raised once all before it is reported
            if failure and not launched:
                raise failure
            numbers = launched.popleft()()
            if not numbers.in_step:
                raise ProcessError(f"The {run.ranks.count} processes are no longer at the same step.")
            if not numbers.finite:
                failure = None
                start_from(replace(run.state, loss_scale=_smaller_scale(numbers, run.state, model.dtype)))
                continue
            run.batches.keep()
            run.state = replace(
                run.state,
                step=run.state.step + 1,
                vectors=numbers.vectors,
                optimizer=numbers.optimizer,
                batches=run.batches.state,
                losses=(*run.state.losses, numbers.loss),
                distances=(*run.state.distances, numbers.distance),
                angles=(*run.state.angles, mean_angle(run.state.vectors, run.start, backbone.widths)),
            )
            if run.state.step == first:
                run.memory.look()  # what is recorded is recorded now
            yield StepReport(
                run.state.step, run.settings.steps, numbers.loss, numbers.distance, numbers.vectors, numbers.denoised
            )
    except (OverflowedError, torch.OutOfMemoryError):
        raise  # perhaps another model goes on
    except BaseException:
        run.ranks.stop()
        raise
    finally:
        failure = None  # its traceback holds the model
        launched.clear()
        if recorder:
            recorder.clear()


def _next_batch(run: Run, number: int, device: torch.device) -> TrainingBatch:
    batch = run.batches.take()
    if batch is None:
        raise ValueError(f"The batches ended after {number - 1}, but {run.settings.steps} steps were asked for.")
    if not len(batch):
        raise ValueError(f"Batch {number} is empty, but a step needs at least one sample.")
    return batch.ready(pin=device.type == "cuda")


def _launch(step: Step, batch: TrainingBatch, number: int, run: Run, plan: MemoryPlan) -> Callable[[], StepNumbers]:
    """Launch a step, in smaller pieces if the memory is too small for it."""
    while True:
        try:
            return step.launch(batch, number)
        except RuntimeError as error:
            too_much = is_out_of_memory(error)
            if not too_much and not run.determinism.relax(error):
                raise
        # Outside of the except clause, where the traceback no longer keeps the step's tensors alive.
        step.forget()
        if too_much:
            _need_less_memory(step, run.settings, plan)


def _need_less_memory(step: Step, settings: InversionSettings, plan: MemoryPlan) -> None:
    collect_all_garbage()
    release_memory()
    # To compute a part of a step twice takes far less time than to launch it kernel by kernel.
    low_memory_is_left = settings.memory == "auto" and not plan.gradient_checkpointing
    if step.micro_batch_size == 1 and step.recorder and step.recorder.enabled and not low_memory_is_left:
        step.recorder.enabled = False
        log.warning("Out of memory: going on without a recorded CUDA graph, slower; the result is the same.")
        return
    if step.micro_batch_size == 1:
        low = "" if plan.gradient_checkpointing else "set memory to low or turn on gradient_checkpointing, "
        raise torch.OutOfMemoryError(
            f"Out of memory at {settings.resolution} px even with one sample at a time. To go on, {low}use a "
            "smaller resolution, or close other programs that use the GPU."
        )
    step.micro_batch_size //= 2
    log.warning("Out of memory: going on with micro-batches of %d; the result is the same.", step.micro_batch_size)


def _smaller_scale(numbers: StepNumbers, state: RunState, dtype: torch.dtype) -> float:
    """A gradient that overflows float16 may fit if the loss is multiplied by less."""
    if not numbers.finite_loss or state.loss_scale <= 1:
        raise OverflowedError(
            f"Step {state.step + 1} gave numbers that are not finite in {str(dtype).removeprefix('torch.')} "
            f"(loss {numbers.loss:.3g})."
        )
    return max(1.0, state.loss_scale / 16)
