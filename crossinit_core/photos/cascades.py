"""Faces by OpenCV's frontal-face cascades, with its eye cascades for the roll of the head.

The cascades come inside the wheels of OpenCV 4, and of opencv-contrib-python from 5.1 on; other wheels of OpenCV 5 left them
out. They find frontal faces that are turned by up to about 15 degrees, so a photo without one is turned and tried again. Two cascades, which were trained separately, must agree on a
face: each by itself sees faces in gravel and in engines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..text import quoted
from .face_detection import Face, NoDetectorError, Point, roll_of

Grey = NDArray[np.uint8]

LONGEST_SIDE = 960
"""Pixels. A larger photo is made smaller before faces are looked for: a face to learn is not small at this size."""
LONGEST_SIDE_TURNED = 640
SMALLEST_FACE = 36
"""Pixels, on the photo as it is looked at."""

TURNED = (-20, 20, -40, 40, 90, -90, 180)
"""Degrees by which a photo without upright faces is looked at again."""

FEWEST_VOTES = 15
"""A face without eyes, or on a turned photo, needs more votes: with so many attempts, something always looks like a face.
Real faces had 16 to 85 votes, most others up to 14."""

_PATCH = 240
"""Pixels of a face's box when eyes are looked for."""

_FACE = "haarcascade_frontalface_alt2.xml"
_FACE_AGAIN = "haarcascade_frontalface_alt.xml"
_EYES = ("haarcascade_eye.xml", "haarcascade_eye_tree_eyeglasses.xml")


