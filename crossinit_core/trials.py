"""What was tried in this process and found right, so that it need not be tried again.

The one thing that outlives a run, since trying takes as long as a dozen steps. It holds names, never tensors or models.
"""

from __future__ import annotations

from collections.abc import Hashable

_passed: set[Hashable] = set()


def has_passed(trial: Hashable) -> bool:
    """Whether a trial of this name was passed before."""
    return trial in _passed


def passed(trial: Hashable) -> None:
    """Note that it was."""
    _passed.add(trial)
