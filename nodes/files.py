"""Files that a user chooses by name, and whether one has changed since ComfyUI last ran the node."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from ..crossinit_core.text import quoted

log = logging.getLogger(__name__)


def text_files(folders: Iterable[Path]) -> dict[str, Path]:
    """The .txt files in and below folders, as `files_below` gives them."""
    return files_below(folders, "*.txt")


def files_below(folders: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Files in and below folders by the name that a node shows; of two with one name, the first folder's."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob(pattern)) if folder.is_dir() else ():
            name = path.relative_to(folder).as_posix()
            if path.is_file() and _can_be_sent(name):
                found.setdefault(name, path)
    return found


def _can_be_sent(name: str) -> bool:
    """Whether a name is text: on Linux any bytes can be the name of a file, and Python makes halves of characters of them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        log.warning("'%s' is not shown: its name is not UTF-8. Rename it.", quoted(name))
        return False
    return True


def stamp(path: Path | None) -> str:
    """Time and size of a file, for `fingerprint_inputs`; empty if it is not there."""
    if path is None or not path.is_file():
        return ""
    stat = path.stat()
    return f"{stat.st_mtime_ns} {stat.st_size}"
