"""The most memory that a run uses on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from . import graph_memory


class PeakMemory:
    """While open: measures the most memory that was in use on the GPU at once."""

    peak = 0

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return self

    @contextmanager
    def during(self) -> Iterator[list[int]]:
        """Measures how many bytes more are needed meanwhile; afterwards the list holds that one number."""
        needed: list[int] = []
        if not torch.cuda.is_available():
            yield needed
            needed.append(0)
            return
        self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield needed
        needed.append(torch.cuda.max_memory_allocated() - before)

    def look(self) -> None:
        """Count in what recordings hold at this moment."""
        if torch.cuda.is_available():
            self.peak = max(self.peak, torch.cuda.memory_allocated() + graph_memory.held(torch.cuda.current_device()))

    def __exit__(self, *error: object) -> Literal[False]:
        if torch.cuda.is_available():
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        return False
