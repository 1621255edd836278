"""The loop of an inversion: steps are launched ahead of their reports, and bad ones are done again.

What a run carries from step to step is a `RunState`, always that of the last step that was reported.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..angles import mean_angle
from ..backbone import Backbone, FrozenModel
from ..gpu.graphs import Recorder
from ..gpu.modes import Determinism, collect_all_garbage, is_out_of_memory, release_memory
from ..gpu.peak_memory import PeakMemory
from ..precision import precision_of
from .batches import Source, TrainingBatch
from .memory import MemoryPlan
from .settings import InversionSettings
from .state import RunState
from .step import LOSS_SCALE, Outcome, Step, StepValues

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """What happened in a step.

    `step` counts from 1; `loss` is the diffusion loss and `regularization` the mean distance from the start before
    lambda, both at the vectors that the step began with; `vectors` (K, d) float32 on the CPU are those it ended
    with; `denoised` (1, 4, h, w) on the CPU is the model's estimate of the latents of the step's first sample.
    """

    step: int
    steps: int
    loss: float
    regularization: float
    vectors: Tensor
    denoised: Tensor


class OverflowedError(FloatingPointError):
    """A step's numbers are not finite in the model's precision; the state is that of the step before it."""


def steps_ahead(device: torch.device) -> int:
    """Steps that are launched before the first of them is reported: while Python reports one, a GPU is at the other."""
    return 2 if device.type == "cuda" else 1


class Draws:
    """Batches that can be taken back: those drawn since the last `keep` come again after `rewind`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._drawn: deque[tuple[TrainingBatch, dict[str, Tensor]]] = deque()
        self._next = 0
        self.state = source.state()
        """Everything that decides the draws after the last one that was kept."""

    def draw(self) -> TrainingBatch | None:
        """The next batch, or None where there is none."""
        if self._next == len(self._drawn):
            batch = next(self._source, None)
            if batch is None:
                return None
            self._drawn.append((batch, self._source.state()))
        self._next += 1
        return self._drawn[self._next - 1][0]

    def keep(self) -> None:
        """The oldest batch is done with."""
        _, self.state = self._drawn.popleft()
        self._next -= 1

    def rewind(self) -> None:
        """Give out again what was drawn and not kept."""
        self._next = 0

    def skip_to(self, step: int, state: dict[str, Tensor]) -> bool:
        """Go on after `step` steps, whose draws' state was `state`. Returns False where the draws are others."""
        possible = self._source.skip_to(step, state)
        self.state = self._source.state()
        return possible


def first_state(start: Tensor, settings: InversionSettings, draws: Draws) -> RunState:
    """Before the first step."""
    return RunState(0, start.clone(), {}, draws.state, settings=asdict(settings))


