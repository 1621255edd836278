"""Who could not be learned, and why: `failures.jsonl`, one object a line, written as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..files import check_can_write
from .people import Person
from .work_list import Shard


class Failures:
    """The file of one run; it begins empty. A run that is repeated tries everybody again."""

    def __init__(self, out: Path, shard: Shard) -> None:
        """Raises ValueError if it cannot be written."""
        self.path = check_can_write(out / f"failures{shard}.jsonl", what="list of failures")
        self.count = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def add(self, person: Person, reason: str) -> None:
        line = {"name": person.name, "reason": reason, "photos": [str(path) for path in person.photos]}
        with self.path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self.count += 1

    def close(self) -> None:
        """Without failures there is no file."""
        if not self.count:
            self.path.unlink(missing_ok=True)


def reasons(out: Path) -> dict[str, str]:
    """Name -> reason, of all shards' files; a line that is cut off is left out."""
    found: dict[str, str] = {}
    for path in sorted(out.glob("failures*.jsonl")):
        found.update(_lines(path))
    return found


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in content.split("\n"):
        try:
            record = json.loads(line)
            yield str(record["name"]), str(record["reason"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
