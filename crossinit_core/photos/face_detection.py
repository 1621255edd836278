"""What a face detector is, and what it says of a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import Subject

Point = tuple[float, float]


class NoDetectorError(RuntimeError):
    """A detector's package is not there, or none is; the message of the latter says what to install."""

    subject: Subject = "detector"


@dataclass(frozen=True)
class Face:
    """A face in pixels of its photo.

    `x`, `y` is the middle of the detector's box, `width` the box's side. `eyes` are the centres of the eyes, the one on
    the picture's left first as the upright head shows them, or None. `roll` is how far the head is turned clockwise, in
    degrees: from the eyes if they were found, else the position in which the face was found. `mouth` is its middle, or
    None if the detector does not look for mouths.
    """

    x: float
    y: float
    width: float
    roll: float
    eyes: tuple[Point, Point] | None
    votes: int = 0
    """How many neighbouring windows of OpenCV's cascades saw the face."""
    mouth: Point | None = None
    points: tuple[Point, ...] | None = None
    """Left eye, right eye, nose, left and right corner of the mouth, or None if the detector does not look for them."""


class FaceDetector(Protocol):
    """Finds faces on photos."""

    def find(self, photo: NDArray[np.uint8]) -> list[Face]:
        """Faces on a photo (H, W, 3) uint8 RGB, the largest first; empty if there is none."""
        ...

    def eyes_in(self, photo: NDArray[np.uint8], x: float, y: float, width: float) -> tuple[Point, Point] | None:
        """The eyes of a face whose box from brow to chin has this middle and this side; None if they are not found."""
        ...


def roll_of(eyes: tuple[Point, Point]) -> float:
    """How far the line through the eyes is turned clockwise, in degrees."""
    (x0, y0), (x1, y1) = eyes
    return float(np.degrees(np.arctan2(y1 - y0, x1 - x0)))
