"""Optimizers of the learned vectors.

Another one implements `Optimizer` and is named in `make_optimizer`. Step, loop, resume files and recording know only
what the protocol says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .settings import InversionSettings


class Optimizer(Protocol):
    """Changes vectors (K, d) by their gradient."""

    state: dict[str, Tensor]
    """What a resume file keeps of it: tensors (K, d) float32 on the vectors' device, zero before the first step. An update
    changes them in place."""
    counters: tuple[Tensor, ...]
    """What an update changes in place beside the vectors and `state`; it follows from the number of steps."""

    def restore(self, step: int, state: dict[str, Tensor]) -> None:
        """Go on after `step` steps, with the `state` that there was then; it is empty before the first one.

        Raises ValueError for values that it cannot have come to.
        """
        ...

    def update(self) -> None:
        """Change the vectors by their `.grad`. A recorded step does it as well: nothing here waits for the device."""
        ...


def make_optimizer(
    vectors: nn.Parameter, start: Tensor, settings: InversionSettings, widths: Sequence[int]
) -> Optimizer:
    """The optimizer that the settings ask for. `start` (K, d) is where the vectors started, on their device; `widths` are
    those of the text encoders."""
    if settings.method == "direction":
        return Direction(vectors, start, Rate(settings), settings.prior, widths)
    return AdamW(vectors, Rate(settings), settings.weight_decay)


class Rate:
    """The learning rate of each step: `settings.schedule`."""

    def __init__(self, settings: InversionSettings) -> None:
        self.first, self._steps = settings.learning_rate, settings.steps
        self.constant = settings.schedule == "constant"

    def after(self, step: Tensor) -> Tensor:
        """() float32: the rate of the step that follows `step` steps, a () tensor; the device is not waited for."""
        return self.first * (1 - step.float() / self._steps).clamp(min=0)


class AdamW:
    """The published optimizer (Loshchilov and Hutter, 2019): torch's own, with betas 0.9 and 0.999 and eps 1e-8."""

    def __init__(self, vectors: nn.Parameter, rate: Rate, weight_decay: float) -> None:
        on_gpu = vectors.device.type == "cuda"
        self._rate = rate
        self._falling = None if rate.constant else torch.full((), rate.first, device=vectors.device)
        self._adamw = torch.optim.AdamW(
            [vectors],
            lr=rate.first if self._falling is None else self._falling,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=weight_decay,
            **({"capturable": True, "fused": True} if on_gpu else {}),
        )
        self.state = {key: torch.zeros_like(vectors) for key in ("exp_avg", "exp_avg_sq")}
        count = torch.zeros((), device=vectors.device if on_gpu else "cpu")
        self.counters: tuple[Tensor, ...] = (count,)
        self._adamw.state[vectors] = {"step": count, **self.state}

    @torch.no_grad()
    def restore(self, step: int, state: dict[str, Tensor]) -> None:
        if state and bool((state["exp_avg_sq"] < 0).any()):
            raise ValueError("the optimizer's mean of squares is negative somewhere")
        for key, moment in self.state.items():
            moment.copy_(state[key]) if state else moment.zero_()
        self.counters[0].fill_(step)

    @torch.no_grad()
    def update(self) -> None:
        if self._falling is not None:
            self._falling.copy_(self._rate.after(self.counters[0]))
        self._adamw.step()


class Direction:
    """Riemannian descent with normalized gradients on each text encoder's sphere; the norm m* of `start` stays.

    u = v / m*, mu is its start; g = dL/du - kappa mu without its part along u, divided by |g| + 1e-8; then
    u <- (u - eta g) / |u - eta g|. Source: Kim et al., "Directional Textual Inversion", ICLR 2026 (arXiv 2512.13672).
    """

    def __init__(self, vectors: nn.Parameter, start: Tensor, rate: Rate, prior: float, widths: Sequence[int]) -> None:
        self.state: dict[str, Tensor] = {}
        self.counters: tuple[Tensor, ...] = () if rate.constant else (torch.zeros((), device=vectors.device),)
        self._vectors, self._rate, self._prior, self._widths = vectors, rate, prior, list(widths)
        parts = start.split(self._widths, dim=1)
        self._norms = [part.norm(dim=1, keepdim=True) for part in parts]
        self._means = [part / norm for part, norm in zip(parts, self._norms, strict=True)]

    def restore(self, step: int, state: dict[str, Tensor]) -> None:
        """Beside the vectors, all that it goes on from is the number of steps."""
        for count in self.counters:
            count.fill_(step)

    @torch.no_grad()
    def update(self) -> None:
        assert self._vectors.grad is not None
        rate: Tensor | float = self._rate.first
        for count in self.counters:
            rate = self._rate.after(count)
            count += 1
        parts = zip(
            *(tensor.split(self._widths, dim=1) for tensor in (self._vectors, self._vectors.grad)),
            self._norms,
            self._means,
            strict=True,
        )
        self._vectors.copy_(torch.cat([self._moved(rate, *part) for part in parts], dim=1))

    def _moved(self, rate: Tensor | float, v: Tensor, gradient: Tensor, norm: Tensor, mean: Tensor) -> Tensor:
        """The columns (K, w) of one encoder after a step."""
        u = v / v.norm(dim=1, keepdim=True)
        g = norm * gradient - self._prior * mean
        g = g - (g * u).sum(dim=1, keepdim=True) * u
        u = u - rate * g / (g.norm(dim=1, keepdim=True) + 1e-8)
        return norm * u / u.norm(dim=1, keepdim=True)


def start_of_direction(start: Tensor, norms: Sequence[float], widths: Sequence[int]) -> Tensor:
    """`start` (K, d) with the columns of each text encoder at its norm m*, the mean of its token table's.

    Raises ValueError for a vector of zeros, which has no direction.
    """
    parts = start.split(list(widths), dim=1)
    if any(not bool((part.norm(dim=1) > 0).all()) for part in parts):
        raise ValueError("A vector of the initialization is zero for a text encoder: it has no direction to learn.")
    return torch.cat([norm * F.normalize(part, dim=1) for part, norm in zip(parts, norms, strict=True)], dim=1)
