"""Ways in which a program is told to stop: signals, and readers of its output that go away."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Terminated(KeyboardInterrupt):
    """A signal that ends the program: what was learned is kept, as for Ctrl-C. `args[0]` is its number."""


@contextmanager
def signals_stop() -> Iterator[None]:
    """SIGTERM, SIGHUP and Windows' Ctrl-Break stop as Ctrl-C does; a second signal ends the program at once."""
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, _: object) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        raise Terminated(number)

    try:
        for number in (signal.Signals[name] for name in names if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread: another program's server calls us
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Screen:
    """stderr that may go away, as a closed terminal or a pipe does: whatever is learned goes on without it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            (self._stream or sys.stderr).write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            (self._stream or sys.stderr).flush()

    def say(self, line: str) -> None:
        self.write(f"{line}\n")
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream or sys.stderr, name)


def leave_closed_output() -> None:
    """After a BrokenPipeError: Python would write what is left once more when it ends, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
