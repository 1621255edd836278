"""Square frames on a photo, and the pictures and masks that they cut out.

The framing is that of CelebA-HQ (Karras et al., "Progressive Growing of GANs", ICLR 2018, appendix C): with the vector
x' between the eyes and y' from the eyes to the mouth, the square has the side max(4 |x'|, 3.6 |y'|), stands upright on the
mean of x' and of y' turned by a quarter, and has its centre 0.1 |y'| below the eyes' middle. If only the eyes are known, |y'|
is taken as |x'|, which it is within a tenth on a frontal face; so the side is 4 |x'|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .face_detection import Face, Point, roll_of

EYE_DISTANCES = 4.0
MOUTH_DISTANCES = 3.6
CENTRE_BELOW_EYES = 0.1

# Of a frontal-face cascade's box: its side against the frame's, and how far above its middle the frame's centre is.
# Measured on the frames that the eyes gave on scikit-image's and matplotlib's portraits, 1.9 and 1.5.
CASCADE_BOXES = 1.7
CENTRE_ABOVE_CASCADE = 0.085

# Of a box from forehead to chin, as other detectors give, and of a head with its hair.
FACE_BOXES = 1.65
CENTRE_ABOVE_BOX = 0.06
HEADS = 1.15


@dataclass(frozen=True)
class Frame:
    """A square on a photo: its centre and side in pixels, and how far it is turned clockwise, in degrees."""

    x: float
    y: float
    side: float
    roll: float = 0.0

    def zoomed(self, zoom: float) -> Frame:
        """The frame of a larger (zoom > 1) or a smaller face."""
        return replace(self, side=self.side / zoom)

    def corners(self) -> list[tuple[float, float]]:
        """Top left, top right, bottom right, bottom left."""
        cos, sin = math.cos(math.radians(self.roll)), math.sin(math.radians(self.roll))
        half = self.side / 2
        offsets = ((-half, -half), (half, -half), (half, half), (-half, half))
        return [(self.x + cos * u - sin * v, self.y + sin * u + cos * v) for u, v in offsets]


def frame_of_face(face: Face, straighten: bool = True) -> Frame:
    """The frame of a face that was found; turned with the head if `straighten` is on."""
    roll = face.roll if straighten else 0.0
    if face.eyes is None:
        return _above(face.x, face.y, roll, CENTRE_ABOVE_CASCADE * face.width, CASCADE_BOXES * face.width)
    if face.mouth is not None:
        return frame_of_eyes_and_mouth(face.eyes, face.mouth, straighten)
    return frame_of_eyes(face.eyes, roll, at_least=1.35 * face.width)


def frame_of_eyes(eyes: tuple[tuple[float, float], tuple[float, float]], roll: float, at_least: float = 0) -> Frame:
    """The frame of two eyes; `at_least` is a smallest side, for a head that looks aside."""
    (x0, y0), (x1, y1) = eyes
    distance = math.hypot(x1 - x0, y1 - y0)
    below = _above((x0 + x1) / 2, (y0 + y1) / 2, roll_of(eyes), -CENTRE_BELOW_EYES * distance, 0)
    return Frame(below.x, below.y, max(EYE_DISTANCES * distance, at_least), roll)


def frame_of_eyes_and_mouth(eyes: tuple[Point, Point], mouth: Point, straighten: bool = True) -> Frame:
    """CelebA-HQ's own frame. The mouth says how large a head is that looks aside, for its eyes are near each other."""
    (x0, y0), (x1, y1) = eyes
    across, down = x1 - x0, y1 - y0
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    to_mouth = mouth[0] - middle[0], mouth[1] - middle[1]
    # y' turned by a quarter points from the left eye to the right one.
    roll = math.degrees(math.atan2(down - to_mouth[0], across + to_mouth[1]))
    side = max(EYE_DISTANCES * math.hypot(across, down), MOUTH_DISTANCES * math.hypot(*to_mouth))
    x, y = (start + CENTRE_BELOW_EYES * way for start, way in zip(middle, to_mouth, strict=True))
    return Frame(x, y, side, roll if straighten else 0.0)


def frame_of_box(left: float, top: float, width: float, height: float) -> Frame:
    """The frame of a face whose box goes from forehead to chin."""
    size = max(width, height)
    return _above(left + width / 2, top + height / 2, 0, CENTRE_ABOVE_BOX * size, FACE_BOXES * size)


def frame_of_mask(mask: Tensor) -> Frame | None:
    """The frame of a head (H, W) that is white on a mask with its hair; None if nothing is white."""
    rows, columns = (mask > 0.5).nonzero(as_tuple=True)
    if not len(rows):
        return None
    left, right = int(columns.min()), int(columns.max()) + 1
    top, bottom = int(rows.min()), int(rows.max()) + 1
    return Frame((left + right) / 2, (top + bottom) / 2, HEADS * max(right - left, bottom - top))


def frame_by_hand(height: int, width: int, x: float, y: float, size: float, roll: float) -> Frame:
    """A frame from fractions: centre in 0..1 of width and height, side in 0..1 of the shorter side, roll in degrees."""
    return Frame(x * width, y * height, size * min(height, width), roll)


def cut(pictures: Tensor, frame: Frame, size: int, *, fill: str = "reflection") -> Tensor:
    """(N, C, H, W) in 0..1 -> (N, C, size, size), what is inside of the frame.

    What lies outside of the photo is its mirror image, or black for `fill="zeros"`.
    """
    height, width = pictures.shape[-2:]
    # Sampling point by point is for about the photo's own scale; what is to be made much smaller is averaged first.
    working = min(max(round(frame.side), size), 4 * size)
    shrink = frame.side / working
    if shrink > 1:
        pictures = F.interpolate(
            pictures, size=(max(1, round(height / shrink)), max(1, round(width / shrink))), mode="area"
        )
    grid = _grid(frame, height, width, working, pictures.dtype)
    sampled = F.grid_sample(
        pictures,
        grid.expand(len(pictures), -1, -1, -1),
        mode="bicubic",
        padding_mode=fill,
        align_corners=False,
    )
    if working != size:
        sampled = F.interpolate(sampled, size=(size, size), mode="bicubic", antialias=True)
    return sampled.clamp(0, 1)


def share_inside(frame: Frame, height: int, width: int, *, middle: float = 1.0) -> float:
    """How much of the frame, or of its `middle` part, is on the photo: 0..1."""
    grid = _grid(replace(frame, side=frame.side * middle), height, width, 64, torch.float32)
    return float((grid.abs() <= 1).all(dim=-1).float().mean())


def _grid(frame: Frame, height: int, width: int, size: int, dtype: torch.dtype) -> Tensor:
    """(1, size, size, 2): where the frame's pixels lie on the photo, whose sides are -1 and 1."""
    steps = ((torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5) * frame.side
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    cos, sin = math.cos(math.radians(frame.roll)), math.sin(math.radians(frame.roll))
    x, y = frame.x + cos * u - sin * v, frame.y + sin * u + cos * v
    return torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)[None].to(dtype)


def _above(x: float, y: float, roll: float, distance: float, side: float) -> Frame:
    """A frame whose centre is `distance` above a point, in the upright direction of a head that is turned by `roll`."""
    turned = math.radians(roll)
    return Frame(x + math.sin(turned) * distance, y - math.cos(turned) * distance, side, roll)
