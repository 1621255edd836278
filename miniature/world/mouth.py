"""Mouth and beard in every expression."""

from __future__ import annotations

import numpy as np

from .canvas import Brush, Colour, curve, darker, lighter, mix
from .face import Face
from .identity import Identity


def paint_mouth(brush: Brush, identity: Identity, face: Face, expression: str) -> None:
    """The mouth; lips keep their fullness and colour in every expression."""
    natural = mix(darker(face.skin, 0.10), (202, 88, 90), 0.42)
    lips = mix(natural, (208, 18, 46), 0.95 * identity.lip_colour)
    line = darker(lips, 0.5)
    inside: Colour = (96, 22, 30)
    teeth: Colour = (252, 250, 244)
    w, lip, y = face.mouth_width, face.lip, face.mouth_y
    if expression == "neutral":
        upper = [(-w, y - 1.5), (-w * 0.4, y - lip), (0, y - lip * 0.7), (w * 0.4, y - lip), (w, y - 1.5), (0, y + 0.5)]
        lower = [
            (-w * 0.88, y - 0.9),
            (0, y + 0.4),
            (w * 0.88, y - 0.9),
            (w * 0.4, y + lip * 1.25),
            (-w * 0.4, y + lip * 1.25),
        ]
        brush.blob(upper, darker(lips, 0.08))
        brush.blob(lower, lips)
        brush.stroke([(-w - 0.4, y - 1.9), (-w * 0.45, y), (0, y + 0.3), (w * 0.45, y), (w + 0.4, y - 1.9)], 1.0, line)
    elif expression == "happy":
        w *= 1.12

        def smile(grow: float) -> list[tuple[float, float]]:
            return [
                (-w - grow, y - 3.2 - grow * 0.4),
                (-w * 0.5, y - 1.6 - grow),
                (0, y - 0.8 - grow * 0.8),
                (w * 0.5, y - 1.6 - grow),
                (w + grow, y - 3.2 - grow * 0.4),
                (w * 0.62, y + 3.0 + grow),
                (0, y + 5.2 + grow * 1.2),
                (-w * 0.62, y + 3.0 + grow),
            ]

        brush.blob(smile(lip * 0.55 + 0.3), lips)
        brush.blob(smile(0), inside)
        brush.blob(
            [
                (-w * 0.86, y - 2.2),
                (0, y - 0.6),
                (w * 0.86, y - 2.2),
                (w * 0.62, y + 1.0),
                (0, y + 2.4),
                (-w * 0.62, y + 1.0),
            ],
            teeth,
        )
        crease = darker(face.shade, 0.18)
        for side in (-1, 1):
            brush.stroke(
                [(side * (w + 1.6), y - 5.6), (side * (w + 2.8), y - 3), (side * (w + 1.8), y - 0.6)], 1.1, crease, 0.9
            )
    elif expression == "sad":
        w *= 0.92
        arc = [(-w, y + 3.6), (-w * 0.5, y + 0.4), (0, y - 0.8), (w * 0.5, y + 0.4), (w, y + 3.6)]
        brush.blob(
            [
                (-w, y + 3.8),
                (-w * 0.45, y - lip * 0.75),
                (0, y - 0.9 - lip * 0.6),
                (w * 0.45, y - lip * 0.75),
                (w, y + 3.8),
                (0, y),
            ],
            darker(lips, 0.12),
        )
        brush.blob(
            [
                (-w * 0.8, y + 2.6),
                (0, y - 0.4),
                (w * 0.8, y + 2.6),
                (w * 0.35, y + 0.6 + lip * 1.25),
                (-w * 0.35, y + 0.6 + lip * 1.25),
            ],
            lips,
        )
        brush.stroke(arc, 1.3, line)
    elif expression == "angry":
        w *= 0.98

        def snarl(grow: float) -> list[tuple[float, float]]:
            return [
                (-w - grow, y + 3.2),
                (-w * 0.72, y - 1.2 - grow),
                (0, y - 2.4 - grow),
                (w * 0.72, y - 1.2 - grow),
                (w + grow, y + 3.2),
                (w * 0.6, y + 3.4 + grow),
                (0, y + 2.6 + grow),
                (-w * 0.6, y + 3.4 + grow),
            ]

        brush.blob(snarl(lip * 0.5 + 0.5), lips)
        brush.blob(snarl(0), teeth)
        brush.stroke([(-w * 0.9, y + 1.5), (0, y + 0.2), (w * 0.9, y + 1.5)], 0.8, inside)
        for x in (-0.55, -0.18, 0.18, 0.55):
            brush.stroke([(w * x, y - 2.1), (w * x, y + 3)], 0.65, inside)
        crease = darker(face.shade, 0.3)
        for side in (-1, 1):
            brush.stroke([(side * 2.0, face.brow_y - 1.0), (side * 1.3, face.brow_y + 4.2)], 1.2, crease, 0.9)
    else:
        rx, ry = 2.6 + w * 0.33, 6.0
        brush.ellipse(0, y + 1.6, rx + 0.6 + lip * 0.5, ry + 0.5 + lip * 0.5, lips)
        brush.ellipse(0, y + 1.6, rx, ry, inside)
        brush.blob([(-rx * 0.7, y - 2), (0, y - 3.8), (rx * 0.7, y - 2), (0, y - 1.4)], teeth)
        brush.ellipse(0, y + 5, rx * 0.6, 2.0, (196, 84, 88))


