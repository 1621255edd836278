"""The losses of a run as JSON lines: one for each step, written as it is done.

A line is `{"step": 1, "loss": 0.1042, "distance": 0.0}`: the diffusion loss, and the mean distance of the vectors from their
start, both at the vectors that the step began with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ..files import check_can_write, write_atomically
from ..text import quoted

_LONGEST_LINE = 400


class LossLog:
    """A log that a run which was stopped goes on with. Nothing that goes wrong with the file ends the run: `say` gets a line."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Raises ValueError if the file cannot be written, or if there is another file of that name."""
        check_can_write(path, what="log of losses")
        if path.exists() and not _is_log(path):
            raise ValueError(
                f"--losses is '{quoted(path, 200)}', but a file of that name is there that is not a log of losses. Choose another "
                "name, such as losses.jsonl."
            )
        self._path, self._say = path, say
        self._file: IO[str] | None = None
        self._broken = False

    def add(self, step: int, loss: float, distance: float) -> None:
        """The numbers of a step; what an earlier run says of this step and of those after it goes."""
        if self._broken:
            return
        try:
            if self._file is None:
                earlier = [line for number, line in _entries(self._path) if number < step]
                write_atomically(self._path, "".join(earlier).encode())
                self._file = self._path.open("a", encoding="utf-8", newline="\n")
            self._file.write(_line(step, loss, distance))
            self._file.flush()
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """After a run that was stopped."""
        file, self._file = self._file, None
        if file:
            try:
                file.close()
            except OSError as error:
                self._failed(error)

    def finish(self, losses: Sequence[float], distances: Sequence[float]) -> None:
        """Write all steps of the finished run, also those that came from a resume file."""
        self.close()
        numbers = enumerate(zip(losses, distances, strict=True), start=1)
        try:
            write_atomically(self._path, "".join(_line(step, *values) for step, values in numbers).encode())
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self._broken:
            reason = quoted(error.strerror or error, 160)
            self._say(
                f"The log '{quoted(self._path, 250)}' could not be written ({reason}). The token is not affected."
            )
        self._broken = True


def _line(step: int, loss: float, distance: float) -> str:
    return json.dumps({"step": step, "loss": loss, "distance": distance}) + "\n"


def _is_log(path: Path) -> bool:
    """Whether a file that exists is empty or begins with a line of a log. A photo or a token does not."""
    try:
        with path.open("rb") as file:
            first = file.readline(_LONGEST_LINE)
    except OSError:
        return False
    return not first or _step_of(first) is not None


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    """The step and the text of each whole line."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                step = _step_of(line)
                if step is not None:
                    yield step, line.decode()


def _step_of(line: bytes) -> int | None:
    if not line.endswith(b"\n") or len(line) > _LONGEST_LINE:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return step if isinstance(step, int) and "loss" in entry else None
