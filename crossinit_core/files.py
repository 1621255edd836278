"""Files on every system: written whole or not at all, and under names that Windows takes too."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

from .text import quoted

DEFAULT_NEED = 2**20
"""Bytes that should be free before anything is written: a token takes a few thousand."""

_PROBE = 4096

_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789\u00b9\u00b2\u00b3"
}


def write_atomically(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file so that a crash in the middle, even of the computer, leaves the old file or none, but never half of one.

    Unless `replace`, raises FileExistsError if there is a file of that name, even if another program has just made it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            _replace(temporary, path)
        else:
            _take_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _take_name(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        path.open("xb").close()
        _replace(temporary, path)


def _replace(temporary: Path, path: Path) -> None:
    """Windows refuses while another program reads the file, which takes it a moment."""
    for wait in (0.02, 0.05, 0.1, 0.2, 0.4) if os.name == "nt" else ():
        try:
            temporary.replace(path)
            return
        except PermissionError:
            time.sleep(wait)
    temporary.replace(path)


def check_can_write(path: str | Path, need: int = DEFAULT_NEED, what: str = "output") -> Path:
    """The path itself, if a file can be written there now; for use before long work. `need` is in bytes.

    `what` names the place in the message: `picture folder`. The folder need not exist yet; what has to be made for it is
    not left behind. Raises ValueError of one line that says what is in the way and what to do.
    """
    path = Path(path)
    shown = f"The {what} '{quoted(path, 200)}' cannot be written: "
    try:
        os.fsencode(path)
        if "\0" in str(path):
            raise ValueError(f"{shown}its name holds a NUL character. Choose another name.")
        if not path.name or path.is_dir():
            raise ValueError(f"{shown}it is a folder. Give the name of a file.")
        if path.exists() and not path.is_file():
            raise ValueError(f"{shown}it is not an ordinary file. Choose another place.")
        folder = path.parent
        while not folder.exists():
            if folder == folder.parent:
                raise ValueError(f"{shown}there is no such drive. Choose another place.")
            folder = folder.parent
        if not folder.is_dir():
            raise ValueError(f"{shown}'{quoted(folder, 120)}' is a file, not a folder. Choose another place.")
        with contextlib.ExitStack() as made:
            for missing in reversed([parent for parent in path.parents if not parent.exists()]):
                missing.mkdir(exist_ok=True)
                made.callback(_remove_if_empty, missing)
            # Rights cannot be asked for on every system: a file shows them, and that the name is not too long.
            probe = _temporary(path)
            made.callback(probe.unlink, missing_ok=True)
            with probe.open("wb") as file:
                file.write(b"\0" * min(need, _PROBE))
                file.flush()
                os.fsync(file.fileno())
            if path.exists() and os.name == "nt" and not os.access(path, os.W_OK):
                raise ValueError(f"{shown}it is read-only. Choose another name, or clear that mark in its properties.")
            free = shutil.disk_usage(path.parent).free
            if free < need:
                raise ValueError(
                    f"{shown}{need / 2**20:.1f} MB are needed, but {free / 2**20:.1f} MB are free. "
                    "Make room, or choose another place."
                )
    except UnicodeEncodeError:
        raise ValueError(f"{shown}its name cannot be written on this system. Choose another name.") from None
    except OSError as error:
        reason = quoted(error.strerror or type(error).__name__)
        raise ValueError(f"{shown}{reason}. Choose another place, or mend this one.") from error
    return path


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _temporary(path: Path) -> Path:
    """Where a file is written before it takes its name: beside it, so that it is on the same disk."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_windows_device(name: str) -> bool:
    """Whether Windows would take the name for a device, with any ending: `con`, `LPT1.png`."""
    return name.split(".")[0].rstrip().lower() in _WINDOWS_DEVICES
