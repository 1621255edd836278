"""What was tried in this process and found right, so that it need not be tried again.

The one thing that outlives a run, since trying takes as long as a dozen steps. It holds names, never tensors or models.
"""

from __future__ import annotations

from collections.abc import Hashable

_passed: dict[Hashable, int] = {}


def has_passed(trial: Hashable) -> bool:
    """Whether a trial of this name was passed before."""
    return trial in _passed


def passed(trial: Hashable, memory: int = 0) -> None:
    """Note that it was, and how many bytes it took."""
    _passed[trial] = memory


def memory_of(trial: Hashable) -> int:
    """The bytes that a passed trial took."""
    return _passed[trial]
