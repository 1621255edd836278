"""Copies of a token while it is learned: `anna-80.safetensors` beside `anna.safetensors` is what it was after 80 steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..files import check_can_write
from ..text import quoted
from ..tokens.description import described
from ..tokens.learned_token import LearnedToken, numbered
from ..tokens.metadata import NORM, STEPS, listed, norms_by_encoder
from ..tokens.token_files import save_learned_token


def check_copies(out: Path, every: int, steps: int) -> None:
    """Raises ValueError if no copy can be written beside `out` every `every` steps."""
    if every < 1:
        raise ValueError(f"--save-every is {quoted(every, 60)}, but must be at least 1: the steps between two copies.")
    if every < steps:
        check_can_write(copy_path(out, steps), what="copy of the token")


def copy_path(out: Path, step: int) -> Path:
    """Where the copy after a step lies."""
    return out.with_name(f"{out.stem}-{step}{out.suffix}")


@dataclass(frozen=True)
class TokenCopies:
    """Writes them. `token` is the one at the start, whose name, family and metadata the copies have. A copy that cannot be
    written ends no run: `say` gets a line."""

    token: LearnedToken
    out: Path
    every: int
    say: Callable[[str], None]

    def add(self, step: int, steps: int, vectors: Tensor) -> None:
        """`vectors` (K, d) are those after a step. The last step is the token itself, which has no copy."""
        if step % self.every or step >= steps:
            return
        start = self.token
        norms = listed(norms_by_encoder(vectors, start.widths))
        facts: Mapping[str, str] = {**start.metadata, STEPS: str(step), NORM: norms}
        copy = LearnedToken(vectors.clone(), numbered(start.name, step), start.base, facts, widths=start.widths)
        path = copy_path(self.out, step)
        try:
            save_learned_token(described(copy), path)
        except OSError as error:
            reason = quoted(error.strerror or error, 160)
            self.say(f"The copy '{quoted(path, 250)}' could not be written ({reason}). Learning goes on.")