class Run:
    """Steps on one model in one precision, from `state` on."""

    def __init__(
        self,
        backbone: Backbone,
        model: FrozenModel,
        start: Tensor,
        settings: InversionSettings,
        draws: Draws,
        state: RunState,
        plan: MemoryPlan,
        determinism: Determinism,
        memory: PeakMemory,
    ) -> None:
        self._model, self._settings, self._draws, self._determinism = model, settings, draws, determinism
        self._start = start
        work = None if model.work is None else (model.work, backbone.prediction_type)
        self._recorder = Recorder(model.device, settings.cuda_graph, work, memory)
        self._step = Step(backbone, model, start, settings, self._recorder)
        self.state = state
        self.micro_batch, self._plan = plan.micro_batch_size, plan
        precision = precision_of(model.dtype)
        if state.precision != precision:
            scale = LOSS_SCALE if model.dtype == torch.float16 else 1.0
            self.state = replace(state, precision=precision, loss_scale=scale)
        self._ahead = steps_ahead(model.device)
        self._launched: deque[Outcome] = deque()
        self._failure: Exception | None = None
        self._rewind()

    def __iter__(self) -> Iterator[StepReport]:
        """Reports of the steps, as they become known.

        Raises OverflowedError where the model's precision does not hold the numbers, ValueError where the draws end too
        early, and torch.OutOfMemoryError where even a single sample does not fit.
        """
        try:
            while self.state.step < self._settings.steps:
                self._launch()
                values = self._launched.popleft().wait()
                if not values.finite:
                    self._try_smaller_scale(values)
                    continue
                self._draws.keep()
                yield self._reported(values)
        finally:
            self._launched.clear()
            self._recorder.clear()

    def _launch(self) -> None:
        """Fill up what the device has to do; what cannot be launched is raised once all before it is reported."""
        while (
            self._failure is None
            and len(self._launched) < self._ahead
            and self.state.step + len(self._launched) < self._settings.steps
        ):
            try:
                self._launched.append(self._launch_one())
            except Exception as error:
                self._failure = error
        if self._failure and not self._launched:
            failure, self._failure = self._failure, None
            raise failure

    def _launch_one(self) -> Outcome:
        number = self.state.step + len(self._launched) + 1
        batch = self._draws.draw()
        if batch is None:
            raise ValueError(f"The batches ended after {number - 1}, but {self._settings.steps} steps were asked for.")
        if not len(batch):
            raise ValueError(f"Batch {number} is empty, but a step needs at least one sample.")
        batch = batch.ready(pin=self._model.device.type == "cuda")
        while True:
            too_much = False
            try:
                return self._step.launch(batch, self.micro_batch)
            except RuntimeError as error:
                too_much = is_out_of_memory(error)
                if not too_much and not self._determinism.relax(error):
                    raise
            # Outside of the except clause, where the traceback no longer keeps the step's tensors alive.
            self._step.forget()
            if too_much:
                self._need_less_memory()

    def _rewind(self) -> None:
        """Back to `state`, whatever was launched since."""
        self._launched.clear()
        self._failure = None
        self._draws.rewind()
        self._step.load(self.state)

    def _try_smaller_scale(self, values: StepValues) -> None:
        """A gradient that overflows float16 may fit when the loss is multiplied by less."""
        if not values.finite_loss or self.state.loss_scale <= 1:
            raise OverflowedError(
                f"Step {self.state.step + 1} gave numbers that are not finite in "
                f"{str(self._model.dtype).removeprefix('torch.')} (loss {values.loss:.3g})."
            )
        self.state = replace(self.state, loss_scale=max(1.0, self.state.loss_scale / 16))
        self._rewind()

    def _reported(self, values: StepValues) -> StepReport:
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            vectors=values.vectors,
            optimizer=values.optimizer,
            draws=self._draws.state,
            losses=(*self.state.losses, values.loss),
            distances=(*self.state.distances, values.distance),
            angles=(*self.state.angles, mean_angle(self.state.vectors, self._start)),
        )
        return StepReport(
            step=self.state.step,
            steps=self._settings.steps,
            loss=values.loss,
            regularization=values.distance,
            vectors=values.vectors,
            denoised=values.denoised,
        )

    def _need_less_memory(self) -> None:
        collect_all_garbage()
        release_memory()
        # To compute a part of a step twice takes far less time than to launch it kernel by kernel.
        low_memory_is_left = self._settings.memory == "auto" and not self._plan.gradient_checkpointing
        if self.micro_batch == 1 and self._recorder.enabled and not low_memory_is_left:
            self._recorder.enabled = False
            log.warning("Out of memory: going on without a recorded CUDA graph, slower; the result is the same.")
            return
        if self.micro_batch == 1:
            low = "" if self._plan.gradient_checkpointing else "set memory to low or turn on gradient_checkpointing, "
            raise torch.OutOfMemoryError(
                f"Out of memory at {self._settings.resolution} px even with one sample at a time. To go on, {low}use a "
                "smaller resolution, or close other programs that use the GPU."
            )
        self.micro_batch = max(1, self.micro_batch // 2)
        log.warning("Out of memory: going on with micro-batches of %d; the result is the same.", self.micro_batch)
