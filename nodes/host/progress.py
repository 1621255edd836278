"""The progress of a run, and its cancel."""

from __future__ import annotations

import comfy.model_management
from comfy.model_management import InterruptProcessingException as Cancelled
from comfy.utils import ProgressBar

__all__ = ["Cancelled", "ProgressBar", "stop_if_cancelled"]


def stop_if_cancelled() -> None:
    """Raises Cancelled if somebody pressed Cancel. The progress bar looks for that now and then by itself."""
    comfy.model_management.throw_exception_if_processing_interrupted()
