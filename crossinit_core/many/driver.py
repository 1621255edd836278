"""Handing out people to workers as these become free, and replacing workers that die."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from .crew import Crew, Report
from .people import Person

MOST_LOST = 5
"""Workers that may die over one person, none of whom got farther than the one before, until the person counts as failed. Machines
go away without anybody's fault."""
MOST_BROKEN = 2
"""The same for workers that had an error of their own. It may be the GPU's or this person's: a second worker tells."""
MOST_FALSE_STARTS = 3
"""So many workers for each that is wanted may die in a row before one of them is ready."""
PATIENCE = 5.0
"""Seconds after which it is looked whether there is room for more workers."""


class Watch(Protocol):
    """Who wants to know how the work goes."""

    def ended(self, person: Person, report: Report) -> None:
        """Called once for each person, who is `done` or `failed`."""

    def ready(self) -> None:
        """A worker has loaded the model."""

    def waiting(self) -> None:
        """Called every few seconds."""

    def place_of(self, person: Person) -> object:
        """How far a person is: anything that is another thing farther on."""


def hand_out(people: Iterable[Person], crew: Crew, watch: Watch) -> None:
    """Let the crew learn everybody.

    A worker that dies or breaks is replaced, and its person is given to the next free one, who goes on from the resume file.
    Raises RuntimeError if nobody can be learned at all; then, and if it is interrupted, all workers are ended.
    """
    waiting, losses = deque(people), _Losses(watch)
    busy: dict[int, Person] = {}
    starting: set[int] = set()
    idle: set[int] = set()
    false_starts = 0
    try:
        while waiting or busy:
            places = min(crew.wanted(), len(waiting) + len(busy))
            while len(starting) + len(idle) + len(busy) < places:
                starting.add(crew.hire())
            while waiting and idle:
                worker = idle.pop()
                busy[worker] = waiting.popleft()
                crew.give(worker, busy[worker])
            watch.waiting()
            for worker, report in crew.news(PATIENCE):
                person = busy.pop(worker, None)
                starting.discard(worker)
                idle.discard(worker)
                if report.kind == "stop":
                    raise RuntimeError(report.text)
                if report.kind not in ("dead", "broken"):
                    idle.add(worker)
                    false_starts = 0
                    if person is None:
                        watch.ready()
                    else:
                        losses.forget(person)
                        watch.ended(person, report)
                    continue
                crew.dismiss(worker)
                if person is None:
                    false_starts += 1
                    if false_starts >= MOST_FALSE_STARTS * max(1, crew.wanted()):
                        raise RuntimeError(f"{false_starts} workers in a row did not start: {report.text}")
                elif failure := losses.add(person, report):
                    watch.ended(person, failure)
                else:
                    waiting.appendleft(person)
    finally:
        crew.close()


class _Losses:
    """How many workers were lost on each person who is not finished."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._of: dict[str, tuple[int, int, object]] = {}

    def add(self, person: Person, report: Report) -> Report | None:
        """Count a worker; a failure if it was one too many."""
        place = self._watch.place_of(person)
        dead, broken, before = self._of.get(person.name, (0, 0, place))
        if before != place:
            dead = 0
        if report.kind == "dead":
            dead += 1
        else:
            broken += 1
        self._of[person.name] = (dead, broken, place)
        if dead < MOST_LOST and broken < MOST_BROKEN:
            return None
        self.forget(person)
        text = f"{dead + broken} workers were lost on this person. The last one: {report.text}"
        return Report("failed", text, report.seconds)

    def forget(self, person: Person) -> None:
        self._of.pop(person.name, None)
