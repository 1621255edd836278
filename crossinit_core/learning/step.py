"""One optimizer step on the device: gradient, update, and what is known of it afterwards.

Nothing here waits for the device. A step is launched, and its `Outcome` is read when somebody asks for it; meanwhile
the next step is launched. A step whose numbers are not finite changes nothing, and neither do those after it, until
`resume` is called: so it can be found out late without harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backbone import Backbone, FrozenModel
from ..gpu.graphs import Recorder
from . import objective
from .batches import TrainingBatch
from .settings import InversionSettings
from .state import RunState

LOSS_SCALE = 2.0**16
"""Where float16 starts. A loss that is a mean over 100,000 latent values has gradients below float16's smallest number.
Source of the recipe: Micikevicius et al., "Mixed Precision Training", ICLR 2018."""


@dataclass(frozen=True)
class StepValues:
    """A step's numbers, on the CPU.

    `finite_loss` and `finite` say whether the loss and whether everything is a number; where `finite` is False nothing
    else counts.
    """

    loss: float
    distance: float
    finite_loss: bool
    finite: bool
    vectors: Tensor
    optimizer: dict[str, Tensor]
    denoised: Tensor


class Outcome:
    """What a launched step will have brought."""

    def __init__(self, report: Tensor, shapes: list[torch.Size], event: Any) -> None:
        self._report, self._shapes, self._event = report, shapes, event

    def wait(self) -> StepValues:
        if self._event is not None:
            self._event.synchronize()
        loss, distance, finite_loss, finite = self._report[:4].tolist()
        parts = self._report[4:].split([shape.numel() for shape in self._shapes])
        vectors, first, second, denoised = (
            part.view(shape).clone() for part, shape in zip(parts, self._shapes, strict=True)
        )
        moments = {"exp_avg": first, "exp_avg_sq": second}
        return StepValues(loss, distance, bool(finite_loss), bool(finite), vectors, moments, denoised)


class Step:
    """The learned vectors and their optimizer on a model's device."""

    def __init__(
        self, backbone: Backbone, model: FrozenModel, start: Tensor, settings: InversionSettings, recorder: Recorder
    ) -> None:
        self._model, self._settings, self._recorder = model, settings, recorder
        self._vocabulary_size, self._prediction_type = backbone.vocabulary_size, backbone.prediction_type
        device = model.device
        self._abar = backbone.alphas_cumprod().to(device)
        self._start = start.to(device)
        self._v = torch.nn.Parameter(self._start.clone())
        self._v.grad = torch.zeros_like(self._v)
        on_device = {"capturable": True, "fused": True} if device.type == "cuda" else {}
        self._optimizer = torch.optim.AdamW(
            [self._v],
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=settings.weight_decay,
            **on_device,
        )
        self._moments = {key: torch.zeros_like(self._start) for key in ("exp_avg", "exp_avg_sq")}
        self._count = torch.zeros((), device=device if on_device else "cpu")
        self._optimizer.state[self._v] = {"step": self._count, **self._moments}
        self._scale = torch.ones((), device=device)
        self._loss = torch.zeros((), device=device)
        self._stopped = torch.zeros((), device=device, dtype=torch.bool)
        self._estimate: Tensor | None = None
        self._report: Tensor | None = None

    @torch.no_grad()
    def load(self, state: RunState) -> None:
        """Go on where `state` was taken, after an error too."""
        self._v.copy_(state.vectors)
        for key, moment in self._moments.items():
            moment.copy_(state.optimizer[key]) if state.optimizer else moment.zero_()
        self._count.fill_(state.step)
        self._scale.fill_(state.loss_scale)
        self._stopped.zero_()
        self._begin()

    def launch(self, batch: TrainingBatch, micro_batch: int) -> Outcome:
        """Queue a step over a batch, `micro_batch` samples at a time."""
        assert self._v.grad is not None
        if self._estimate is None:
            shape = batch.latents[:1].shape
            self._estimate = torch.zeros(shape, device=self._v.device)
            size = 4 + 3 * self._v.numel() + self._estimate.numel()
            self._report = torch.zeros(size, device=self._v.device)
        assert self._report is not None
        # The last part first, so that what stays of the estimates is that of the batch's first sample.
        for part in reversed(list(batch.split(micro_batch))):
            self._recorder(
                f"gradient of 1 in {len(batch)}",
                partial(self._add_gradient, 1 / len(batch)),
                [self._v.grad, self._loss, self._estimate],
                part.latents,
                part.noise,
                part.timesteps,
                part.prompt_token_ids,
                part.mask,
            )
        state = [self._v, *self._moments.values(), self._count, self._stopped, self._v.grad, self._loss, self._report]
        self._recorder("update", self._update, state)
        return self._outcome()

    def forget(self) -> None:
        """Drop what an error left behind of a step."""
        self._recorder.clear()
        with torch.no_grad():
            self._begin()

    def _begin(self) -> None:
        assert self._v.grad is not None
        self._v.grad.zero_()
        self._loss.zero_()

    def _leaf(self) -> Tensor:
        """The vectors as a leaf of the current stream: autograd goes back to the stream that a leaf was first used on,
        which a recording must not."""
        return self._v.detach().requires_grad_()

    def _add_gradient(
        self,
        share: float,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        prompt_token_ids: Tensor,
        mask: Tensor | None,
    ) -> None:
        assert self._v.grad is not None and self._estimate is not None
        vectors = self._leaf()
        abar = self._abar[timesteps]
        noisy = objective.add_noise(latents, noise, abar)
        target = objective.prediction_target(latents, noise, abar, self._prediction_type)
        embedded = self._model.embed(prompt_token_ids.clamp_max(self._vocabulary_size - 1))
        context = self._model.encode(objective.splice(vectors, embedded, prompt_token_ids, self._vocabulary_size))
        prediction = self._model.predict(noisy, timesteps, context)
        loss = objective.diffusion_loss(prediction, target, mask).sum() * share
        (gradient,) = torch.autograd.grad(loss * self._scale, vectors)
        with torch.no_grad():
            self._v.grad += gradient
            self._loss += loss
            self._estimate.copy_(
                objective.denoised(noisy[:1], prediction[:1].detach(), abar[:1], self._prediction_type)
            )

    def _update(self) -> None:
        """AdamW's step, and the report; no step where a number is not finite."""
        assert self._v.grad is not None and self._estimate is not None and self._report is not None
        vectors = self._leaf()
        distance = objective.distance(vectors, self._start)
        (pull,) = torch.autograd.grad(self._settings.regularization * distance, vectors)
        with torch.no_grad():
            self._v.grad.div_(self._scale).add_(pull)
            kept = [self._v.clone(), *(moment.clone() for moment in self._moments.values()), self._count.clone()]
            finite_loss = self._loss.isfinite()
            finite = finite_loss & self._v.grad.isfinite().all() & ~self._stopped
        self._optimizer.step()
        with torch.no_grad():
            finite &= self._v.isfinite().all()
            for tensor, before in zip((self._v, *self._moments.values(), self._count), kept, strict=True):
                tensor.copy_(torch.where(finite.to(tensor.device), tensor, before))
            self._stopped.copy_(~finite)
            parts = [self._loss, distance, finite_loss, finite, self._v, *self._moments.values(), self._estimate]
            self._report.copy_(torch.cat([part.reshape(-1).float() for part in parts]))
            self._begin()

    def _outcome(self) -> Outcome:
        assert self._report is not None and self._estimate is not None
        shapes = [self._v.shape] * 3 + [self._estimate.shape]
        if self._v.device.type != "cuda":
            return Outcome(self._report.to("cpu", copy=True), shapes, None)
        report = torch.empty(self._report.shape, pin_memory=True).copy_(self._report, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Outcome(report, shapes, event)
