"""Regularized inversion: learn K word vectors for the person on a photo.

Source: Pang et al., "Cross Initialization for Face Personalization of Text-to-Image Models",
CVPR 2024 (arXiv 2312.15905), section 4.2.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..angles import mean_angle
from ..backbone import Backbone, FrozenModel
from ..errors import InputError
from ..families import shown_widths
from ..gpu.modes import Determinism, gradients_enabled, leave_it_to, old_objects_left_alone
from ..gpu.peak_memory import PeakMemory
from ..precision import precision_of, safer_precision
from ..prompts import MAX_VECTORS
from ..tokens.history import History
from ..tokens.learned_token import LearnedToken, check_token_name
from ..tokens.small_pictures import small_photos
from ..tokens.vocabulary import mean_norms, vocabulary_norms
from . import objective
from .batches import BatchSource, GivenBatches, RewindableBatches, TrainingBatch, batches_from_photos
from .memory import plan_memory
from .optimizers import start_of_direction
from .provenance import provenance
from .ranks import ALONE, ProcessError, Ranks
from .resume_files import ResumeFile, run_fingerprint
from .resume_format import Expected, decode, encode
from .settings import InversionSettings
from .state import Run, RunState
from .step import check_optimizer
from .steps import OverflowedError, StepReport, steps

__all__ = ["InversionResult", "StepReport", "invert"]

log = logging.getLogger(__name__)

OnStep = Callable[[StepReport], None]
Observer = Callable[[FrozenModel, StepReport], None]
"""Looks at the model between two steps. It may compute with it, without gradients and without torch's own random numbers."""
OnNote = Callable[[str], None]


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
    """The most bytes of the GPU's memory that were in use at once; 0 if that is not known."""
    notes: tuple[str, ...] = ()
    """What a person should know of this run, a sentence each: a resume file that could not be used or written."""

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
    on_step: OnStep | None = None,
    observe: Observer | None = None,
    resume_folder: str | Path | None = None,
    resume: bool = True,
    name: str = "learned-face",
    metadata: Mapping[str, str] | None = None,
    on_note: OnNote | None = None,
    ranks: Ranks = ALONE,
) -> InversionResult:
    """Learn vectors that start at `v0` (K, d), K = 1..8, from photos or from ready-made batches.

    images: (N, H, W, C) in 0..1, or a sequence of such batches of different sizes; see `images.as_rgb`.
    masks: (N, H, W) in 0..1 or a sequence of such batches; the loss counts only there where they are white.
    batches: at least `settings.steps` TrainingBatches instead of images.
    resume_folder: where resume files lie; a run with the same inputs continues from there, unless `resume` is off. An
    exception of any kind (a cancel is one) writes the last complete step there before it goes on to the caller, with a note
    on it that says so. A file there goes when nobody has used it for 30 days, never because of other runs. A folder that
    cannot be written and a file that cannot be used end no run: they are said in a note.
    observe: called after `on_step`, with the model that learns.
    metadata: strings to add to the token's.
    on_note: called with each of the result's `notes` as soon as it is known; a folder that cannot be written is told before
    the first step.
    ranks: the processes that learn this person, see there; each calls this with the same inputs, and gets the same vectors.

    Raises ValueError for a wrong input before any long work, FloatingPointError if the numbers overflow, and
    torch.OutOfMemoryError if even a single sample does not fit.
    """
    settings = settings or InversionSettings()
    settings.check()
    settings = settings.sized(backbone.resolution)
    check_token_name(name)
    if (images is None) == (batches is None):
        raise ValueError("Give either images or batches to learn from, not both and not none.")
    if ranks.count > settings.batch_size and images is not None:
        raise ValueError(
            f"{ranks.count} processes are to learn from batches of {settings.batch_size}, but each needs a sample at least. "
            f"Start {settings.batch_size} of them at most, or set batch_size to {ranks.count}."
        )
    began = time.perf_counter()
    quick = old_objects_left_alone()
    with quick, gradients_enabled(), leave_it_to(backbone.device), Determinism() as determinism, PeakMemory() as memory:
        start = _checked_start(v0, backbone.widths)
        if settings.method == "direction":
            start = start_of_direction(start, mean_norms(backbone), backbone.widths)
        start = ranks.of_first(start)
        notes: list[str] = []

        def tell(note: str) -> None:
            notes.append(note)
            log.warning("%s", note)
            if on_note:
                on_note(note)

        folder = None if resume_folder is None or ranks.number else Path(resume_folder)
        resume_file = ResumeFile(folder, settings, tell, read=resume)
        source: BatchSource
        if images is None:
            source = GivenBatches(
                batches or (),
                backbone.vocabulary_size + len(start),
                backbone.eos,
                sized=len(backbone.widths) > 1,
            )
            data = source.digest_of_first()
        else:
            source, data = batches_from_photos(backbone, len(start), settings, images, masks)
        again = RewindableBatches(source)
        state = RunState.first(start, again.state, settings)
        run = Run(settings, start, backbone.widths, again, state, settings.precision, determinism, memory, ranks)
        try:
            while not run.finished:  # a second time if the numbers want a safer precision, or less memory is to be used
                _learn_on_one_model(backbone, run, resume_file, data, on_step, observe)
        except BaseException as error:
            with contextlib.suppress(Exception):  # what a caller's `on_note` raises must not hide the error
                resume_file.keep(run.state, error)
            raise
    seconds = time.perf_counter() - began
    facts = {**run.facts, **(metadata or {})}
    token = LearnedToken(run.state.vectors, name, backbone.base, facts, _history(run, images, seconds), backbone.widths)
    result = InversionResult(
        token,
        list(run.state.losses),
        list(run.state.distances),
        seconds,
        run.resumed_from,
        memory.peak,
        tuple(notes),
    )
    log.info("%s: %s", name, result.summary())
    return result


