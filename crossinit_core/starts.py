"""Where each method of learning starts, from names or from words, and what a token's file says about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .backbone import Backbone
from .celebrity_names import CelebrityNames
from .choices import StartStates
from .initialization import celebrity_mean, cross_initialize, cross_initialize_words, lookup_words
from .tokens.metadata import INITIALIZATION, started_from_names, started_from_words

StartWay = Literal["cross initialization", "plain textual inversion"]
CROSS: StartWay = "cross initialization"
PLAIN: StartWay = "plain textual inversion"
ROWS = "token rows"


@dataclass(frozen=True, eq=False)
class Starts:
    """The start of a person's vectors: `vectors` (K, d) float32 on the CPU, and `rows` (K, d), the rows of the token table, or
    their means, that these were computed from; None if they are not known. `facts` say for the token's file where it began.
    """

    vectors: Tensor
    facts: dict[str, str] = field(default_factory=dict)
    rows: Tensor | None = None

    def of(self, method: str) -> tuple[Tensor, dict[str, str]]:
        """The start of a method (`learning.settings.Method`), and the facts about it.

        `direction` keeps the lengths of the token table's rows, and starts at rows, as published (Kim et al., ICLR 2026); the
        drawn worlds of docs/ways.md find that better than the direction of the text encoder's output. Any other starts at
        `vectors`.
        """
        if method != "direction" or self.rows is None:
            return self.vectors, self.facts
        began = self.facts.get(INITIALIZATION, "").rpartition(" from ")[2]
        return self.rows, {**self.facts, INITIALIZATION: f"{ROWS} from {began}"} if began else self.facts


def start_from_names(
    backbone: Backbone, names: CelebrityNames, vectors: int = 2, *, states: StartStates = "last", way: StartWay = CROSS
) -> Starts:
    """The average of names, sent through the text encoder unless the `way` is `PLAIN`. Raises as `cross_initialize`."""
    rows = celebrity_mean(backbone, names.names, vectors)
    v0 = rows if way == PLAIN else cross_initialize(backbone, names.names, vectors, states=states)
    return Starts(v0, started_from_names(_said(way, states, backbone), names), rows)


def start_from_words(
    backbone: Backbone, words: str, vectors: int | None = None, *, states: StartStates = "last", way: StartWay = CROSS
) -> Starts:
    """Words, sent through the text encoder unless the `way` is `PLAIN`. Raises as `cross_initialize_words`."""
    rows = lookup_words(backbone, words, vectors)
    v0 = rows if way == PLAIN else cross_initialize_words(backbone, words, vectors, states=states)
    return Starts(v0, started_from_words(_said(way, states, backbone), words), rows)


def _said(way: StartWay, states: StartStates, backbone: Backbone) -> str:
    """For the token's file; the layer only if it makes a difference."""
    other = way == CROSS and states == "context" and len(backbone.widths) > 1
    return f"{way} (what the UNet sees)" if other else way
