"""Which face detector is used: the best of those that are installed."""

from __future__ import annotations

from collections.abc import Callable

from ..installing import pip_command
from .cascades import CascadeDetector
from .face_detection import FaceDetector, NoDetectorError
from .mtcnn import MtcnnDetector

DETECTORS: tuple[Callable[[], FaceDetector], ...] = (MtcnnDetector, CascadeDetector)
"""The best first, as docs/face-detection.md measured them."""

PACKAGE = "facenet-pytorch<2.6"
"""What to install: 2.6 asks for PyTorch 2.2, so pip would take a newer PyTorch away."""


def face_detector() -> FaceDetector:
    """The best detector that works here. Raises NoDetectorError, which says why none does and what to install."""
    reasons = []
    for detector in DETECTORS:
        try:
            return detector()
        except NoDetectorError as error:
            reasons.append(str(error))
    raise NoDetectorError(
        f"Finding a face needs a face detector, and none works here ({'; '.join(reasons)}). "
        f"Install one: {pip_command(PACKAGE)}"
    )
