"""Files that a user chooses by name, and whether one has changed since ComfyUI last ran the node."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def text_files(folders: Iterable[Path]) -> dict[str, Path]:
    """The .txt files in and below folders by the name that a node shows; of two with one name, the first folder's."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.txt")) if folder.is_dir() else ():
            if path.is_file():
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def stamp(path: Path | None) -> str:
    """Time and size of a file, for `fingerprint_inputs`; empty if it is not there."""
    if path is None or not path.is_file():
        return ""
    stat = path.stat()
    return f"{stat.st_mtime_ns} {stat.st_size}"
