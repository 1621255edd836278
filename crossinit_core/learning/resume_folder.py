"""The folder of resume files: several programs may use it at once, and anything may lie in it.

A file belongs to its run alone. It goes when nobody has used it for a while, never because of others: after `UNUSED_DAYS`
it gets the ending `EXPIRED`, under which its run still finds it, and after as many days again it is deleted. So a clock that
was wrong for a day throws nothing away.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import uuid
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".resume.safetensors"
DAMAGED = ".damaged"
EXPIRED = ".expired"
UNUSED_DAYS = 30

_DAY = 86400.0
_NAME = re.compile(rf"[0-9a-f]{{24}}-(?P<steps>[0-9]{{1,18}}){re.escape(SUFFIX)}")
_TEMPORARY = re.compile(rf"\..+({re.escape(SUFFIX)}|\.probe)\.[0-9a-f]{{32}}\.tmp")
_ORPHANED_AFTER = 3600.0
"""Seconds. A file is written in far less, so no living program writes one that is older."""
_PROBE_BYTES = 64 * 1024
"""About twice what a resume file has."""
_PATIENCE = (0.05, 0.1, 0.2, 0.4)
"""Seconds to wait for another program that holds a file at this moment; Windows then refuses to open it."""


def resume_path(folder: Path, fingerprint: str, steps: int) -> Path:
    """Where the run of this name that is to reach `steps` is kept."""
    return folder / f"{fingerprint[:24]}-{steps}{SUFFIX}"


def steps_in_name(path: Path) -> int:
    """How far the run is to go that the file of this name is kept for."""
    name = _NAME.fullmatch(path.name)
    return int(name["steps"]) if name else 0


def files_of_run(folder: Path, fingerprint: str) -> list[Path]:
    """The run's files of every number of steps; those that had expired are called back."""
    stem = fingerprint[:24]
    found = set()
    for entry in _entries(folder):
        plain = entry.name.removesuffix(EXPIRED)
        if not entry.name.startswith(stem) or not _NAME.fullmatch(plain):
            continue
        path = folder / plain
        if plain != entry.name and not os.path.lexists(path):
            with contextlib.suppress(OSError):
                Path(entry.path).rename(path)
        if os.path.lexists(path):
            found.add(path)
    return sorted(found)


def read_at_most(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """The file's content and what the system says of it. Whatever is there is looked at before it is opened.

    Raises ValueError with the reason, a part of a sentence, if it is not a file of at most `most` bytes, and OSError if it
    cannot be read now.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a file")
    except OSError as error:
        if path.is_symlink():
            raise ValueError(f"it is a link that leads nowhere: {error.strerror}") from None
        raise
    with _opened(path) as file:
        about = os.fstat(file.fileno())
        if about.st_size > most:
            raise ValueError(f"it has {about.st_size / 2**20:.0f} MB, but at most {most / 2**20:.0f} are expected")
        return file.read(most + 1), about


def _opened(path: Path) -> BinaryIO:
    for wait in _PATIENCE if os.name == "nt" else ():
        try:
            return path.open("rb")
        except PermissionError:
            time.sleep(wait)
    return path.open("rb")


def set_aside(path: Path, about: os.stat_result | None = None) -> Path | None:
    """Rename what cannot be used, in place of what was set aside before; None if that is not possible.

    `about` is what was read. If another program has written a new file since, that one stays.
    """
    first = path.with_name(f"{path.name}{DAMAGED}")
    # A folder does not go in the place of a file or of a folder.
    others = (other for n in range(2, 10) if not os.path.lexists(other := first.with_name(f"{first.name}-{n}")))
    if about:
        try:
            now = path.stat()
        except OSError:
            return None
        if (now.st_ino, now.st_mtime_ns, now.st_size) != (about.st_ino, about.st_mtime_ns, about.st_size):
            return None
    for aside in (first, *others):
        with contextlib.suppress(OSError):
            path.replace(aside)
            if not aside.is_symlink():
                used(aside)
            return aside
    return None


def used(path: Path) -> None:
    """From now on the file is kept as long as a new one."""
    with contextlib.suppress(OSError):
        os.utime(path)


def prepare(folder: Path) -> None:
    """Make the folder, see that it can be written, and clear away what nobody needs.

    Raises OSError, or ValueError for a path that no system has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".write.probe.{uuid.uuid4().hex}.tmp"
    try:
        with probe.open("xb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        now = probe.stat().st_mtime  # by the clock of the disk's own computer, as all others here
    finally:
        probe.unlink(missing_ok=True)
    _clear(folder, now)


def _clear(folder: Path, now: float) -> None:
    for entry in _entries(folder):
        with contextlib.suppress(OSError):  # another program may hold or delete it at this moment
            if not entry.is_file(follow_symlinks=False):
                continue
            path, age = Path(entry.path), now - entry.stat(follow_symlinks=False).st_mtime
            if _TEMPORARY.fullmatch(entry.name):
                if age > _ORPHANED_AFTER or age < -_DAY:  # the clock was ahead when it was written
                    path.unlink()
            elif age > UNUSED_DAYS * _DAY:
                if _NAME.fullmatch(entry.name):
                    path.replace(path.with_name(f"{entry.name}{EXPIRED}"))
                    os.utime(path.with_name(f"{entry.name}{EXPIRED}"))
                elif _NAME.fullmatch(entry.name.partition(SUFFIX)[0] + SUFFIX):
                    path.unlink()  # expired before, or damaged


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (OSError, ValueError):
        return []
