"""Handing out people to workers as these become free, and replacing workers that die."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

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


def hand_out(
    people: Iterable[Person],
    crew: Crew,
    on_end: Callable[[Person, Report], None],
    on_ready: Callable[[], None] = lambda: None,
    on_wait: Callable[[], None] = lambda: None,
    place_of: Callable[[Person], object] = lambda person: None,
) -> None:
    """Let the crew learn everybody; `on_end` gets each person once, `done` or `failed`. `on_ready` is called whenever a worker
    has loaded the model, and `on_wait` every few seconds. `place_of` says
    how far a person is, by anything that is another thing farther on.

    A worker that dies or breaks is replaced, and its person is given to the next free one, who goes on from the resume file.
    Raises RuntimeError if nobody can be learned at all; then, and if it is interrupted, all workers are ended.
    """
    waiting = deque(people)
    lost: Counter[tuple[str, str]] = Counter()
    places_left: dict[str, object] = {}
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
            on_wait()
            for worker, report in crew.news(PATIENCE):
                person = busy.pop(worker, None)
                if report.kind == "stop":
                    if person:
                        waiting.appendleft(person)
                    raise RuntimeError(report.text)
                if report.kind in ("dead", "broken"):
                    starting.discard(worker)
                    idle.discard(worker)
                    crew.dismiss(worker)
                    if person is None:
                        false_starts += 1
                        if false_starts >= MOST_FALSE_STARTS * max(1, crew.wanted()):
                            raise RuntimeError(f"{false_starts} workers in a row did not start: {report.text}")
                        continue
                    place = place_of(person)
                    if places_left.setdefault(person.name, place) != place:
                        lost.pop((person.name, "dead"), None)
                    places_left[person.name] = place
                    lost[person.name, report.kind] += 1
                    if lost[person.name, "dead"] < MOST_LOST and lost[person.name, "broken"] < MOST_BROKEN:
                        waiting.appendleft(person)
                        continue
                    report = Report("failed", f"{_lost(lost, person)} The last one: {report.text}", report.seconds)
                    _forget(lost, places_left, person)
                    on_end(person, report)
                    continue
                false_starts = 0
                starting.discard(worker)
                idle.add(worker)
                if person is None:
                    on_ready()
                else:
                    _forget(lost, places_left, person)
                    on_end(person, report)
    finally:
        crew.close()


def _lost(lost: Counter[tuple[str, str]], person: Person) -> str:
    dead, broken = lost[person.name, "dead"], lost[person.name, "broken"]
    return f"{dead + broken} workers were lost on this person."


def _forget(lost: Counter[tuple[str, str]], places_left: dict[str, object], person: Person) -> None:
    """Only people who are not finished are counted."""
    places_left.pop(person.name, None)
    for kind in ("dead", "broken"):
        lost.pop((person.name, kind), None)
