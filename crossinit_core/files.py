"""Files on every system: written whole or not at all, and under names that Windows takes too."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789\u00b9\u00b2\u00b3"
}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash in the middle, even of the computer, leaves the old file or none, but never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_windows_device(name: str) -> bool:
    """Whether Windows would take the name for a device, with any ending: `con`, `LPT1.png`."""
    return name.split(".")[0].rstrip().lower() in _WINDOWS_DEVICES
