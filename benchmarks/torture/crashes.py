"""kill -9 of a learning process at random moments; the next run with the same inputs ends with the same bits."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from pathlib import Path

from .learner import STEPS, Child, Learner, learn_in_child, outcome, seconds_of
from .record import Record

SUFFIX = ".resume.safetensors"


def kill(learner: Learner, tries: int, folder: Path, seed: int) -> Record:
    """Half of the processes are killed at any moment, the others while they write a file."""
    record = Record(
        "kill -9",
        "A run that is killed goes on from a step that it had written, and its token has the bits of an undisturbed run.",
    )
    numbers = random.Random(seed)
    undisturbed = outcome(learner.learn(None))
    whole = seconds_of(lambda: learn_in_child(learner, None).end())
    kinds: Counter[str] = Counter()
    lost: Counter[int] = Counter()
    orphans = too_late = 0
    for number in itertools.count():
        if record.tries == tries:
            break
        place, every = folder / f"kill-{number}", numbers.choice((1, 1, 2, 5))
        place.mkdir()
        child = learn_in_child(learner, place, resume_every=every)
        moment = "while it writes" if number % 2 else "at any moment"
        if number % 2:
            _kill_while_writing(child, place, numbers, whole, every)
        else:
            time.sleep(numbers.uniform(0, 0.95 * whole))
            child.kill()
        sent = child.all_news()
        if child.end() == 0:
            too_late += 1
            continue
        kinds[moment] += 1
        reported = max((step for step in sent if isinstance(step, int)), default=0)
        orphans += sum(path.name.endswith(".tmp") for path in place.iterdir())
        again = learn_in_child(learner, place, resume_every=every)
        news = again.all_news()
        code = again.end()
        record.add(_problem(news, code, undisturbed, reported, every, number))
        if news and isinstance(news[-1], tuple):
            lost[max(0, reported - news[-1][2])] += 1
    record.facts = {
        "steps of a run": STEPS,
        "killed": dict(kinds),
        "ended before the kill, and not counted": too_late,
        "steps done again": {str(steps): count for steps, count in sorted(lost.items())},
        "half-written files left, and ignored": orphans,
    }
    return record


def _kill_while_writing(child: Child, place: Path, numbers: random.Random, whole: float, every: int) -> None:
    """At the n-th half-written file that is seen."""
    seen: set[str] = set()
    wanted, until = numbers.randint(1, max(1, STEPS // every)), time.monotonic() + 3 * whole + 10
    while time.monotonic() < until and len(seen) < wanted:
        seen |= {path.name for path in place.iterdir() if path.name.endswith(".tmp") and SUFFIX in path.name}
        if len(seen) < wanted and not child.running:
            break
    child.kill()


def _problem(
    news: list[object],
    code: int | None,
    undisturbed: tuple[bytes, tuple[float, ...], int, tuple[str, ...]],
    reported: int,
    every: int,
    number: int,
) -> str | None:
    if code != 0 or not news or not isinstance(news[-1], tuple):
        return f"try {number}: the run after the kill ended with {code}"
    vectors, losses, resumed_from, notes = news[-1]
    if (vectors, losses) != undisturbed[:2]:
        return f"try {number}: other bits after going on from step {resumed_from}"
    if notes:
        return f"try {number}: {notes[0]}"
    if resumed_from < reported - reported % every:
        return f"try {number}: killed after step {reported}, went on from {resumed_from}, a file every {every} steps"
    return None


def together(learner: Learner, tries: int, folder: Path, seed: int) -> Record:
    """The same run in two processes on one folder, one of which is killed; and a third that reads all the time."""
    record = Record(
        "two processes on one folder",
        "Two processes learn the same run in one folder, one of them is killed: no file is torn, and both and the next run "
        "end with the same bits.",
    )
    numbers = random.Random(seed)
    undisturbed = outcome(learner.learn(None))
    whole = seconds_of(lambda: learn_in_child(learner, None).end())
    for number in range(tries):
        place = folder / f"together-{number}"
        place.mkdir()
        first, second = (learn_in_child(learner, place) for _ in range(2))
        killed = number % 2 == 0
        if killed:
            time.sleep(numbers.uniform(0, 2 * whole))
            first.kill()
        third = learn_in_child(learner, place)
        outcomes = [child.all_news() for child in (second, third)]
        others = first.all_news()
        codes = [child.end() for child in (second, third)]
        first.end()
        if not killed:
            outcomes.append(others)
        last = learn_in_child(learner, place)
        outcomes.append(last.all_news())
        codes.append(last.end())
        problems = [
            _problem(news, code, undisturbed, 0, 1, number) for news, code in zip(outcomes, [*codes, 0], strict=False)
        ]
        record.add(next(filter(None, problems), None))
    return record
