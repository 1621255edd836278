"""Token files that this pack wrote, under another name or out of the way; nothing learned is ever lost.

A file is ours if its metadata has a key of `crossinit.*`; another one is never touched. What lies beside it goes with it if it
is ours too (`sidecars`). The new file is there before the old one goes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..text import quoted
from .description import described
from .halves import clean
from .learned_token import check_token_name, numbered, suggest_token_name
from .metadata import OURS
from .sidecars import own_files_beside, write_beside
from .token_files import load_learned_token

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"

_LARGEST = 16 * 2**20
"""Bytes of a token file: 75 vectors of both encoders of SDXL take 0.6 million, their metadata at most another."""

_MOST_NUMBERS = 10_000


def check_is_ours(path: Path) -> None:
    """Raises ValueError unless `path` is an ordinary safetensors file with metadata of this pack."""
    _read(path)


def rename_token_file(path: Path, name: str) -> Path:
    """Give a token file another name in its folder; returns its new path.

    Its tensors stay as they are, byte by byte. What the file and ours beside it say of the name becomes the new one. Raises
    ValueError if `path` is no token file of this pack or `name` cannot stand in a prompt, FileExistsError if there is a file of
    that name, and another OSError if the disk does not take it; the file is then as it was.
    """
    raw, header, start = _read(path)
    name = check_token_name(name)
    target = path.with_name(name + SUFFIX)
    if target.name == path.name:
        return path
    token = described(load_learned_token(path).renamed(name))
    content = _with_header(_renamed(header, path.stem, name) | {"__metadata__": clean(token.metadata)}, raw[start:])
    beside = own_files_beside(path)
    if _is_same(path, target):  # the file system does not tell upper from lower case
        write_atomically(path, content)
        for file in (path, *beside):
            file.rename(target.with_name(name + file.name.removeprefix(path.stem)))
        left = []
    else:
        write_atomically(target, content, replace=False)
        _take_away(path, else_remove=[target])
        left = beside
    if beside:
        write_beside(token, target)
        _take_away_all(left)
    return target


def remove_token_file(path: Path, folder: Path) -> Path:
    """Move a token file, and ours beside it, into another folder, with a number if its name is taken there; returns where it is.

    Raises ValueError if `path` is no token file of this pack, and OSError if the disk does not take it; the file is then where it
    was.
    """
    raw, _, _ = _read(path)
    beside = own_files_beside(path)
    number = 1
    while True:
        # A file that somebody renamed may have a name with a space, or none that is short enough for a number.
        stem = path.stem if number == 1 else numbered(suggest_token_name(path.stem), number)
        target = folder / (stem + SUFFIX)
        try:
            write_atomically(target, raw, replace=False)
            break
        except FileExistsError:
            number += 1
            if number > _MOST_NUMBERS:
                raise
    _take_away(path, else_remove=[target])
    for file in beside:
        try:
            write_atomically(folder / (stem + file.name.removeprefix(path.stem)), file.read_bytes())
        except OSError as error:
            log.warning("%s could not be moved (%s).", file, error.strerror or type(error).__name__)
        else:
            _take_away_all([file])
    return target


def _read(path: Path) -> tuple[bytes, dict[str, Any], int]:
    """A file's bytes, its header, and where its tensors start."""
    shown = quoted(path.name)
    if path.suffix != SUFFIX or path.is_symlink() or not path.is_file():
        raise ValueError(f"'{shown}' is not an ordinary {SUFFIX} file. Rename or delete it in its folder.")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"'{shown}' has more than {_LARGEST // 2**20} MB, so it is not a learned face.")
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header: Any = None
    with suppress(ValueError, RecursionError):
        header = json.loads(raw[8:start].decode()) if start <= len(raw) else None
    facts = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(facts, dict) or not any(key.startswith(OURS) for key in facts):
        raise ValueError(f"'{shown}' was not written by Cross Initialization, so it is left alone.")
    return raw, header, start


def _renamed(header: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The header with the tensor of the key `<NAME>` under the new name; no reader takes such a key for anything else."""
    if f"<{new}>" in header:
        return header
    return {f"<{new}>" if key == f"<{old}>" else key: value for key, value in header.items()}


def _with_header(header: dict[str, Any], tensors: bytes) -> bytes:
    """As the format has it, https://github.com/huggingface/safetensors#format: the tensors begin at a multiple of eight."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _take_away(path: Path, else_remove: Sequence[Path]) -> None:
    try:
        path.unlink()
    except OSError:
        _take_away_all(else_remove)
        raise


def _take_away_all(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be removed (%s).", path, error.strerror or type(error).__name__)