def _learn_on_one_model(
    backbone: Backbone,
    run: Run,
    resume_file: ResumeFile,
    data: bytes,
    on_step: OnStep | None,
    observe: Observer | None,
) -> None:
    """Learn to the end, or until another model has to take over, of the precision and memory mode that `run` then names.

    A function of its own, so that nothing of a model is left when the next one is made.
    """
    samples = run.ranks.part_of(run.settings.batch_size)
    plan = plan_memory(backbone, replace(run.settings, precision=run.precision, batch_size=samples))
    with backbone.training(precision=run.precision, gradient_checkpointing=plan.gradient_checkpointing) as model:
        if not resume_file.fingerprint:  # the first model
            fingerprint = run_fingerprint(backbone, model, run.settings, run.start, data)
            expected = Expected(
                fingerprint,
                run.start.shape,
                run.settings.steps,
                precision_of(model.dtype),
                partial(check_optimizer, run.start, run.settings, backbone.widths),
                run.batches.check,
            )
            found = resume_file.find(expected, run.batches)
            run.state = _found_by_first(run, found, expected) or run.state
            run.resumed_from = run.state.step
        if run.state.step and run.state.precision and run.state.precision != precision_of(model.dtype):
            run.precision = run.state.precision  # as the run that is continued had found out
            return
        try:
            for report in steps(backbone, model, run, plan):
                resume_file.write_if_due(run.state)
                if on_step:
                    on_step(report)
                if observe:
                    observe(model, report)
        except torch.OutOfMemoryError:
            if plan.gradient_checkpointing or run.settings.memory != "auto":
                raise
            log.warning("Out of memory even with one sample at a time: going on in low-memory mode.")
            run.settings = replace(run.settings, memory="low")
            return
        except OverflowedError as overflow:
            safer = safer_precision(model.dtype, model.device)
            if safer is None:
                raise FloatingPointError(f"{overflow} {_advice(run.state)}") from None
            log.warning("%s Going on in %s.", str(overflow), safer)  # not the exception, which holds the model
            run.state, run.precision = replace(run.state, precision=""), safer
            return
        run.vocabulary_norms = vocabulary_norms(model, backbone.vocabulary_size, backbone.widths)
        run.facts = provenance(backbone, model, run.settings, run.start, run.state)


def _found_by_first(run: Run, found: RunState | None, expected: Expected) -> RunState | None:
    """The state that the first process found, which alone looks, and the batches at its place."""
    if run.ranks.count == 1:
        return found

    def say() -> bytes:
        return expected.fingerprint.encode() + (encode(found, expected.fingerprint) if found else b"")

    said = run.ranks.from_first(say)
    if run.ranks.number == 0:
        return found
    mine = expected.fingerprint.encode()
    if said[: len(mine)] != mine:
        raise ProcessError(
            f"Process {run.ranks.number + 1} of {run.ranks.count} has another model, other photos or other settings than the "
            "first one. Give all of them the same files."
        )
    if len(said) == len(mine):
        return None
    found = decode(said[len(mine) :], expected)
    run.batches.skip_to(found.step, found.batches)
    return found


def _advice(state: RunState) -> str:
    """What to do about numbers that overflow in every precision."""
    if state.step:
        return "Lower the learning rate."
    return (
        "Nothing was learned before it, so they come from the model: use another one, or this one without LoRAs and other "
        "changes."
    )


def _history(run: Run, images: Tensor | Sequence[Tensor] | None, seconds: float) -> History:
    state = run.state
    unknown = (math.nan,) * (len(state.losses) - len(state.angles))  # a resume file of an older version has no angles
    return History(
        losses=state.losses,
        distances=(*state.distances, float(objective.distance(state.vectors, run.start))),
        angles=(*unknown, *state.angles, mean_angle(state.vectors, run.start, run.widths)),
        vocabulary_norms=run.vocabulary_norms,
        photos=() if images is None else small_photos(images),
        resumed_from=run.resumed_from,
        seconds=seconds,
    )


def _checked_start(v0: Tensor, widths: tuple[int, ...]) -> Tensor:
    if not isinstance(v0, Tensor) or v0.ndim != 2 or not 1 <= len(v0) <= MAX_VECTORS:
        shape = tuple(v0.shape) if isinstance(v0, Tensor) else type(v0).__name__
        raise InputError(
            f"The initialization must be 1 to {MAX_VECTORS} vectors of shape (K, d), but is {shape}.", "start"
        )
    if v0.shape[1] != sum(widths):
        encoders = "text encoder has" if len(widths) == 1 else "text encoders have"
        raise InputError(
            f"The initialization has width {v0.shape[1]}, but this model's {encoders} width {shown_widths(widths)}. "
            "Compute it with the same model.",
            "start",
        )
    start = v0.detach().to("cpu", torch.float32).clone()
    if not torch.isfinite(start).all():
        raise InputError("The initialization holds values that are not numbers (NaN or infinite).", "start")
    return start
