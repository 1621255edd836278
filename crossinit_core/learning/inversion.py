"""Regularized inversion: learn K word vectors for the person on a photo.

Source: Pang et al., "Cross Initialization for Face Personalization of Text-to-Image Models",
CVPR 2024 (arXiv 2312.15905), section 4.2.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..angles import mean_angle
from ..backbone import Backbone, FrozenModel
from ..gpu.modes import Determinism, gradients_enabled, leave_it_to, old_objects_left_alone
from ..gpu.peak_memory import PeakMemory
from ..precision import Precision, precision_of, safer_precision
from ..prompts import MAX_VECTORS
from ..tokens.history import History
from ..tokens.learned_token import LearnedToken, check_token_name
from ..tokens.small_pictures import small_photos
from ..tokens.vocabulary import vocabulary_norms
from . import objective
from .batches import BatchDraws, Source, TrainingBatch, draws_from_photos
from .memory import MemoryPlan, plan_memory
from .provenance import VERSION, provenance
from .resume_files import load_state, save_state
from .settings import InversionSettings
from .state import RunState
from .steps import Draws, OverflowedError, Run, StepReport, first_state

__all__ = ["InversionResult", "StepReport", "invert"]

log = logging.getLogger(__name__)

Observer = Callable[[FrozenModel, StepReport], None]
"""Looks at the model between two steps. It may compute with it, without gradients and without torch's own random numbers."""


@dataclass(frozen=True)
class InversionResult:
    """A learned token and its course: `losses` and `distances` have one entry a step."""

    token: LearnedToken
    losses: list[float]
    distances: list[float]
    seconds: float
    resumed_from: int
    """The number of steps that came from a resume file."""
    peak_memory: int = 0
    """The most bytes of the GPU's memory that were in use at once; 0 where that is not known."""

    def summary(self) -> str:
        """One line: time, steps, loss, and on a GPU the memory."""
        steps = len(self.losses) - self.resumed_from
        if not steps:
            return f"already learned: these {len(self.losses)} steps came from the resume file"
        memory = f", at most {self.peak_memory / 2**30:.1f} GiB of video memory" if self.peak_memory else ""
        return f"learned in {self.seconds:.1f} s ({steps} steps), loss {self.losses[-1]:.4f}{memory}"


def invert(
    backbone: Backbone,
    v0: Tensor,
    settings: InversionSettings | None = None,
    *,
    images: Tensor | Sequence[Tensor] | None = None,
    masks: Tensor | Sequence[Tensor] | None = None,
    batches: Iterable[TrainingBatch] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    observe: Observer | None = None,
    resume_folder: str | Path | None = None,
    resume: bool = True,
    name: str = "learned-face",
    metadata: Mapping[str, str] | None = None,
) -> InversionResult:
    """Learn vectors that start at `v0` (K, d), K = 1..8, from photos or from ready-made draws.

    images: (N, H, W, C) in 0..1, or a sequence of such batches of different sizes; see `images.as_rgb`.
    masks: (N, H, W) in 0..1 or a sequence of such batches; the loss counts where they are white.
    batches: at least `settings.steps` TrainingBatches instead of images.
    resume_folder: where resume files lie; a run with the same inputs continues from there, unless `resume` is off. An
    exception of any kind (a cancel is one) writes the last complete step there before it goes on to the caller, with a note
    on it that says so.
    observe: called after `on_step`, with the model that learns.
    metadata: strings to add to the token's.

    Raises ValueError for a wrong input before any long work, FloatingPointError where the numbers overflow, and
    torch.OutOfMemoryError where even a single sample does not fit.
    """
    settings = settings or InversionSettings()
    settings.check()
    settings = settings.sized(backbone.resolution)
    check_token_name(name)
    if (images is None) == (batches is None):
        raise ValueError("Give either images or batches to learn from, not both and not none.")
    began = time.perf_counter()
    folder = None if resume_folder is None else Path(resume_folder)
    quick = old_objects_left_alone()
    with quick, gradients_enabled(), leave_it_to(backbone.device), Determinism() as determinism, PeakMemory() as memory:
        start = _checked_start(v0, backbone.width)
        source: Source
        if images is None:
            source = BatchDraws(batches or (), backbone.vocabulary_size + len(start))
            data = source.digest_of_first()
        else:
            source, data = draws_from_photos(backbone, len(start), settings, images, masks)
        task = _Task(
            backbone, settings, start, Draws(source), data, folder, resume, on_step, observe, determinism, memory
        )
        state, facts, norms = task.learn()
    seconds = time.perf_counter() - began
    history = History(
        losses=state.losses,
        distances=(*state.distances, float(objective.distance(state.vectors, start))),
        angles=_angles(state, start),
        vocabulary_norms=norms,
        photos=() if images is None else small_photos(images),
        resumed_from=task.resumed_from,
        seconds=seconds,
    )
    token = LearnedToken(state.vectors, name, backbone.base, {**facts, **(metadata or {})}, history)
    result = InversionResult(token, list(state.losses), list(state.distances), seconds, task.resumed_from, memory.peak)
    log.info("%s: %s", name, result.summary())
    return result


_NOT_BY_LEARNING = (
    "Nothing was learned before it, so they come from the model: load another checkpoint, or take LoRAs and other patches "
    "off this one."
)


class Learned(NamedTuple):
    """The state after the last step, what is to be said of it, and the norms of the vocabulary."""

    state: RunState
    facts: dict[str, str]
    norms: tuple[float, ...]


