"""How pictures are made, in numbers that are checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..text import quoted

LAYOUTS = ("flat", "published", "celeb-basis")
"""Where pictures lie: all side by side; in a folder for each prompt, as the published test_cross_init.py puts them; or as the
evaluation of Celeb Basis looks for them."""
SIZES = (64, 4096)
_MOST_STEPS = 1000
_MOST_AT_ONCE = 256


@dataclass(frozen=True)
class Sampling:
    """How pictures are made; the defaults are the published ones. `resolution` None is the model's own, `batch_size` the number
    of pictures that are made at once."""

    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    count: int = 1
    resolution: int | None = None
    batch_size: int = 1

    def check(self) -> None:
        """Raises ValueError for a number that no picture can be made with."""
        if min(self.steps, self.count) < 1 or not 0 <= self.seed < 2**63:
            raise ValueError("--steps and --count must be at least 1, and --seed from 0 to 2^63 - 1.")
        if self.seed + self.count > 2**63:
            raise ValueError("--seed and --count together go beyond 2^63 - 1, the last seed. Use smaller ones.")
        if self.steps > _MOST_STEPS:
            raise ValueError(
                f"--steps is {quoted(self.steps, 60)}, but the noise schedule has {_MOST_STEPS} steps. 50 is usual."
            )
        if not 1 <= self.batch_size <= _MOST_AT_ONCE:
            raise ValueError(
                f"--batch-size is {quoted(self.batch_size, 60)}, but must be from 1 to {_MOST_AT_ONCE}: the pictures that are "
                "made at once."
            )
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= 1000):
            raise ValueError(f"--guidance is {self.guidance}, but a number from 0 to 1000 is expected. 7.5 is usual.")
        size, (low, high) = self.resolution, SIZES
        if size is not None and (not low <= size <= high or size % 8):
            raise ValueError(
                f"--resolution is {quoted(size, 60)}, but a multiple of 8 from {low} to {high} is expected, in pixels. Use 512 "
                "or 768, and 1024 on SDXL."
            )
