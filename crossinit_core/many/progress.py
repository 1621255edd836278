"""How far the work is: people an hour, and the time that is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_RECENT = 200
"""The rate is that of the last so many people: it follows a cluster that grows or shrinks."""


class Progress:
    """Counts people who end; `line` says it in a few words."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self.done = self.failed = 0
        self._begun = False
        self._ends: deque[float] = deque([clock()], maxlen=_RECENT + 1)

    def begin(self) -> None:
        """The first worker is ready: what came before says nothing about the rate."""
        if not self._begun:
            self._begun = True
            self._ends.clear()
            self._ends.append(self._clock())

    def count(self, *, failed: bool) -> None:
        self.failed += failed
        self.done += not failed
        self._ends.append(self._clock())

    @property
    def an_hour(self) -> float:
        """People an hour; 0 as long as nobody has ended."""
        seconds = self._clock() - self._ends[0]
        return 3600 * (len(self._ends) - 1) / seconds if seconds > 0 else 0.0

    def line(self) -> str:
        """`37 of 10000 people, 2 failed, 285 an hour, 34 h 57 min left`."""
        ended = self.done + self.failed
        parts = [f"{ended} of {self._total} people"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if not self._begun and not ended:
            parts.append("no worker has loaded the model yet")
        if rate := self.an_hour:
            parts.append(f"{rate:,.0f} an hour" if rate >= 10 else f"{rate:.1f} an hour")
            if ended < self._total:
                parts.append(f"{duration(3600 * (self._total - ended) / rate)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`34 h 57 min`, `12 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60:,} h {minutes % 60:02d} min"
