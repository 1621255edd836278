"""A run, and its state between two steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from torch import Tensor

from ..gpu.modes import Determinism
from ..gpu.peak_memory import PeakMemory
from ..precision import Precision
from .batches import RewindableBatches
from .ranks import ALONE, Ranks
from .settings import InversionSettings


@dataclass(frozen=True)
class RunState:
    """A run after `step` steps; a resume file holds one.

    `vectors` (K, d) float32 on the CPU. `losses`, `distances` and `angles` have one entry a step, at the vectors that it
    began with; `angles` may lack the first ones. `optimizer` holds the tensors of the optimizer, each (K, d), and is empty
    before the first step; `batches` is what the batches' `state()` gave after the last step's batch. `precision` is what
    the next step computes in, empty if that is not decided, and `loss_scale` what float16 multiplies the loss by.
    """

    step: int
    vectors: Tensor
    optimizer: dict[str, Tensor]
    batches: dict[str, Tensor]
    losses: tuple[float, ...] = ()
    distances: tuple[float, ...] = ()
    angles: tuple[float, ...] = ()
    precision: Precision | Literal[""] = ""
    loss_scale: float = 1.0
    settings: dict[str, object] = field(default_factory=dict)

    @classmethod
    def first(cls, start: Tensor, batches: dict[str, Tensor], settings: InversionSettings) -> RunState:
        """Before the first step."""
        return cls(0, start.clone(), {}, batches, settings=asdict(settings))


@dataclass
class Run:
    """A run from its start to its end, whatever models it needs: the one owner of what changes on the way.

    `settings` are those of the caller, but for a memory mode that turned out to be too large; `precision` is what the next
    model is asked for. `state` is that of the last step that was reported. `facts` for the token's metadata and the
    percentiles `vocabulary_norms` come from the model that did the last step.
    """

    settings: InversionSettings
    start: Tensor
    widths: tuple[int, ...]
    batches: RewindableBatches
    state: RunState
    precision: Precision
    determinism: Determinism
    memory: PeakMemory
    ranks: Ranks = ALONE
    resumed_from: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    vocabulary_norms: tuple[float, ...] = ()

    @property
    def finished(self) -> bool:
        return bool(self.facts)
