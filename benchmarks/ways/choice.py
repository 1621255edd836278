"""Which way is chosen: the rule was written down before anything was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..paper_claims.statistics import Numbers
from .plan import ALWAYS, WAYS

RULE = (
    "For each number of steps, the way whose score in the world where it does worst is the best. The score of a world is the mean "
    "over its people of the harmonic mean of likeness and editability, on scales on which repainted pictures have 1, and of "
    "likeness somebody else has 0."
)


@dataclass(frozen=True)
class Trial:
    """What a way came to after some steps: its score in each world, and the worst of them."""

    way: str
    steps: int
    scores: Mapping[str, float]

    @property
    def worst(self) -> float:
        return min(self.scores.values())


def trials(worlds: Mapping[str, Numbers], steps: int) -> list[Trial]:
    """Every way that was measured in all worlds after so many steps, the best one first."""
    found = []
    for way in WAYS:
        config = f"{way}-{steps}"
        if all(config in numbers for numbers in worlds.values()):
            scores = {name: float(np.mean(list(numbers.score(config).values()))) for name, numbers in worlds.items()}
            found.append(Trial(way, steps, scores))
    return sorted(found, key=lambda trial: -trial.worst)


def chosen(worlds: Mapping[str, Numbers], steps: int) -> str:
    """The way that `RULE` chooses. Raises ValueError if nothing was measured in all worlds."""
    for trial in trials(worlds, steps):
        if trial.way not in ALWAYS:
            return trial.way
    raise ValueError(f"No way was measured after {steps} steps in all of the worlds {', '.join(worlds)}.")
