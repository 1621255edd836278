"""Faces by MTCNN, as the package facenet-pytorch brings it: three small networks with their weights (2 MB, MIT licence).

Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", IEEE Signal
Processing Letters 2016. It finds heads that are turned, tilted, small or half covered, with both eyes and the corners of the
mouth. It runs on the CPU, by PyTorch, and asks for no OpenCV. docs/face-detection.md compares it with others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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

CLOSE_UP = 240
"""Pixels of the square in which a face that was found is looked at again; the face takes 1 of 2.5 parts of its side."""

TURNED = (45, -45, 90, -90, 135, -135, 180)
"""Degrees by which a photo without a face is looked at again."""


class MtcnnDetector:
    """A FaceDetector: facenet-pytorch's MTCNN, loaded once for any number of photos.

    Raises NoDetectorError if the package is not installed or does not load.
    """

    def __init__(self) -> None:
        try:
            from facenet_pytorch import MTCNN

            self._network: Any = MTCNN(keep_all=True, min_face_size=SMALLEST_FACE, device="cpu")
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
        """The same face with better eyes, from a close-up in which it stands upright.

        MTCNN takes some faces that are upside down for upright ones, so the close-up is looked at both ways up.
        """
        seen: list[tuple[float, Face]] = []
        reach = CLOSE_UP / 2.5 / face.width
        for roll in (face.roll, face.roll + 180):
            cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
            # From a pixel of the close-up to the pixel of the photo that it shows, as Image.transform wants it.
            across, down = (cos / reach, -sin / reach), (sin / reach, cos / reach)
            x = face.x - (across[0] + across[1]) * CLOSE_UP / 2
            y = face.y - (down[0] + down[1]) * CLOSE_UP / 2
            source, matrix = photo, (*across, x, *down, y)
            if reach < 0.5:  # bilinear sampling would skip pixels
                shrink = max(1, int(0.7 / reach))
                source = photo.reduce(shrink)
                matrix = tuple(part / shrink for part in matrix)
            near = source.transform((CLOSE_UP, CLOSE_UP), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            for sure, other in self._find_turned(near, 0, 1.0):
                if math.hypot(other.x - CLOSE_UP / 2, other.y - CLOSE_UP / 2) > CLOSE_UP / 8 or other.mouth is None:
                    continue

                def place(point: Point, matrix: tuple[float, ...] = (*across, x, *down, y)) -> Point:
                    u, v = point
                    return matrix[0] * u + matrix[1] * v + matrix[2], matrix[3] * u + matrix[4] * v + matrix[5]

                assert other.eyes is not None
                eyes = place(other.eyes[0]), place(other.eyes[1])
                middle = place((other.x, other.y))
                again = Face(*middle, other.width / reach, roll_of(eyes), eyes, mouth=place(other.mouth))
                seen.append((sure, again))
        return max(seen, key=lambda sure: sure[0])[1] if seen else face

    def _find_turned(self, picture: Image.Image, angle: float, scale: float) -> list[tuple[float, Face]]:
        """Faces that are upright once the picture is turned back by `angle` degrees, in coordinates of the photo.

        Each with how sure it is: MTCNN's probability, and less the further the face is from upright.
        """
        looked = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True) if angle else picture
        if min(looked.size) < SMALLEST_FACE:
            return []
        try:
            boxes, sure, points = self._network.detect(looked, landmarks=True)
        except (RuntimeError, IndexError, ValueError):
            # facenet-pytorch 2.5.3 fails if its first network's boxes all lie outside of the picture: there is no face.
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
            face = Face(x, y, side, roll_of(eyes), eyes, mouth=place(*((corner_left + corner_right) / 2)))
            found.append((float(probability) - tilt / 1000, face))
        return found
