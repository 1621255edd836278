"""What is right for input that nobody should believe: a good value, or one line that names the file; quickly, in little memory."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SECONDS = 1.0
MOST_MEMORY = 200 * 2**20
LONGEST_MESSAGE = 600
LIMIT = 2 * 2**30
"""Bytes of address space that a process may take beside what it has: a bomb ends in it, not in the machine."""


@dataclass(frozen=True)
class Outcome:
    """`problem` is None if all was right; `seconds` are of CPU time, `memory` bytes above what the process had."""

    problem: str | None
    refused: bool
    seconds: float
    memory: int


def limit_memory() -> None:
    """For the rest of this process."""
    import resource

    size = _status("VmSize") if sys.platform == "linux" else 0
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, resource.RLIM_INFINITY))


def guarded(use: Callable[[], object], file: str | None) -> Outcome:
    """Use an input. `use` raises ValueError or OSError to refuse it, and AssertionError for a value that is not right."""
    before = _reset_peak()
    began = time.process_time()
    problem, refused = None, False
    try:
        use()
    except (ValueError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
        refused = True
        problem = wrong_message(str(error), file) if not isinstance(error, UnicodeError) else f"{error!r:.300}"
    except BaseException as error:
        problem = f"{type(error).__name__}: {error!s:.300}"
    seconds = time.process_time() - began
    memory = max(0, _peak() - before)
    if not problem and seconds > MOST_SECONDS:
        problem = f"took {seconds:.1f} s"
    if not problem and memory > MOST_MEMORY:
        problem = f"took {memory / 2**20:.0f} MB"
    return Outcome(problem, refused, seconds, memory)


def wrong_message(message: str, file: str | None) -> str | None:
    """What is wrong with a message, if anything."""
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message):,} characters: {message[:100]!r}"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in message):
        return f"a message that is not one clean line: {message[:200]!r}"
    if not message.strip():
        return "an empty message"
    if file and file not in message:
        return f"a message that does not name the file: {message[:200]!r}"
    return None


def _status(key: str) -> int:
    """Bytes, from what Linux tells of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> int:
    """Bytes in memory now; the peak counts from here where the system can do that."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return _status("VmHWM")
        return _status("VmRSS")
    return _peak()


def _peak() -> int:
    if sys.platform == "linux":
        return _status("VmHWM")
    import resource

    used: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used) * (1 if sys.platform == "darwin" else 1024)
