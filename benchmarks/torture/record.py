"""What a part of the torture found: counts, and the first failures in words."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 20
"""Failures that are described; the others are counted."""


@dataclass
class Record:
    """`what` says in a sentence what is right; a failure is a try for which that does not hold."""

    part: str
    what: str
    tries: int = 0
    failures: int = 0
    failed: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    """When the last try ended; parts are written together."""

    def add(self, problem: str | None) -> None:
        """One try, and what went wrong with it."""
        self.tries += 1
        self.ended = time.time()
        if problem:
            self.failures += 1
            if len(self.failed) < SHOWN:
                self.failed.append(problem[:400])

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        content = asdict(self)
        began, ended = content.pop("began"), content.pop("ended")
        content["seconds"] = round((ended or time.time()) - began, 1)
        return content
