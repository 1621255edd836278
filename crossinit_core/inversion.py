"""Regularized inversion: learn K word vectors for the person on a photo.

Source: Pang et al., "Cross Initialization for Face Personalization of Text-to-Image Models",
CVPR 2024 (arXiv 2312.15905), section 4.2.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from . import objective
from .backbone import Backbone, FrozenModel
from .draws import PhotoDraws, TrainingBatch, draws_from_batches, draws_from_photos
from .learned_token import LearnedToken, check_token_name
from .numerics import Determinism, LossScale, gradients_enabled, is_out_of_memory, release_memory
from .prompts import MAX_VECTORS
from .provenance import VERSION, provenance
from .resume import RunState, load_state, save_state
from .settings import InversionSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """What happened in a step.

    `step` counts from 1; `loss` is the diffusion loss and `regularization` the mean distance from the start before
    lambda, both at the vectors that the step began with; `vectors` (K, d) float32 on the CPU are those it ended
    with; `denoised` (1, 4, h, w) is the model's estimate of the latents of the step's first sample.
    """

    step: int
    steps: int
    loss: float
    regularization: float
    vectors: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class InversionResult:
    """A learned token and its course: `losses` and `distances` have one entry a step."""

    token: LearnedToken
    losses: list[float]
    distances: list[float]
    seconds: float
    resumed_from: int
    """The number of steps that came from a resume file."""


def invert(
    backbone: Backbone,
    v0: Tensor,
    settings: InversionSettings | None = None,
    *,
    images: Tensor | Sequence[Tensor] | None = None,
    masks: Tensor | Sequence[Tensor] | None = None,
    batches: Iterable[TrainingBatch] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
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
    exception of any kind (a cancel is one) writes the last complete step there before it goes on to the caller.
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
    with gradients_enabled(), Determinism() as determinism:
        start = _checked_start(v0, backbone.width)
        draws: Iterator[TrainingBatch]
        if images is None:
            draws, data = draws_from_batches(batches or (), backbone.vocabulary_size + len(start))
        else:
            draws, data = draws_from_photos(backbone, len(start), settings, images, masks)
        with backbone.training(
            precision=settings.precision, gradient_checkpointing=settings.gradient_checkpointing
        ) as model:
            fingerprint = _fingerprint(backbone, model, settings, start, data)
            folder = None if resume_folder is None else Path(resume_folder)
            resumed = load_state(folder, fingerprint, settings.steps, start.shape) if folder and resume else None
            run = _Run(backbone, model, start, settings, draws, resumed, determinism)
            saved = run.state.step
            try:
                while run.state.step < settings.steps:
                    report = run.step()
                    if folder and (report.step % settings.resume_every == 0 or report.step == settings.steps):
                        save_state(run.state, folder, fingerprint, settings.steps)
                        saved = report.step
                    if on_step:
                        on_step(report)
            except BaseException:
                if folder and run.state.step > saved:
                    path = save_state(run.state, folder, fingerprint, settings.steps)
                    log.info("Stopped after step %d; the next run continues from %s", run.state.step, path)
                raise
            state = run.state
            facts = provenance(backbone, model, settings, start, state)
    token = LearnedToken(state.vectors, name, backbone.base, {**facts, **(metadata or {})})
    seconds = time.perf_counter() - began
    return InversionResult(token, list(state.losses), list(state.distances), seconds, resumed.step if resumed else 0)


class _Run:
    """The loop's body and what it carries from step to step; `state` is always the last complete step."""

    def __init__(
        self,
        backbone: Backbone,
        model: FrozenModel,
        start: Tensor,
        settings: InversionSettings,
        draws: Iterator[TrainingBatch],
        resumed: RunState | None,
        determinism: Determinism,
    ) -> None:
        self._determinism = determinism
        self._model, self._settings, self._draws = model, settings, draws
        self._vocabulary_size, self._prediction_type = backbone.vocabulary_size, backbone.prediction_type
        self._abar = backbone.alphas_cumprod().to(model.device)
        self._start = start.to(model.device)
        self._v = torch.nn.Parameter(self._start.clone())
        self._optimizer = torch.optim.AdamW(
            [self._v],
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=settings.weight_decay,
        )
        self._micro_batch = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
        self._scale = LossScale(enabled=model.dtype == torch.float16)
        self.state = RunState(
            0,
            self._v.detach().clone(),
            {},
            self._draws_state(),
            loss_scale=self._scale.value,
            settings=asdict(settings),
        )
        if resumed:
            self._restore(resumed)

    def step(self) -> StepReport:
        """One optimizer step over one batch."""
        try:
            batch = next(self._draws).to(self._model.device)
        except StopIteration:
            raise ValueError(
                f"The batches ended after {self.state.step}, but {self._settings.steps} steps were asked for."
            ) from None
        if not len(batch):
            raise ValueError(f"Batch {self.state.step + 1} is empty, but a step needs at least one sample.")
        loss, distance, estimate = self._gradient(batch)
        self._optimizer.step()
        if not torch.isfinite(self._v.detach()).all() or not torch.isfinite(loss):
            raise FloatingPointError(
                f"Step {self.state.step + 1} gave numbers that are not finite in {_name_of(self._model.dtype)} "
                f"(loss {float(loss):.3g}). Set precision to fp32, or lower the learning rate."
            )
        adam = self._optimizer.state[self._v]
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            vectors=self._v.detach().clone(),
            optimizer={key: adam[key].clone() for key in ("exp_avg", "exp_avg_sq")},
            draws=self._draws_state(),
            loss_scale=self._scale.value,
            losses=(*self.state.losses, float(loss)),
            distances=(*self.state.distances, float(distance)),
        )
        return StepReport(
            step=self.state.step,
            steps=self._settings.steps,
            loss=self.state.losses[-1],
            regularization=self.state.distances[-1],
            vectors=self.state.vectors.cpu(),
            denoised=estimate,
        )

    def _gradient(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Put the gradient of the whole batch's objective into v: diffusion loss, distance, x0 estimate.

        Out of memory halves the micro-batch and starts the batch again, which changes nothing but rounding; a
        gradient that overflows float16 does the same with a smaller scale.
        """
        while True:
            too_much = False
            try:
                result = self._accumulate(batch)
            except RuntimeError as error:
                too_much = is_out_of_memory(error)
                if not too_much and not self._determinism.relax(error):
                    raise
                result = None
            if too_much:
                # Outside of the except clause, where the traceback no longer keeps the step's tensors alive.
                self._shrink()
            if result and self._scale.unscale_(self._v):
                return result

    def _accumulate(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._v.device)
        estimate = None
        for part in batch.split(self._micro_batch):
            abar = self._abar[part.timesteps]
            noisy = objective.add_noise(part.latents, part.noise, abar)
            target = objective.prediction_target(part.latents, part.noise, abar, self._prediction_type)
            embedded = self._model.embed(part.prompt_token_ids.clamp_max(self._vocabulary_size - 1))
            context = self._model.encode(
                objective.splice(self._v, embedded, part.prompt_token_ids, self._vocabulary_size)
            )
            prediction = self._model.predict(noisy, part.timesteps, context)
            loss = objective.diffusion_loss(prediction, target, part.mask).sum() / len(batch)
            (loss * self._scale.value).backward()
            total += loss.detach()
            if estimate is None:
                estimate = objective.denoised(noisy[:1], prediction[:1].detach(), abar[:1], self._prediction_type)
        distance = objective.distance(self._v, self._start)
        (self._settings.regularization * distance * self._scale.value).backward()
        assert estimate is not None
        return total, distance.detach(), estimate

    def _shrink(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        release_memory()
        if self._micro_batch == 1:
            raise torch.OutOfMemoryError(
                f"Out of memory at {self._settings.resolution} px even with one sample at a time. Turn on "
                "gradient_checkpointing, use a smaller resolution, or close other programs that use the GPU."
            )
        self._micro_batch = max(1, self._micro_batch // 2)
        log.warning("Out of memory: going on with micro-batches of %d; the result is the same.", self._micro_batch)

    def _draws_state(self) -> dict[str, Tensor]:
        return self._draws.state() if isinstance(self._draws, PhotoDraws) else {}

    def _restore(self, state: RunState) -> None:
        with torch.no_grad():
            self._v.copy_(state.vectors)
        if state.step:
            moments = {key: value.to(self._v.device) for key, value in state.optimizer.items()}
            self._optimizer.state[self._v] = {"step": torch.tensor(float(state.step)), **moments}
        if isinstance(self._draws, PhotoDraws):
            self._draws.load_state(state.draws)
        else:
            next(itertools.islice(self._draws, state.step - 1, state.step), None)
        self._scale.value = state.loss_scale
        self.state = replace(state, vectors=self._v.detach().clone(), settings=self.state.settings)
        log.info("Continuing after step %d of %d.", state.step, self._settings.steps)


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


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
