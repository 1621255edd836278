"""A run, its state between two steps, and what a step came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..gpu.modes import Determinism
from ..gpu.peak_memory import PeakMemory
from ..precision import Precision
from ..tokens.history import mean_angle
from .batches import RewindableBatches
from .settings import InversionSettings

LOSS_SCALE = 2.0**16
"""Where float16 starts. A loss that is a mean over 100,000 latent values has gradients below float16's smallest number.
Source of the recipe: Micikevicius et al., "Mixed Precision Training", ICLR 2018."""


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
    vectors: Tensor
    optimizer: dict[str, Tensor]
    denoised: Tensor


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

    def computed_in(self, precision: Precision, dtype: torch.dtype) -> RunState:
        """This state for a model that computes in `precision`; the loss scale stays if that has not changed."""
        if self.precision == precision:
            return self
        return replace(self, precision=precision, loss_scale=LOSS_SCALE if dtype == torch.float16 else 1.0)

    def after(self, numbers: StepNumbers, batches: dict[str, Tensor], start: Tensor) -> RunState:
        """The state one step later."""
        return replace(
            self,
            step=self.step + 1,
            vectors=numbers.vectors,
            optimizer=numbers.optimizer,
            batches=batches,
            losses=(*self.losses, numbers.loss),
            distances=(*self.distances, numbers.distance),
            angles=(*self.angles, mean_angle(self.vectors, start)),
        )


@dataclass
class Run:
    """A run from its start to its end, whatever models it needs: the one owner of what changes on the way.

    `settings` are those of the caller, but for a memory mode that turned out to be too large; `precision` is what the next
    model is asked for. `state` is that of the last step that was reported. `facts` for the token's metadata and the
    percentiles `vocabulary_norms` come from the model that did the last step.
    """

    settings: InversionSettings
    start: Tensor
    batches: RewindableBatches
    state: RunState
    precision: Precision
    determinism: Determinism
    memory: PeakMemory
    resumed_from: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    vocabulary_norms: tuple[float, ...] = ()

    @property
    def finished(self) -> bool:
        return bool(self.facts)
