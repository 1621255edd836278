"""Optimizers of the learned vectors.

Another one implements `Optimizer` and is named in `make_optimizer`. Step, loop, resume files and recording know only
what the protocol says.
"""

from __future__ import annotations

from typing import Protocol

import torch
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


def make_optimizer(vectors: nn.Parameter, settings: InversionSettings) -> Optimizer:
    """The optimizer that the settings ask for."""
    return AdamW(vectors, settings.learning_rate, settings.weight_decay)


class AdamW:
    """The published optimizer (Loshchilov and Hutter, 2019): torch's own, with betas 0.9 and 0.999 and eps 1e-8."""

    def __init__(self, vectors: nn.Parameter, learning_rate: float, weight_decay: float) -> None:
        on_gpu = vectors.device.type == "cuda"
        self._adamw = torch.optim.AdamW(
            [vectors],
            lr=learning_rate,
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

    def update(self) -> None:
        self._adamw.step()
