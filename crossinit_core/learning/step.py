"""One step of learning on a model's device: gradient, update, and its numbers.

Nothing here waits for the device. A step is launched, and its numbers are read later; meanwhile the next step is
launched. A step whose numbers are not finite changes nothing, and neither do those after it until `load` is called, so
it does no harm to find that out late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..backbone import Backbone, FrozenModel, PredictionType
from ..gpu.graphs import Recorder
from ..models.clip_text import ends_of, pad, padding_row
from . import objective
from .batches import TrainingBatch
from .optimizers import make_optimizer
from .ranks import ProcessError, Ranks
from .settings import InversionSettings
from .state import RunState


@dataclass(frozen=True)
class StepNumbers:
    """What a step came to, on the CPU.

    `loss` is the diffusion loss and `distance` the mean distance from the start, both at the vectors that the step began
    with. `vectors` (K, d) float32 are those that it ended with, `optimizer` holds the optimizer's tensors, and `denoised`
    (1, 4, h, w) is the model's estimate of the latents of the batch's first sample. `finite_loss` and `finite` say
    whether the loss is a finite number, and whether every number is; if `finite` is False, nothing else counts.
    """

    loss: float
    distance: float
    finite_loss: bool
    finite: bool
    in_step: bool
    vectors: Tensor
    optimizer: dict[str, Tensor]
    denoised: Tensor


def check_optimizer(
    start: Tensor, settings: InversionSettings, widths: Sequence[int], step: int, state: dict[str, Tensor]
) -> None:
    """Raises ValueError if `state` cannot be what the optimizer of these settings keeps after `step` steps from `start`
    (K, d)."""
    optimizer = make_optimizer(torch.nn.Parameter(start.clone()), start, settings, widths)
    wanted = {key: tensor.shape for key, tensor in optimizer.state.items()}
    if {key: tensor.shape for key, tensor in state.items()} != wanted:
        raise ValueError("the tensors of its optimizer are not those of this run")
    if not all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in state.values()):
        raise ValueError("its optimizer holds values that are not finite float32 numbers")
    optimizer.restore(step, state)


class Step:
    """The learned vectors and their optimizer on a model's device."""

    def __init__(
        self,
        backbone: Backbone,
        model: FrozenModel,
        start: Tensor,
        settings: InversionSettings,
        recorder: Recorder | None,
        micro_batch_size: int,
        ranks: Ranks,
    ) -> None:
        """Without a `recorder` everything is run as it comes."""
        self._model, self._settings, self._ranks = model, settings, ranks
        self.recorder, self.micro_batch_size = recorder, micro_batch_size
        self._vocabulary_size = backbone.vocabulary_size
        self._prediction_type: PredictionType = backbone.prediction_type
        device = model.device
        self._widths, self._eos = backbone.widths, backbone.eos
        # One encoder alone finds its own padding in the prompts.
        self._padding: Tensor | None = None
        if len(backbone.widths) > 1:
            self._padding = padding_row(model.embed, backbone.widths, backbone.pads, device)
        self._abar = backbone.alphas_cumprod().to(device)
        self._start = start.to(device)
        self._v = torch.nn.Parameter(self._start.clone())
        self._v.grad = self._gradient = torch.zeros_like(self._v)
        self._optimizer = make_optimizer(self._v, self._start, settings, backbone.widths)
        self._scale = torch.ones((), device=device)
        self._loss = torch.zeros((), device=device)
        self._stopped = torch.zeros((), device=device, dtype=torch.bool)
        self._in_step = torch.ones((), device=device, dtype=torch.bool)
        self._denoised = torch.zeros(0, device=device)
        self._numbers = torch.zeros(0, device=device)
        """The numbers of a step in a row, so that they are fetched as one."""

    @torch.no_grad()
    def load(self, state: RunState) -> None:
        """Go on from `state`, whatever was launched since."""
        self._v.copy_(state.vectors)
        self._optimizer.restore(state.step, state.optimizer)
        self._scale.fill_(state.loss_scale)
        self._stopped.zero_()
        self._begin()

    def launch(self, batch: TrainingBatch, number: int) -> Callable[[], StepNumbers]:
        """Queue the step of this number over a batch, `micro_batch_size` samples at a time; returns a function that waits for
        its numbers."""
        self._make_room_for_numbers(batch.latents[:1].shape)
        # The last part first, so that what stays of the estimates is that of the batch's first sample.
        for part in reversed(self._ranks.pieces(batch, self.micro_batch_size)):
            self._run(
                f"gradient of 1 in {len(batch)}",
                partial(self._add_gradient, 1 / len(batch)),
                [self._gradient, self._loss, self._denoised],
                *part.tensors(),
            )
        if self._ranks.count > 1:
            self._update_by_all(number)
            return self._fetch()
        changed = [self._v, *self._optimizer.state.values(), *self._optimizer.counters]
        self._run("update", self._update, [*changed, self._stopped, self._gradient, self._loss, self._numbers])
        return self._fetch()

    def _update_by_all(self, number: int) -> None:
        """The update by the gradients of all processes.

        It is not recorded, which may need memory that is not there: nobody can do it a second time, since to add up the
        numbers takes everybody.
        """
        place = torch.stack([self._scale, torch.full_like(self._scale, number)])
        sum_of_places = place.clone()
        self._ranks.add_up(self._gradient, self._loss, sum_of_places)
        self._in_step.copy_((sum_of_places == place * self._ranks.count).all())
        try:
            self._update()
        except RuntimeError as error:
            raise ProcessError(f"Step {number} failed after its numbers were added up: {error}") from error

    def forget(self) -> None:
        """Drop what an error left behind of a step."""
        if self.recorder:
            self.recorder.clear()
        with torch.no_grad():
            self._begin()

    def _run(
        self, name: str, function: Callable[..., object], results: Sequence[Tensor], *inputs: Tensor | None
    ) -> None:
        """`function(*inputs)` on the device; after an exception the `results` are as they were before."""
        if self.recorder:
            self.recorder(name, function, results, *inputs)
            return
        before = [result.detach().clone() for result in results]
        try:
            function(*(None if tensor is None else tensor.to(self._v.device) for tensor in inputs))
        except BaseException:
            with torch.no_grad():
                for result, value in zip(results, before, strict=True):
                    result.copy_(value)
            raise

    def _add_gradient(
        self,
        share: float,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        prompt_token_ids: Tensor,
        mask: Tensor | None,
        sizes: Tensor | None,
    ) -> None:
        """Add the gradient of the diffusion loss of some samples; each counts `share`."""
        vectors = self._leaf()
        abar = self._abar[timesteps]
        noisy = objective.add_noise(latents, noise, abar)
        target = objective.prediction_target(latents, noise, abar, self._prediction_type)
        ends = ends_of(prompt_token_ids, self._eos)
        embedded = self._model.embed(prompt_token_ids.clamp_max(self._vocabulary_size - 1))
        if self._padding is not None:
            embedded = pad(embedded, ends, self._padding)
        embedded = objective.splice(vectors, embedded, prompt_token_ids, self._vocabulary_size)
        prediction = self._model.predict(noisy, timesteps, self._model.encode(embedded, ends), sizes)
        loss = objective.diffusion_loss(prediction, target, mask).sum() * share
        (gradient,) = torch.autograd.grad(loss * self._scale, vectors)
        with torch.no_grad():
            self._gradient += gradient
            self._loss += loss
            self._denoised.copy_(
                objective.denoised(noisy[:1], prediction[:1].detach(), abar[:1], self._prediction_type)
            )

    def _update(self) -> None:
        """Add the regularizer's gradient, and let the optimizer change the vectors, unless a number is not finite."""
        vectors = self._leaf()
        distance = objective.distance(vectors, self._start)
        pull = None
        if self._settings.method == "published":
            regularizer = distance
            if self._settings.regularizer == "squared":
                regularizer = objective.squared_distance(vectors, self._start, self._widths)
            (pull,) = torch.autograd.grad(self._settings.regularization * regularizer, vectors)
        changed = [self._v, *self._optimizer.state.values(), *self._optimizer.counters]
        with torch.no_grad():
            self._gradient.div_(self._scale)
            if pull is not None:
                self._gradient.add_(pull)
            before = [tensor.clone() for tensor in changed]
            finite_loss = self._loss.isfinite()
            finite = finite_loss & self._gradient.isfinite().all() & self._in_step & ~self._stopped
        self._optimizer.update()
        with torch.no_grad():
            finite &= self._v.isfinite().all()
            for tensor, old in zip(changed, before, strict=True):
                tensor.copy_(torch.where(finite.to(tensor.device), tensor, old))
            self._stopped.copy_(~finite)
            numbers = [self._loss, distance, finite_loss, finite, self._in_step, *self._reported()]
            self._numbers.copy_(torch.cat([number.reshape(-1).float() for number in numbers]))
            self._begin()

    def _begin(self) -> None:
        self._gradient.zero_()
        self._loss.zero_()

    def _leaf(self) -> Tensor:
        """The vectors as a leaf of the current stream: autograd goes back to the stream that a leaf was first used on,
        which a recording must not."""
        return self._v.detach().requires_grad_()

    def _reported(self) -> list[Tensor]:
        return [self._v, *self._optimizer.state.values(), self._denoised]

    def _make_room_for_numbers(self, sample: torch.Size) -> None:
        if self._denoised.shape != sample:
            self._denoised = torch.zeros(sample, device=self._v.device)
            self._numbers = torch.zeros(5 + sum(part.numel() for part in self._reported()), device=self._v.device)

    def _fetch(self) -> Callable[[], StepNumbers]:
        """Start to copy the numbers to the CPU; the function waits until they are there."""
        shapes, keys = [part.shape for part in self._reported()], tuple(self._optimizer.state)
        if self._v.device.type != "cuda":
            return partial(_read, self._numbers.to("cpu", copy=True), shapes, keys)
        numbers = torch.empty(self._numbers.shape, pin_memory=True).copy_(self._numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return partial(_read, numbers, shapes, keys, partial(self._wait, arrived))

    def _wait(self, arrived: torch.cuda.Event) -> None:
        self._ranks.wait(arrived.query)
        arrived.synchronize()


def _read(
    numbers: Tensor, shapes: list[torch.Size], keys: tuple[str, ...], wait: Callable[[], None] | None = None
) -> StepNumbers:
    if wait is not None:
        wait()
    loss, distance, finite_loss, finite, in_step = numbers[:5].tolist()
    parts = numbers[5:].split([shape.numel() for shape in shapes])
    vectors, *optimizer, denoised = (part.view(shape).clone() for part, shape in zip(parts, shapes, strict=True))
    return StepNumbers(
        loss,
        distance,
        bool(finite_loss),
        bool(finite),
        bool(in_step),
        vectors,
        dict(zip(keys, optimizer, strict=True)),
        denoised,
    )
