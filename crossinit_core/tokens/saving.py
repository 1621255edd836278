"""Saving a token that was just learned: if its place is gone, it is kept elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..text import quoted
from .learned_token import LearnedToken, numbered
from .token_files import save_learned_token

_LONGEST_REASON = 160
_LONGEST_PATH = 240
_MOST_NUMBERS = 10_000


class KeptElsewhereError(RuntimeError):
    """A token could not be saved where it was asked for. `path` is where it was kept instead; the message says so."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def save_or_keep(
    token: LearnedToken, path: Path, elsewhere: Sequence[Path], layout: str | None = None, *, replace: bool = True
) -> Path:
    """Write a token as `save_learned_token` does; returns the path.

    If the disk is full or the folder went away, the token is kept in the first folder of `elsewhere` that takes it, as
    safetensors under its own name and a number if there is one already. Raises KeptElsewhereError then, and another
    RuntimeError if no folder takes it. A ValueError, about the arguments, and a FileExistsError, if not to `replace`, go to the
    caller.
    """
    try:
        return save_learned_token(token, path, layout, replace=replace)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise
        reason = quoted(error.strerror or error, _LONGEST_REASON)
        if kept := _kept(token, elsewhere):
            raise KeptElsewhereError(
                f"The token could not be saved as '{quoted(path, _LONGEST_PATH)}' ({reason}). Nothing is lost: it is kept as "
                f"'{quoted(kept, _LONGEST_PATH)}'. Move that file once the place is in order.",
                kept,
            ) from error
        raise RuntimeError(
            f"The token could not be saved as '{quoted(path, _LONGEST_PATH)}' ({reason}), nor anywhere else. Make room on the "
            "disk and run this again: what was learned is still in the resume file, if one could be written."
        ) from error


def _kept(token: LearnedToken, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        number = 1
        while number <= _MOST_NUMBERS:
            name = token.name if number == 1 else numbered(token.name, number)
            try:
                return save_learned_token(token, folder / f"{name}.safetensors", replace=False)
            except FileExistsError:
                number += 1
            except OSError:
                break
    return None
