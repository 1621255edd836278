"""Two hundred learnings in one process: memory, open files and the folder stay as they are."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from .learner import Child, Learner, outcome
from .record import Record

PEOPLE = 20
WARM = 40
"""Runs after which the memory is taken for that of the process."""
MOST_GROWTH = 16 * 2**20


def repeats(learner: Learner, tries: int, folder: Path) -> Record:
    """`tries` runs of PEOPLE people, each from its beginning; the same inputs must give the same bits each time."""
    record = Record(
        "learnings in one process",
        f"Each of {PEOPLE} people gets the same bits every time, memory grows by less than {MOST_GROWTH >> 20} MB, no file stays "
        "open, and there is one resume file a person.",
    )
    place = folder / "repeats"

    def work(send) -> None:  # type: ignore[no-untyped-def]
        tokens: dict[int, bytes] = {}
        before = (0, 0, 0)
        for number in range(tries):
            person = number % PEOPLE
            vectors, _, resumed_from, notes = outcome(learner.learn(place, seed=person, steps=4, resume=False))
            if number == min(WARM, tries // 2):
                before = _resources()
            right = tokens.setdefault(person, vectors) == vectors and not resumed_from and not notes
            send(None if right else f"run {number}: {notes or 'other bits'}")
        send((before, _resources(), len(list(place.iterdir()))))

    child = Child(work)
    news = child.all_news()
    code = child.end()
    for problem in news[:-1]:
        record.add(problem)
    if code != 0 or not news or not isinstance(news[-1], tuple):
        record.add(f"the process ended with {code}")
        return record
    (memory, files, threads), (memory_after, files_after, threads_after), in_folder = news[-1]
    record.facts = {
        "memory before and after, MB": [round(memory / 2**20, 1), round(memory_after / 2**20, 1)],
        "open files": [files, files_after],
        "threads": [threads, threads_after],
        "files in the folder": in_folder,
    }
    if memory_after - memory > MOST_GROWTH or files_after > files or threads_after > threads:
        record.add(f"the process grew: {record.facts}")
    if in_folder != min(PEOPLE, tries):
        record.add(f"{in_folder} files in the folder")
    return record


def _resources() -> tuple[int, int, int]:
    """Bytes in memory, open files, threads; zeros where the system does not tell."""
    if not Path("/proc/self/statm").exists():
        return 0, 0, threading.active_count()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
