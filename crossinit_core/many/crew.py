"""Workers as the driver sees them, whoever runs them: this computer's processes, or Ray on many computers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..precision import Precision
from ..text import quoted
from .people import Person

LONGEST_REASON = 560
Kind = Literal["ready", "done", "failed", "broken", "dead", "stop"]


@dataclass(frozen=True)
class Order:
    """What a worker must know once. `threads` are those of a CPU; 0 leaves torch's own number."""

    model: Path
    out: Path
    device: str
    precision: Precision = "auto"
    threads: int = 0


@dataclass(frozen=True)
class Report:
    """How a task of a worker ended.

    `ready`: the model is loaded. `done`: a person is saved. `failed`: this person cannot be learned, others can. `broken`: the
    worker needs to be replaced, and the person can be tried again. `dead`: the worker is gone without a word. `stop`: nobody
    could be learned, as without a model or room on the disk. `text` is the reason, or a line about the person; `notes` are
    what the user should know of a person who was learned.
    """

    kind: Kind
    text: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def say_nothing() -> None:
    """In a worker: its notes go to the driver with each report, and would tear the line of progress apart."""
    logging.getLogger("crossinit_core").setLevel(logging.ERROR)


def cannot_start(error: Exception) -> Report:
    """Why a learner could not be made: `stop` if it would be the same for every worker."""
    if isinstance(error, (ValueError, FileNotFoundError, ImportError)):
        return Report("stop", quoted(" ".join(str(error).split()), LONGEST_REASON))
    return Report("broken", quoted(" ".join(f"{type(error).__name__}: {error}".split()), LONGEST_REASON))


class Learner(Protocol):
    """Lives in a worker, and holds the model."""

    def learn(self, person: Person) -> Report: ...


Make = Callable[[Order], Learner]
"""Makes a learner in a worker; a function or a class that can be imported there."""


class Crew(Protocol):
    """Workers by their numbers. Each has one task at a time; the first one, loading the model, begins when it is hired."""

    def wanted(self) -> int:
        """How many workers there is room for now."""
        ...

    def hire(self) -> int: ...

    def give(self, worker: int, person: Person) -> None:
        """A worker that is dead by now says so in `news`."""
        ...

    def news(self, seconds: float) -> Sequence[tuple[int, Report]]:
        """What has ended since; waits for it at most so long."""
        ...

    def dismiss(self, worker: int) -> None:
        """End a worker. One that learns stops after its present step, if it can, and leaves a resume file behind."""
        ...

    def close(self) -> None: ...
