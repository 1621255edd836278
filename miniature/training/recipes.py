"""How the two drawn worlds are trained: what sets one apart from the other, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

ROW_NORM = 0.4
"""Token rows of the shipped miniature are kept at most this long: the mean length in the text encoders of Stable Diffusion."""


@dataclass(frozen=True)
class Recipe:
    """One way to train a world.

    `phases` are its phases in order, with the minutes of each, beside half a minute until the first pictures are there; of
    another length of the whole run, they are shares. `end` is for writing and judging. A recipe with the phase `contrast` trains its text encoder there, with pictures alone, and freezes
    it; without one the text encoder is trained together with the UNet.
    `virtual` is the share of people who are known by a linear map of their face, `unnamed` that of the others without a name,
    and `made_up` the number of names beside the bundled ones. `longest_row` is the norm that token rows are kept below, or
    None for no limit.
    """

    phases: Mapping[str, float]
    virtual: float
    unnamed: float
    made_up: int
    longest_row: float | None

    @property
    def contrast(self) -> bool:
        """Whether the text encoder is trained by contrast with pictures, as CLIP is."""
        return "contrast" in self.phases

    def with_minutes(self, minutes: Mapping[str, float]) -> Recipe:
        """The same with other minutes for some phases. Raises ValueError for a phase that it does not have."""
        unknown = [name for name in minutes if name not in self.phases]
        if unknown:
            raise ValueError(f"The phase '{unknown[0]}' is not one of this world, which has {', '.join(self.phases)}.")
        return replace(self, phases={**self.phases, **minutes})

    def ends(self, phase: str, began: float, minutes: float) -> float:
        """The minute at which a phase ends that began at minute `began` of a run of `minutes`."""
        names = list(self.phases)
        left = sum(self.phases[name] for name in names[names.index(phase) :])
        return began + (minutes - began) * self.phases[phase] / left


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # The shipped miniature: Stable Diffusion 2's architecture, and a text encoder that only ever served its UNet.
        "joint": Recipe(
            phases={"features": 0.25, "vae": 7.59, "judges": 2.2, "diffusion": 10.56, "end": 0.88},
            virtual=0.25,
            unnamed=0.1,
            made_up=0,
            longest_row=ROW_NORM,
        ),
        # Stable Diffusion's history: CLIP first (Radford et al., 2021), which is frozen, then the UNet on top of it.
        "contrast": Recipe(
            phases={"features": 0.5, "vae": 6.5, "judges": 2.0, "contrast": 5.5, "diffusion": 9.0, "end": 1.0},
            virtual=0.0,
            unnamed=0.2,
            made_up=4000,
            longest_row=None,
        ),
    }
)
