"""Reading a model with another library: whatever is wrong with a file becomes one sentence that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..text import quoted


@contextmanager
def reading(path: Path, advice: str = "Download the model again.") -> Iterator[None]:
    """Raises ValueError that names `path` and ends in `advice` for what another library cannot read.

    Only for calls of its own: in our code most of what it raises would be a bug.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a dozen kinds, some of them the library's own
        raise ValueError(
            f"'{quoted(path, 200)}' cannot be loaded, so its files are damaged or do not belong together "
            f"({quoted(error, 180)}). {advice}"
        ) from error
