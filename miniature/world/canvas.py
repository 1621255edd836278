"""A brush that paints smooth shapes into a supersampled Pillow picture, and what it takes to mix colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 128
"""Side of a finished picture in pixels; all coordinates are in these pixels."""

SUPERSAMPLING = 3

Colour = tuple[int, int, int]
Points = NDArray[np.float64]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """`a` for amount 0, `b` for 1."""
    return (
        round(a[0] + (b[0] - a[0]) * amount),
        round(a[1] + (b[1] - a[1]) * amount),
        round(a[2] + (b[2] - a[2]) * amount),
    )


def darker(colour: Colour, amount: float) -> Colour:
    """Towards a warm near-black."""
    return mix(colour, (24, 12, 20), amount)


def lighter(colour: Colour, amount: float) -> Colour:
    """Towards white."""
    return mix(colour, (255, 252, 246), amount)


def ramp(colours: Sequence[Colour], position: float) -> Colour:
    """The colour at `position` 0..1 along evenly spaced colours."""
    place = position * (len(colours) - 1)
    index = min(int(place), len(colours) - 2)
    return mix(colours[index], colours[index + 1], place - index)


def _spline_basis(count: int, closed: bool, steps: int) -> Points:
    """(samples, count) weights of a Catmull-Rom spline through `count` points."""
    eye = np.eye(count)
    control = np.concatenate([eye[-1:], eye, eye[:2]]) if closed else np.concatenate([eye[:1], eye, eye[-1:]])
    pieces = count if closed else count - 1
    t = (np.arange(steps) / steps)[:, None, None]
    before, start, end, after = (control[i : i + pieces][None] for i in range(4))
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    weights = curve.transpose(1, 0, 2).reshape(pieces * steps, count)
    return weights if closed else np.concatenate([weights, eye[-1:]])


def _along(weights: Points) -> Points:
    """(samples, count) weights of an open curve's direction at its samples."""
    return np.concatenate([weights[1:2] - weights[:1], weights[2:] - weights[:-2], weights[-1:] - weights[-2:-1]])


_BASES = {
    (count, closed): _spline_basis(count, closed, 8 if count < 8 else 6)
    for count in range(2, 48)
    for closed in (False, True)
}
_DIRECTIONS = {count: _along(basis) for (count, closed), basis in _BASES.items() if not closed}
_ANGLES = np.arange(28) * (2 * math.pi / 28)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def curve(points: Sequence[Sequence[float]] | Points, closed: bool = False) -> Points:
    """(N, 2) points of a smooth curve through 2..47 points."""
    return _BASES[len(points), closed] @ np.asarray(points, dtype=np.float64)


def mirrored(right: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """A symmetric outline from its right half, given from the top (x = 0) to the bottom (x = 0)."""
    left = [(-x, y) for x, y in reversed(right) if x > 1e-6]
    return [(x, y) for x, y in right] + left


class Brush:
    """Paints into an RGB picture of `SIZE` * `SUPERSAMPLING` pixels, in coordinates of a `SIZE` pixel picture.

    `placed` gives a brush whose origin, scale, roll and handedness are those of a head.
    """

    def __init__(
        self, image: Image.Image, matrix: tuple[float, float, float, float] = (1, 0, 0, 1), x: float = 0, y: float = 0
    ) -> None:
        self.image = image
        self._solid = ImageDraw.Draw(image)
        self._blend = ImageDraw.Draw(image, "RGBA")
        self._matrix = np.array(matrix, dtype=np.float64).reshape(2, 2).T * SUPERSAMPLING
        self._offset = np.array([x, y]) * SUPERSAMPLING

    def placed(self, x: float, y: float, scale: float, roll: float, flip: bool) -> Brush:
        """A brush for the same picture with its origin at (x, y), scaled, rolled by degrees and perhaps mirrored."""
        cosine, sine = math.cos(math.radians(roll)) * scale, math.sin(math.radians(roll)) * scale
        side = -1.0 if flip else 1.0
        return Brush(self.image, (cosine * side, -sine, sine * side, cosine), x, y)

    def polygon(self, points: Sequence[Sequence[float]] | Points, fill: Colour, alpha: float = 1.0) -> None:
        """Fill the polygon; `alpha` below 1 lets the picture shine through."""
        pixels = np.rint(np.asarray(points, dtype=np.float64) @ self._matrix + self._offset)
        flat = pixels.astype(np.int64).ravel().tolist()
        if alpha >= 0.995:
            self._solid.polygon(flat, fill=fill)
        elif alpha > 0.01:
            self._blend.polygon(flat, fill=(*fill, round(255 * alpha)))

    def blob(self, points: Sequence[Sequence[float]], fill: Colour, alpha: float = 1.0) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(curve(points, closed=True), fill, alpha)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, alpha: float = 1.0, angle: float = 0.0
    ) -> None:
        """Fill an ellipse turned by `angle` degrees."""
        points = _CIRCLE * (rx, ry)
        if angle:
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            points = points @ np.array([[cosine, sine], [-sine, cosine]])
        self.polygon(points + np.array([x, y]), fill, alpha)

    def glow(self, x: float, y: float, rx: float, ry: float, fill: Colour, alpha: float) -> None:
        """A soft ellipse: three nested ones that add up to `alpha` in the middle."""
        for size in (1.0, 0.75, 0.5):
            self.ellipse(x, y, rx * size, ry * size, fill, alpha / 3)

    def stroke(
        self,
        points: Sequence[Sequence[float]],
        width: float,
        fill: Colour,
        alpha: float = 1.0,
        taper: float = 0.0,
        start: float = 1.0,
    ) -> None:
        """A smooth open line of `width` with round caps; `taper` 1 thins its end to nothing.

        `start` is the thickness of the beginning in parts of `width`.
        """
        control = np.asarray(points, dtype=np.float64)
        line = _BASES[len(points), False] @ control
        step = _DIRECTIONS[len(points)] @ control
        normal = step[:, ::-1] * (-1.0, 1.0) / (np.hypot(step[:, 0], step[:, 1])[:, None] + 1e-9)
        along = np.arange(len(line)) / (len(line) - 1)
        half = width / 2 * (start + (1 - start) * np.minimum(1.0, along * 2.5)) * (1 - taper * along**1.5)
        edge = normal * half[:, None]
        self.polygon(np.concatenate([line + edge, (line - edge)[::-1]]), fill, alpha)
        if taper < 0.6 and alpha >= 0.995 and width >= 1.5:
            for end in (0, -1):
                self.ellipse(line[end, 0], line[end, 1], half[end], half[end], fill)


def gradient(top: Colour, bottom: Colour) -> Image.Image:
    """A supersampled picture that goes from `top` to `bottom`."""
    side = SIZE * SUPERSAMPLING
    down = (np.arange(side) / (side - 1))[:, None]
    rows = np.rint(np.array(top) * (1 - down) + np.array(bottom) * down).astype(np.uint8)
    return Image.fromarray(rows[:, None, :]).resize((side, side), Image.Resampling.NEAREST)
