"""Means over people, their uncertainty, and paired differences, from a summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .results import HEADLINE, JUDGED, Summary

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over n people with its standard error and the 95 % interval of the bootstrap over people (percentiles)."""

    mean: float
    error: float
    low: float
    high: float
    count: int

    def plus_minus(self, digits: int = 3) -> str:
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f}"

    def interval(self, digits: int = 3, sign: bool = False) -> str:
        form = f"{'+' if sign else ''}.{digits}f"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


def estimate(values: NDArray[np.float64]) -> Estimate:
    """The mean of one value a person. With fewer than two people nothing is known about its uncertainty (NaN)."""
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    if count < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), count)
    rng = np.random.Generator(np.random.PCG64(0))
    means = values[rng.integers(count, size=(RESAMPLES, count))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(values.std(ddof=1) / np.sqrt(count)), float(low), float(high), count)


class Numbers:
    """A summary as arrays; every answer is about the headline judge unless another is asked for."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    def __contains__(self, config: str) -> bool:
        return config in self.summary["configs"]

    def column(self, config: str, name: str, judge: int = HEADLINE) -> dict[int, float]:
        """A quantity for each person; people whose seconds are not known are left out.

        config: a run's name and steps, such as `plain-320`, or `reference` or `named`.
        """
        apart = config in ("reference", "named")
        found = self.summary.get(config) if apart else self.summary["configs"].get(config)
        if not found:
            return {}
        judged = name in JUDGED or name == "floor"
        values = found["judges"][judge][name] if judged else found[name]
        return {i: value for i, value in zip(found["identities"], values, strict=True) if value is not None}

    def mean(self, config: str, name: str, judge: int = HEADLINE) -> Estimate:
        return estimate(np.array(list(self.column(config, name, judge).values())))

    def difference(self, first: str, second: str, name: str, judge: int = HEADLINE) -> Estimate:
        """first - second, person by person, over those who have both."""
        a, b = self.column(first, name, judge), self.column(second, name, judge)
        return estimate(np.array([a[i] - b[i] for i in a if i in b]))

    def score(self, config: str, judge: int = HEADLINE) -> dict[int, float]:
        """Likeness and editability in one number for each person: their harmonic mean, on scales on which the repainted
        pictures of all people together have 1, and of likeness a random other person has 0."""
        floor, top = (self.mean("reference", name, judge).mean for name in ("floor", "likeness"))
        full = self.mean("reference", "editability", judge).mean
        likeness, shown = (self.column(config, name, judge) for name in ("likeness", "editability"))
        scores = {}
        for i, value in likeness.items():
            a, b = max((value - floor) / (top - floor), 0.0), shown[i] / full
            scores[i] = 2 * a * b / (a + b) if a + b > 0 else 0.0
        return scores
