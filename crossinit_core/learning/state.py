"""A run between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..precision import Precision


@dataclass(frozen=True)
class RunState:
    """A run between two steps: `step` steps are done.

    `losses`, `distances` and `angles` have one entry a step, at the vectors that it began with; `angles` may lack the
    first ones. `optimizer` has AdamW's `exp_avg` and `exp_avg_sq` (K, d); `draws` is what the draws' state() gave; `precision` is
    what the next step computes in, and `loss_scale` that of float16.
    """

    step: int
    vectors: Tensor
    optimizer: dict[str, Tensor]
    draws: dict[str, Tensor]
    losses: tuple[float, ...] = ()
    distances: tuple[float, ...] = ()
    angles: tuple[float, ...] = ()
    precision: Precision | Literal[""] = ""
    loss_scale: float = 1.0
    settings: dict[str, object] = field(default_factory=dict)
