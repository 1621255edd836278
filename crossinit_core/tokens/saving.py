"""Saving a token that was just learned: if its place is gone, it is kept elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..text import quoted
from .learned_token import LearnedToken
from .token_files import save_learned_token

_LONGEST_REASON = 160
_LONGEST_PATH = 240


class KeptElsewhereError(RuntimeError):
    """A token could not be saved where it was asked for. `path` is where it was kept instead; the message says so."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def save_or_keep(token: LearnedToken, path: Path, elsewhere: Sequence[Path]) -> Path:
    """Write a token as `save_learned_token` does; returns the path.

    If the disk is full or the folder went away, the token is kept in the first folder of `elsewhere` that takes it, as
    safetensors under its own name and a number if there is one already. Raises KeptElsewhereError then, and another RuntimeError
    if no folder takes it. A ValueError is about the arguments and goes to the caller.
    """
    try:
        return save_learned_token(token, path)
    except OSError as error:
        reason = quoted(error.strerror or error, _LONGEST_REASON)
        for folder in elsewhere:
            try:
                kept = save_learned_token(token, _free(folder, token.name))
            except OSError:
                continue
            raise KeptElsewhereError(
                f"The token could not be saved as '{quoted(path, _LONGEST_PATH)}' ({reason}). Nothing is lost: it is kept as "
                f"'{quoted(kept, _LONGEST_PATH)}'. Move that file once the place is in order.",
                kept,
            ) from error
        raise RuntimeError(
            f"The token could not be saved as '{quoted(path, _LONGEST_PATH)}' ({reason}), nor anywhere else. Make room on the "
            "disk and run this again: what was learned is still in the resume file, if one could be written."
        ) from error


def _free(folder: Path, name: str) -> Path:
    path, number = folder / f"{name}.safetensors", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.safetensors"
    return path
