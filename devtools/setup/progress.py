"""Running long commands quietly, with a sign of life. Standard library only."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

_LINES_SHOWN = 30
_SECONDS_BETWEEN_LINES = 15.0


_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Failed to establish a new connection|Temporary failure in name resolution|"
    r"Connection refused|ProxyError|Network is unreachable|ConnectTimeout|getaddrinfo failed|Could not resolve host"
)
_ERROR = re.compile(r"^(ERROR|error|E):? ?(.+)")


class CommandError(RuntimeError):
    """A command failed. `reason` is one line; the message goes on with the last lines that the command printed."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *lines]))
        if any(_NO_NETWORK.search(line) for line in lines):
            self.reason = "this machine does not reach PyPI. Connect it to the network."
        else:
            # pip's advice stands behind its error.
            told = [found[2] for line in lines if (found := _ERROR.match(line))]
            self.reason = told[0] if told else (lines[-1] if lines else message)


def say(text: str) -> None:
    # Flushed, so that our lines stay in order with those of child processes when piped.
    print(text, flush=True)


def run_logged(command: list[str], title: str, log: Path) -> None:
    """Run a command with its output appended to `log`, and show that it lives.

    On a terminal that is one line with the seconds and the command's last line, elsewhere a line every
    15 seconds. Raises CommandError with the last 30 lines if the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "DEBIAN_FRONTEND": "noninteractive"},
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be started: {error}") from error
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    life = _SignOfLife(title)
    last: deque[str] = deque(maxlen=_LINES_SHOWN)
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n")
            while True:
                try:
                    line = lines.get(timeout=0.2)
                except queue.Empty:
                    line = ""
                if line is None:
                    break
                if line:
                    last.append(line)
                    file.write(line + "\n")
                    file.flush()
                life.show(line)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        life.clear()
    if code != 0:
        raise CommandError(f"{' '.join(command[:4])} ... ended with exit code {code}:", list(last))


class _SignOfLife:
    def __init__(self, title: str) -> None:
        self._title = title
        self._started = self._shown = time.monotonic()
        self._doing = ""
        self._terminal = sys.stdout.isatty()

    def show(self, line: str) -> None:
        self._doing = line.strip() or self._doing
        now = time.monotonic()
        text = f"    {self._title}: {now - self._started:.0f} s  {self._doing}"
        if self._terminal and now - self._shown >= 0.2:
            self._shown = now
            columns = max(shutil.get_terminal_size().columns - 1, 1)
            print(f"\r{text[:columns]:<{columns}}", end="", flush=True)
        elif not self._terminal and now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            say(text[:160])

    def clear(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", flush=True)
