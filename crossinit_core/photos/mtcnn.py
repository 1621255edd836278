"""Faces by MTCNN, as the package facenet-pytorch brings it: three small networks with their weights (2 MB, MIT licence).

Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", IEEE Signal
Processing Letters 2016. It finds heads that are turned, tilted, small or half covered, with both eyes and the corners of the
mouth. It runs on the CPU, by PyTorch, and asks for no OpenCV. docs/face-detection.md compares it with others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..text import quoted
from .face_detection import Face, NoDetectorError, Point, roll_of

LONGEST_SIDE = 960
"""Pixels. A larger photo is made smaller before faces are looked for."""
SMALLEST_FACE = 24
"""Pixels, on the photo as it is looked at."""
SURE = 0.97
"""Of 1. Real faces had 0.99 and more, and what is not a face up to 0.96."""

CLOSE_UP = 160
"""Pixels of the side of the squares in which a face that was found is looked at again."""
CLOSE_UPS = (1.9, 2.2, 2.5)
"""Their sides, in widths of the face."""

NO_BOXES = "non-empty list"
"""In PyTorch's message when facenet-pytorch has no box left to look at."""

TURNED = (45, -45, 90, -90, 135, -135, 180)
"""Degrees by which a photo without a face is looked at again."""


class MtcnnDetector:
    """A FaceDetector: facenet-pytorch's MTCNN, loaded once for any number of photos.

    Raises NoDetectorError if the package is not installed or does not load.
    """

    def __init__(self) -> None:
        try:
            from facenet_pytorch import MTCNN
            from torchvision.ops import nms

            # The process may have another default device or dtype.
            with torch.device("cpu"):
                self._network: Any = MTCNN(keep_all=True, min_face_size=SMALLEST_FACE, device="cpu").float()
                self._close_up: Any = MTCNN(keep_all=True, min_face_size=CLOSE_UP // 4, device="cpu").float()
                # A torchvision for another PyTorch may load, and fail only here.
                nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float32), torch.ones(1, dtype=torch.float32), 0.5)
        except ModuleNotFoundError as error:
            raise NoDetectorError(f"{error.name} is not installed") from error
        except Exception as error:  # such as a torchvision for another PyTorch, or another version of the package
            raise NoDetectorError(f"facenet-pytorch cannot be loaded: {quoted(str(error))}") from error

    def find(self, photo: NDArray[np.uint8]) -> list[Face]:
        """Faces on a photo (H, W, 3) uint8 RGB, the largest first; empty if there is none.

        The photo is turned only if no face is found on it as it is. Then the turn counts that shows the surest and most
        upright face.
        """
        whole = Image.fromarray(photo)
        picture = whole.copy()
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
        scale = picture.width / whole.width
        found = self._find_turned(picture, 0, scale)
        if not found:
            turned = [self._find_turned(picture, angle, scale) for angle in TURNED]
            found = max(turned, key=lambda faces: max((sure for sure, _ in faces), default=0.0))
        largest_first = sorted((face for _, face in found), key=lambda face: -face.width)
        return [self._looked_at_again(whole, face) for face in largest_first]

    def eyes_in(self, photo: NDArray[np.uint8], x: float, y: float, width: float) -> tuple[Point, Point] | None:
        """The eyes of a face whose box from brow to chin has this middle and this side; None if they are not found."""
        height, across = photo.shape[:2]
        left, top = max(0, math.floor(x - 1.5 * width)), max(0, math.floor(y - 1.5 * width))
        right, bottom = min(across, math.ceil(x + 1.5 * width)), min(height, math.ceil(y + 1.5 * width))
        if right <= left or bottom <= top:
            return None
        faces = self.find(np.ascontiguousarray(photo[top:bottom, left:right]))
        near = [face for face in faces if math.hypot(face.x + left - x, face.y + top - y) < width / 3]
        if not near or near[0].eyes is None:
            return None
        (a, b), (c, d) = near[0].eyes
        return (a + left, b + top), (c + left, d + top)

    def _looked_at_again(self, photo: Image.Image, face: Face) -> Face:
        """The same face with better eyes: the mean of close-ups in which it stands upright.

        MTCNN takes some faces that are upside down for upright ones, so they are looked at both ways up. The way counts in
        which more close-ups show a face, and then the surer one.
        """
        best: tuple[int, float, Face] = (0, 0.0, face)
        for roll in (face.roll, face.roll + 180):
            seen = [
                found
                for part in CLOSE_UPS
                for mirrored in (False, True)
                for found in self._in_close_up(photo, face, roll, part, mirrored)
            ]
            if not seen or (len(seen), sum(sure for sure, _ in seen) / len(seen)) <= best[:2]:
                continue
            # Rows: the middle, the left eye, the right eye, the mouth; last the width.
            marks = np.mean([[(f.x, f.y), *(f.eyes or ()), f.mouth, (f.width, 0)] for _, f in seen], axis=0)
            (x, y), left, right, mouth, (width, _) = ((float(u), float(v)) for u, v in marks)
            points = np.mean([f.points or () for _, f in seen], axis=0)
            best = (
                len(seen),
                sum(sure for sure, _ in seen) / len(seen),
                Face(
                    x,
                    y,
                    width,
                    roll_of((left, right)),
                    (left, right),
                    mouth=mouth,
                    points=tuple((float(u), float(v)) for u, v in points),
                ),
            )
        return best[2]

    def _in_close_up(
        self, photo: Image.Image, face: Face, roll: float, part: float, mirrored: bool
    ) -> list[tuple[float, Face]]:
        """The face in a close-up that is turned by `roll` and `part` faces wide, in coordinates of the photo; or nothing."""
        step = part * face.width / CLOSE_UP  # pixels of the photo for one of the close-up
        cos, sin = step * math.cos(math.radians(roll)), step * math.sin(math.radians(roll))
        flip = -1 if mirrored else 1
        # From a pixel of the close-up to the one of the photo that it shows, as Image.transform wants it.
        a, b, d, e = flip * cos, -sin, flip * sin, cos
        c, f = face.x - (a + b) * CLOSE_UP / 2, face.y - (d + e) * CLOSE_UP / 2
        shrink = max(1, int(step))  # bilinear sampling would skip pixels
        reach = math.ceil(0.75 * part * face.width)  # the square's corners, however it is turned
        left, top = max(0, int(face.x) - reach), max(0, int(face.y) - reach)
        right, bottom = min(photo.width, int(face.x) + reach), min(photo.height, int(face.y) + reach)
        if right <= left or bottom <= top:
            return []
        source = photo.crop((left, top, right, bottom))
        source = source.reduce(shrink) if shrink > 1 else source
        matrix = tuple(value / shrink for value in (a, b, c - left, d, e, f - top))
        near = source.transform((CLOSE_UP, CLOSE_UP), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

        def place(point: Point) -> Point:
            return a * point[0] + b * point[1] + c, d * point[0] + e * point[1] + f

        def away(found: tuple[float, Face]) -> float:
            return math.hypot(found[1].x - CLOSE_UP / 2, found[1].y - CLOSE_UP / 2)

        faces = self._find_turned(near, 0, 1.0, self._close_up)
        if not faces or away(min(faces, key=away)) > CLOSE_UP / 8:
            return []
        sure, found = min(faces, key=away)
        if found.eyes is None or found.mouth is None or found.points is None:
            return []
        one, other = map(place, found.eyes[::flip])
        x, y = place((found.x, found.y))
        points = tuple(place(found.points[i]) for i in ((1, 0, 2, 4, 3) if mirrored else range(5)))
        again = Face(
            x, y, found.width * step, roll_of((one, other)), (one, other), mouth=place(found.mouth), points=points
        )
        return [(sure, again)]

    def _find_turned(
        self, picture: Image.Image, angle: float, scale: float, network: Any = None
    ) -> list[tuple[float, Face]]:
        """Faces that are upright once the picture is turned back by `angle` degrees, in coordinates of the photo.

        Each with how sure it is: MTCNN's probability, and less the further the face is from upright.
        """
        looked = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True) if angle else picture
        if min(looked.size) < SMALLEST_FACE:
            return []
        try:
            with torch.device("cpu"):
                boxes, sure, points = (network or self._network).detect(looked, landmarks=True)
        except RuntimeError as error:
            # facenet-pytorch 2.5.3 fails if its boxes all lie outside of the picture: there is no face. All else, such as
            # a lack of memory, is an error.
            if NO_BOXES not in str(error):
                raise
            return []
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))

        def place(x: float, y: float) -> Point:
            u, v = x - looked.width / 2, y - looked.height / 2
            return (
                float(picture.width / 2 + cos * u - sin * v) / scale,
                float(picture.height / 2 + sin * u + cos * v) / scale,
            )

        found: list[tuple[float, Face]] = []
        if boxes is None:
            return []
        for box, probability, marks in zip(
            *(np.asarray(part, np.float64) for part in (boxes, sure, points)), strict=True
        ):
            if probability < SURE or not np.isfinite(marks).all():
                continue
            left, right, _, corner_left, corner_right = marks
            tilt = abs(roll_of((tuple(left), tuple(right))))
            eyes = place(*left), place(*right)
            x, y = place((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            side = float(max(box[2] - box[0], box[3] - box[1])) / scale
            mouth = place(*((corner_left + corner_right) / 2))
            face = Face(x, y, side, roll_of(eyes), eyes, mouth=mouth, points=tuple(place(*mark) for mark in marks))
            found.append((float(probability) - tilt / 1000, face))
        return found
