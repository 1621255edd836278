"""Eyes and brows in every expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Brush, Colour, Points, darker, mix
from .face import Face
from .identity import Identity

_EYE: dict[str, Colour] = {
    "dark": (40, 26, 22),
    "brown": (108, 62, 28),
    "hazel": (164, 122, 40),
    "green": (64, 146, 80),
    "blue": (56, 128, 212),
    "grey": (140, 156, 172),
}
_INK: Colour = (40, 24, 28)


# How an expression moves the face: eyelids (parts of the open eye), slope of the upper lid (positive: inner end
# lower), gaze down in pixels, brows up in pixels, turn of the brows in degrees (positive: inner end down).
@dataclass(frozen=True)
class _Mood:
    upper: float = 1.0
    lower: float = 1.0
    slope: float = 0.0
    gaze: float = 0.0
    brow_up: float = 0.0
    brow_turn: float = 0.0


_MOODS: dict[str, _Mood] = {
    "neutral": _Mood(),
    "happy": _Mood(upper=0.92, lower=0.25, gaze=-0.3, brow_up=1.4, brow_turn=-3),
    "sad": _Mood(upper=0.85, lower=0.85, slope=-0.55, gaze=1.1, brow_up=0.8, brow_turn=-24),
    "angry": _Mood(upper=0.85, lower=0.7, slope=0.65, brow_up=-2.6, brow_turn=24),
    "surprised": _Mood(upper=1.5, lower=1.3, brow_up=5.2, brow_turn=-2),
}


def paint_eyes(brush: Brush, identity: Identity, face: Face, expression: str) -> None:
    """Eyes and brows."""
    mood = _MOODS[expression]
    tilt = -9.0 + 20.0 * identity.eye_tilt
    lid = mix(darker(face.shade, 0.28), (70, 30, 40), 0.35 * identity.lashes)
    iris = _EYE[identity.eye_colour]
    along = np.linspace(-1.0, 1.0, 15)
    arch = np.clip(1 - along**2, 0, 1) ** 0.7
    width, height = face.eye_width, face.eye_height
    for side in (-1, 1):
        angle = np.deg2rad(-tilt * side)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centre = np.array([side * face.eye_x, face.eye_y])
        upper = -height * mood.upper * arch
        if mood.slope:
            # The lid is a straight line across the eye that cuts the arch.
            upper = np.maximum(upper, -height * (0.55 + mood.slope * along))
        lower = height * 0.85 * mood.lower * arch
        upper = np.minimum(upper, lower - 0.4 * arch)
        x = along * width * side
        top, bottom = np.stack([x, upper], 1), np.stack([x, lower], 1)
        # Eye shadow, then the white of the eye.
        brush.polygon(
            np.concatenate([top * (1.08, 1.0) - (0, 2.6), bottom[::-1] * (1.1, 1.0)]) @ turn + centre, lid, 0.30
        )
        brush.polygon(np.concatenate([top, bottom[::-1]]) @ turn + centre, (252, 250, 248))
        radius = min(width * 0.60, height * 1.02 + 0.8)
        for size, colour in ((1.0, darker(iris, 0.35)), (0.8, iris), (0.45, (16, 10, 14))):
            ring = _ring(radius * size, mood.gaze)
            ring[:, 1] = np.clip(
                ring[:, 1], np.interp(ring[:, 0] * side, x * side, upper), np.interp(ring[:, 0] * side, x * side, lower)
            )
            brush.polygon(ring @ turn + centre, colour)
        glint = np.array([-radius * 0.35, mood.gaze - radius * 0.38]) @ turn + centre
        if not mood.slope:
            brush.ellipse(glint[0], glint[1], 1.15, 1.15, (255, 255, 255))
        ink = _INK if identity.skin < 0.75 else (22, 14, 16)
        weight = 1.2 + 1.6 * identity.lashes
        brush.polygon(
            np.concatenate([top * (1.06, 1) - (0, weight * 0.75), top[::-1] + np.array([0, 0.25])]) @ turn + centre, ink
        )
        if identity.lashes > 0.4:
            # The wing at the outer corner.
            reach = 2.2 * identity.lashes
            corner = np.array(
                [
                    (side * width * 0.8, upper[12] - 0.6),
                    (side * (width + reach), upper[14] - reach - 0.4),
                    (side * width, 0.9),
                ]
            )
            brush.polygon(corner @ turn + centre, ink)
        _paint_brow(brush, identity, face, side, mood)


def _ring(radius: float, y: float) -> Points:
    angles = np.arange(24) * (2 * np.pi / 24)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles) + y], axis=1)


def brow_colour(face: Face) -> Colour:
    """Brows are the hair's colour, but never so light that they vanish."""
    colour = darker(face.hair, 0.22)
    return colour if abs(sum(face.skin) - sum(colour)) > 90 or sum(colour) < 200 else darker(face.shade, 0.35)


def _paint_brow(brush: Brush, identity: Identity, face: Face, side: int, mood: _Mood) -> None:
    turn = np.deg2rad(-13.0 + 18.0 * identity.brow_tilt + mood.brow_turn)
    cosine, sine = np.cos(turn), np.sin(turn)
    length = face.eye_width * 1.12 + 0.8
    arch = 1.9 if mood.brow_turn < 10 else 0.6
    local = ((-length, 0.9), (-length * 0.35, -arch * 0.55), (length * 0.35, -arch), (length * 1.05, 0.6))
    points = []
    for along, up in local:
        x, y = along * cosine + up * sine, -along * sine + up * cosine
        points.append((side * (face.eye_x + 0.4 + x), face.brow_y - mood.brow_up + y))
    brush.stroke(points, 1.5 + 3.2 * identity.brow_thickness, brow_colour(face), taper=0.62, start=0.75)