@dataclass
class _Task:
    """What `invert` was asked for, ready to be run in one precision after the other."""

    backbone: Backbone
    settings: InversionSettings
    start: Tensor
    draws: Draws
    data: bytes
    folder: Path | None
    resume: bool
    on_step: Callable[[StepReport], None] | None
    observe: Observer | None
    determinism: Determinism
    memory: PeakMemory
    resumed_from: int = 0
    saved: int = 0
    """Steps that a resume file holds."""
    state: RunState | None = None
    fingerprint: str = ""

    def learn(self) -> Learned:
        """Learn, in one precision after the other where that has to be."""
        precision = self.settings.precision
        try:
            while True:
                done = self._attempt(precision)
                if isinstance(done, Learned):
                    return done
                precision = done
        except BaseException as error:
            self._keep(error)
            raise

    def _keep(self, error: BaseException) -> None:
        """Save what an error would lose, and note on it where to go on; promise nothing where that could not be written."""
        step = self.state.step if self.state else 0
        if step > self.saved:
            self._save()
        if 0 < step == self.saved:
            note = f"Stopped after step {step}; the next run with the same inputs continues from {self.folder}"
            log.info(note)
            error.add_note(note)

    def _attempt(self, precision: Precision) -> Learned | Precision:
        """Learn in a precision; returns another precision where that is the one to go on in.

        A method of its own, so that nothing of a model is left when the next one is made.
        """
        plan = plan_memory(self.backbone, replace(self.settings, precision=precision))
        with self.backbone.training(precision=precision, gradient_checkpointing=plan.gradient_checkpointing) as model:
            state = self._state(model)
            if state.step and state.precision and state.precision != precision_of(model.dtype):
                return state.precision  # As the run that is continued had found out.
            try:
                self._run(model, state, plan)
            except torch.OutOfMemoryError:
                if plan.gradient_checkpointing or self.settings.memory != "auto":
                    raise
                self.settings = replace(self.settings, memory="low")
                log.warning("Out of memory even with one sample at a time: going on in low-memory mode.")
                return precision
            except OverflowedError as overflow:
                safer = safer_precision(model.dtype, model.device)
                if safer is None:
                    moved = self.state and self.state.step
                    advice = "Lower the learning rate." if moved else _NOT_BY_LEARNING
                    raise FloatingPointError(f"{overflow} {advice}") from None
                log.warning("%s Going on in %s.", str(overflow), safer)  # not the exception, which holds the model
                assert self.state
                self.state = replace(self.state, precision="")
                return safer
            assert self.state
            facts = provenance(self.backbone, model, self.settings, self.start, self.state)
            return Learned(self.state, facts, vocabulary_norms(model, self.backbone.vocabulary_size))

    def _state(self, model: FrozenModel) -> RunState:
        """Where to go on from: here, in a resume file, or at the start."""
        if self.state is None:
            self.fingerprint = _fingerprint(self.backbone, model, self.settings, self.start, self.data)
            found = None
            if self.folder and self.resume:
                found = load_state(self.folder, self.fingerprint, self.settings.steps, self.start.shape)
            if found and not self.draws.skip_to(found.step, found.draws):
                log.warning("There is a resume file of %d steps on other batches; this run starts anew.", found.step)
                found = None
            if found:
                log.info("Continuing after step %d of %d.", found.step, self.settings.steps)
                self.resumed_from = self.saved = found.step
            self.state = found or first_state(self.start, self.settings, self.draws)
        return self.state

    def _run(self, model: FrozenModel, state: RunState, plan: MemoryPlan) -> None:
        run = Run(
            self.backbone, model, self.start, self.settings, self.draws, state, plan, self.determinism, self.memory
        )
        try:
            for report in run:
                self.state = run.state
                if report.step == state.step + 1:
                    self.memory.look()
                if report.step % self.settings.resume_every == 0 or report.step == self.settings.steps:
                    self._save()
                if self.on_step:
                    self.on_step(report)
                if self.observe:
                    self.observe(model, report)
        finally:
            self.state = run.state

    def _save(self) -> None:
        assert self.state
        if self.folder and save_state(self.state, self.folder, self.fingerprint, self.settings.steps):
            self.saved = self.state.step


def _angles(state: RunState, start: Tensor) -> tuple[float, ...]:
    """After each number of steps; NaN where a resume file of an older version does not say."""
    unknown = (math.nan,) * (len(state.losses) - len(state.angles))
    return (*unknown, *state.angles, mean_angle(state.vectors, start))


def _checked_start(v0: Tensor, width: int) -> Tensor:
    if not isinstance(v0, Tensor) or v0.ndim != 2 or not 1 <= len(v0) <= MAX_VECTORS:
        shape = tuple(v0.shape) if isinstance(v0, Tensor) else type(v0).__name__
        raise ValueError(f"The initialization must be 1 to {MAX_VECTORS} vectors of shape (K, d), but is {shape}.")
    if v0.shape[1] != width:
        raise ValueError(
            f"The initialization has width {v0.shape[1]}, but this model's text encoder has width {width}. "
            "Compute it with the CLIP of the same checkpoint."
        )
    start = v0.detach().to("cpu", torch.float32).clone()
    if not torch.isfinite(start).all():
        raise ValueError("The initialization holds values that are not numbers (NaN or infinite).")
    return start


def _fingerprint(
    backbone: Backbone, model: FrozenModel, settings: InversionSettings, start: Tensor, data: bytes
) -> str:
    """Names a run by everything that decides its result."""
    facts = [VERSION, backbone.prediction_type, str(model.dtype), model.fingerprint(), settings.identity()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in (start.numpy().tobytes(), backbone.alphas_cumprod().numpy().tobytes(), data):
        digest.update(part)
    return digest.hexdigest()