class CascadeDetector:
    """A FaceDetector: OpenCV's cascades, loaded once for any number of photos.

    Raises NoDetectorError if there is no OpenCV with cascades.
    """

    def __init__(self) -> None:
        self._cv = _opencv()
        self._face = _cascade(self._cv, _FACE)
        self._face_again = _cascade(self._cv, _FACE_AGAIN)
        self._eyes = [_cascade(self._cv, name) for name in _EYES]

    def find(self, photo: NDArray[np.uint8]) -> list[Face]:
        """Faces on a photo (H, W, 3) uint8 RGB, the largest first; empty if there is none.

        Upright faces first. Tilted heads and photos that lie on their side are tried only if no upright face has eyes.
        """
        grey: Grey = self._cv.cvtColor(np.ascontiguousarray(photo), self._cv.COLOR_RGB2GRAY)
        found = self._find_turned(grey, 0, LONGEST_SIDE)
        if not any(face.eyes for face in found):
            turned = [self._find_turned(grey, angle, LONGEST_SIDE_TURNED) for angle in TURNED]
            seen = [[face for face in faces if face.eyes and face.votes >= FEWEST_VOTES] for faces in turned]
            found = max([found, *seen], key=lambda faces: max((face.votes for face in faces), default=0))
        found = [face for face in found if face.eyes or face.votes >= FEWEST_VOTES]
        return sorted(found, key=lambda face: -face.width)

    def eyes_in(self, photo: NDArray[np.uint8], x: float, y: float, width: float) -> tuple[Point, Point] | None:
        """The eyes of a face whose cascade box has this middle and this side; None if they are not found."""
        grey: Grey = self._cv.cvtColor(np.ascontiguousarray(photo), self._cv.COLOR_RGB2GRAY)
        return self._find_eyes(grey, x, y, width, 0)

    def _find_turned(self, grey: Grey, angle: float, longest: int) -> list[Face]:
        """Faces that are upright once the photo is turned back by `angle` degrees, in coordinates of the photo."""
        cv = self._cv
        height, width = grey.shape
        scale = min(1.0, longest / max(height, width))
        cos, sin = _cos_sin(angle)
        size = (
            round(scale * (abs(cos) * width + abs(sin) * height)),
            round(scale * (abs(sin) * width + abs(cos) * height)),
        )
        small = cv.resize(grey, None, fx=scale, fy=scale, interpolation=cv.INTER_AREA) if scale < 1 else grey
        if angle:
            turn = np.array([[cos, sin], [-sin, cos]])
            shift = np.array(size) / 2 - turn @ (np.array(small.shape[::-1]) / 2)
            matrix = np.hstack([turn, shift[:, None]])
            small = cv.warpAffine(small, matrix, size, flags=cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        faces = []
        for left, top, side, votes in self._agreed(cv.equalizeHist(small)):
            across, down = left + (side - size[0]) / 2, top + (side - size[1]) / 2
            x = width / 2 + (cos * across - sin * down) / scale
            y = height / 2 + (sin * across + cos * down) / scale
            eyes = self._find_eyes(grey, x, y, side / scale, angle)
            faces.append(Face(x, y, side / scale, roll_of(eyes) if eyes else float(angle), eyes, votes))
        return faces

    def _agreed(self, grey: Grey) -> list[tuple[int, int, int, int]]:
        """(left, top, side, votes) of the faces that both cascades see."""
        smallest = (SMALLEST_FACE, SMALLEST_FACE)
        boxes, votes = self._face.detectMultiScale2(grey, scaleFactor=1.1, minNeighbors=3, minSize=smallest)
        agreed = []
        for (left, top, side, _), count in zip(boxes, votes, strict=True):
            margin = side // 3
            near = grey[max(0, top - margin) : top + side + margin, max(0, left - margin) : left + side + margin]
            smallest, largest = (int(side * 0.6),) * 2, (int(side * 1.5),) * 2
            again, votes_again = self._face_again.detectMultiScale2(
                np.ascontiguousarray(near), scaleFactor=1.08, minNeighbors=2, minSize=smallest, maxSize=largest
            )
            if len(again):
                agreed.append((int(left), int(top), int(side), int(count) + int(max(votes_again))))
        return agreed

    def _find_eyes(self, grey: Grey, x: float, y: float, width: float, angle: float) -> tuple[Point, Point] | None:
        """The likeliest two eyes in the box of a face that is turned by about `angle`."""
        for turned in (angle, angle - 14, angle + 14):
            cos, sin = _cos_sin(turned)
            patch = self._patch(grey, x, y, width, cos, sin)
            if pair := self._eyes_on(patch):
                (a, b), (c, d) = (
                    ((u - _PATCH / 2) * width / _PATCH, (v - _PATCH / 2) * width / _PATCH) for u, v in pair
                )
                return (x + cos * a - sin * b, y + sin * a + cos * b), (x + cos * c - sin * d, y + sin * c + cos * d)
        return None

    def _patch(self, grey: Grey, x: float, y: float, width: float, cos: float, sin: float) -> Grey:
        """The box of a face as an upright square of `_PATCH` pixels."""
        cv = self._cv
        shrink = max(1.0, width / (2 * _PATCH))
        if shrink > 1:
            grey = cv.resize(grey, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv.INTER_AREA)
        turn = _PATCH * shrink / width * np.array([[cos, sin], [-sin, cos]])
        shift = _PATCH / 2 - turn @ (np.array([x, y]) / shrink)
        matrix = np.hstack([turn, shift[:, None]])
        patch: Grey = cv.warpAffine(grey, matrix, (_PATCH, _PATCH), borderMode=cv.BORDER_REPLICATE)
        return patch

    def _eyes_on(self, patch: Grey) -> tuple[Point, Point] | None:
        found: list[tuple[float, float, float]] = []
        for cascade in self._eyes:
            boxes, votes = cascade.detectMultiScale2(
                patch[: int(0.65 * _PATCH)], scaleFactor=1.05, minNeighbors=2, minSize=(32, 32), maxSize=(100, 100)
            )
            found += [(a + w / 2, b + h / 2, float(v)) for (a, b, w, h), v in zip(boxes, votes, strict=True)]
        pairs = [(one, two) for one in found for two in found if _could_be_eyes(one, two)]
        if not pairs:
            return None
        one, two = max(pairs, key=lambda pair: min(pair[0][2], pair[1][2]))
        return _mean_near(one, found), _mean_near(two, found)


def _could_be_eyes(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    """Whether these lie on a patch as a left and a right eye do."""
    across, down = two[0] - one[0], two[1] - one[1]
    middle = (one[0] + two[0]) / 2 / _PATCH
    return 0.27 * _PATCH < across < 0.6 * _PATCH and abs(down) < 0.4 * across and 0.35 < middle < 0.65


def _mean_near(eye: tuple[float, float, float], found: list[tuple[float, float, float]]) -> Point:
    """The eye as the cascades see it together, by their votes."""
    near = np.array([other for other in found if np.hypot(other[0] - eye[0], other[1] - eye[1]) < 16])
    x, y = np.average(near[:, :2], axis=0, weights=near[:, 2])
    return float(x), float(y)


def _cos_sin(angle: float) -> tuple[float, float]:
    return float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))


def opencv() -> Any | None:
    """OpenCV's module in any version; None if it is not installed or does not load."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _opencv() -> Any:
    """OpenCV with its cascades."""
    try:
        import cv2
    except ImportError as error:
        raise NoDetectorError(f"OpenCV cannot be loaded: {quoted(str(error))}") from error
    cv: Any = cv2
    if not hasattr(cv, "CascadeClassifier") or not _data(cv, _FACE).is_file():
        raise NoDetectorError(f"OpenCV {cv.__version__} is without the face detector that OpenCV 4 brings")
    return cv


def _data(cv: Any, name: str) -> Path:
    """A file of OpenCV's own data, beside its module if `cv2.data` is missing or belongs to another package."""
    folder = getattr(getattr(cv, "data", None), "haarcascades", None) or Path(cv.__file__).parent / "data"
    return Path(folder) / name


def _cascade(cv: Any, name: str) -> Any:
    """A cascade from OpenCV's own data. Through Python's files: OpenCV's own reader fails in folders such as Jürgen."""
    text = _data(cv, name).read_text(encoding="utf-8")
    storage = cv.FileStorage(text, cv.FILE_STORAGE_READ | cv.FILE_STORAGE_MEMORY)
    cascade = cv.CascadeClassifier()
    if not cascade.read(storage.getFirstTopLevelNode()):
        raise NoDetectorError(f"OpenCV {cv.__version__} cannot read its own '{name}'")
    return cascade