def paint_beard(brush: Brush, identity: Identity, face: Face, expression: str) -> None:
    """Everything of a beard that lies under the mouth; `paint_moustache` comes after it."""
    if identity.beard in ("none", "moustache"):
        return
    low = {"happy": 3.0, "surprised": 5.5, "angry": 2.0, "sad": 1.5}.get(expression, 0.0)
    y, w, chin = face.mouth_y, face.mouth_width, face.chin
    colour = darker(face.hair, 0.12)
    if identity.beard == "goatee":
        half = max(4.5, min(w * 0.75, face.jaw_width * 0.55))
        brush.blob(
            [
                (-half, y + 4 + low * 0.8),
                (0, y + 3.4 + low),
                (half, y + 4 + low * 0.8),
                (half * 0.85, chin + 1),
                (0, chin + 5),
                (-half * 0.85, chin + 1),
            ],
            colour,
        )
        return
    stubble = identity.beard == "stubble"
    grow = 0.0 if stubble else 3.4
    side = [
        (face.width + grow * 0.1 - 0.4, 2),
        (face.width * 0.97 + grow * 0.3, 11),
        (face.jaw_width + grow * 0.9, chin - 11),
        (face.jaw_width * 0.55 + grow * 0.5, chin - 2 + grow),
        (0, chin + grow * 1.25),
    ]
    outer = curve([*side, *[(-x, v) for x, v in reversed(side[:-1])]])
    inner_right = [
        (0, y - 6.3),
        (w * 0.7, y - 5.6),
        (w + 2.6, y - 2.4),
        (face.width * 0.74, y - 7 if y - 7 > 6 else 6),
        (face.width * 0.86, 2),
    ]
    inner = curve([*[(-x, v) for x, v in reversed(inner_right)], *inner_right[1:]])
    area = np.concatenate([outer, inner])
    if stubble:
        brush.polygon(area, mix(colour, face.shade, 0.25), 0.45)
        return
    brush.polygon(area, colour)
    tint = lighter(face.hair, 0.14)
    for x in (-0.5, 0.0, 0.5):
        brush.stroke(
            [(face.jaw_width * x, y + 8 + low), (face.jaw_width * x * 0.9, chin + 1)], 1.1, tint, 0.8, taper=0.5
        )


def paint_moustache(brush: Brush, identity: Identity, face: Face, expression: str) -> None:
    """The moustache of a moustache, a goatee or a full beard."""
    if identity.beard in ("none", "stubble"):
        return
    up = {"happy": -3.0, "surprised": -4.4, "angry": -3.2, "sad": -1.0}.get(expression, -0.9)
    droop = {"happy": -1.2, "sad": 2.0, "angry": 1.5}.get(expression, 0.0)
    y = face.mouth_y + up - face.lip * 0.35
    w = face.mouth_width * (1.12 if identity.beard == "moustache" else 0.98)
    thick = 3.6 if identity.beard == "moustache" else 2.8
    colour = darker(face.hair, 0.2)
    top = max(y - thick, face.nose_y + 1.2)
    brush.blob(
        [
            (0, top + 0.4),
            (w * 0.45, top),
            (w + 1.4, y + 0.5 + droop),
            (w * 0.6, y + 0.8 + droop * 0.4),
            (0, y - 0.2),
            (-w * 0.6, y + 0.8 + droop * 0.4),
            (-w - 1.4, y + 0.5 + droop),
            (-w * 0.45, top),
        ],
        colour,
    )
    brush.stroke([(w * 0.15, top + 1.2), (w * 0.8, y + 0.4 + droop)], 0.7, lighter(face.hair, 0.15), 0.7)
