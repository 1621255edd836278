"""What a token file holds before any of its numbers is read: tensors by their dtype, shape and place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..text import quoted
from .learned_token import MOST_VECTORS_IN_A_FILE

WIDEST = 8192
"""No text encoder of a diffusion model is wider than 4096."""

MOST_NUMBERS = MOST_VECTORS_IN_A_FILE * WIDEST

REAL = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
"""The dtypes that vectors are written in, and their names in safetensors files."""


class BadFileError(ValueError):
    """Something in a file is wrong; the message is an end of a sentence that begins with the file's name."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file declares it. `read` gives `count` numbers from number `start` on, flat, of `dtype`.

    `dtype` is None, or the name of one that is not real numbers. `strides` are those of `torch.as_strided`, in numbers.
    """

    dtype: torch.dtype | str | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    read: Callable[[int, int], Tensor]

    @property
    def shown_shape(self) -> str:
        return quoted(tuple(self.shape), 60)

    def rows(self) -> int:
        """K of (K, d), or 1 of (d,)."""
        return self.shape[0] if len(self.shape) == 2 else 1

    def check(self, key: str) -> None:
        """Raises BadFileError if the file declares anything but dense rows of real numbers, or more than a token may hold.
        Nothing is read."""
        if self.dtype not in REAL:
            raise BadFileError(
                f"holds '{quoted(key, 60)}' as {quoted(self.dtype, 30)}, but vectors are real numbers "
                f"({', '.join(REAL.values())})"
            )
        if len(self.shape) not in (1, 2) or not all(size > 0 for size in self.shape):
            raise BadFileError(
                f"holds tensors of shape {self.shown_shape}, but a token is (d,) or (K, d) vectors of one width"
            )
        if self.shape[-1] > WIDEST or self.rows() > MOST_VECTORS_IN_A_FILE:
            raise BadFileError(
                f"is no token file: a token is 1 to {MOST_VECTORS_IN_A_FILE} vectors of width {WIDEST} at most, "
                f"but got {self.shown_shape}"
            )
        if any(size > 1 and stride < 1 for size, stride in zip(self.shape, self.strides, strict=True)):
            raise BadFileError(f"holds '{quoted(key, 60)}' as a tensor that is not dense: it repeats its own numbers")
        if self._span() > MOST_NUMBERS:
            raise BadFileError(f"holds '{quoted(key, 60)}' as a view of a much larger tensor")

    def load(self, key: str) -> Tensor:
        """(K, d) float32. Only now is anything read. Raises BadFileError as `check` does."""
        self.check(key)
        numbers = self.read(self.start, self._span())
        return torch.as_strided(numbers, self.shape, self.strides).float().reshape(-1, self.shape[-1]).clone()

    def _span(self) -> int:
        """How many numbers lie from the first to the last, with those between that are not the tensor's."""
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose last dimension lies together."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides[: len(shape)]))
