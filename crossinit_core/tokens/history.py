"""The course of a run, for reports: numbers of every step and a few small pictures.

A history travels with its token through a graph and is never written to the token's file.
"""

from __future__ import annotations

from dataclasses import dataclass

from .small_pictures import Picture


@dataclass(frozen=True, eq=False)
class History:
    """How a token was learned.

    `losses` has one entry a step, at the vectors that the step began with. `distances` (mean of |v - v0| over all columns) and
    `angles` (mean angle between v and v0 in degrees, over vectors and text encoders) have one more: entry s is that after s steps. `vocabulary_norms` are the
    101 percentiles of the norms of the token table's rows, with two text encoders 101 for each. `photos` are the first of those that were learned from.
    `previews` are what the model saw while it learned, `samples` pictures that were sampled for `sample_prompt`; both
    are empty if they were not asked for. `portrait` is a generated picture of the person at the end, as large as it was made. The first `resumed_from` steps came from a resume file, which keeps no pictures.
    """

    losses: tuple[float, ...]
    distances: tuple[float, ...]
    angles: tuple[float, ...]
    vocabulary_norms: tuple[float, ...] = ()
    photos: tuple[Picture, ...] = ()
    previews: tuple[Picture, ...] = ()
    samples: tuple[Picture, ...] = ()
    sample_prompt: str = ""
    resumed_from: int = 0
    seconds: float = 0.0
    portrait: Picture | None = None
