"""Hair: what lies behind the head and what lies on it, for every style, fringe and hat."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Brush, Points, curve, darker, lighter, mix
from .face import Face
from .identity import Identity

HAT_LINE = -22.0
"""Under a hat (not a crown) no hair reaches higher than this."""

_VOLUME: dict[str, float] = {
    "bald": 0.0,
    "buzz": 0.8,
    "short": 3.2,
    "side_part": 4.5,
    "quiff": 4.0,
    "curly": 6.0,
    "afro": 9.0,
    "bob": 5.0,
    "straight": 4.0,
    "wavy": 6.0,
    "bun": 2.0,
    "ponytail": 2.4,
}
LONG = ("bob", "straight", "wavy")
HIDES_EARS = (*LONG, "afro", "curly")


def height(identity: Identity, face: Face) -> float:
    """The top of the hair, without a bun or a quiff; for what is worn over it."""
    return face.top - _VOLUME[identity.hair_style]


def _under(points: Points, hat: str) -> Points:
    """Pressed down by a hat."""
    if hat in ("none", "crown"):
        return points
    return np.stack([points[:, 0], np.maximum(points[:, 1], HAT_LINE)], axis=1)


def _bumps(points: Points, radius: float) -> list[tuple[float, float]]:
    """Every second point pushed outwards, for waves and curls."""
    return [
        (x + math.copysign(radius, x) * (1 if i % 2 else -0.35), y) if abs(x) > 1 else (x, y)
        for i, (x, y) in enumerate(points.tolist())
    ]


def paint_back(brush: Brush, identity: Identity, face: Face, hat: str) -> None:
    """Hair behind the neck: it lies over the clothes and under neck and head."""
    style, w = identity.hair_style, face.width
    volume = _VOLUME[style]
    back = darker(face.hair, 0.26)
    if style in LONG:
        end = 27 + 13 * identity.hair_length if style == "bob" else 42 + 24 * identity.hair_length
        flare = {"bob": 5.5, "straight": 3.0, "wavy": 8.0}[style]
        right = [(0.0, face.top - volume), (w * 0.62, face.top + 2 - volume * 0.7), (w + volume * 0.85, -14.0)]
        steps = 3 if style == "bob" else 6
        for i in range(1, steps + 1):
            t = i / steps
            right.append((w + volume * 0.85 + flare * math.sin(t * 2.2), -14 + (end + 14) * t))
        if style == "wavy":
            right = [(x + (3.0 if i % 2 else -2.4) * (i > 2), y) for i, (x, y) in enumerate(right)]
        inside = 0.55 if style == "bob" else 0.5
        right.append((w * inside, end + (1.5 if style == "bob" else 4.0)))
        outline = curve([*right, *[(-x, y) for x, y in reversed(right[1:])]], closed=True)
        brush.polygon(_under(outline, hat), back)
        streak = mix(back, face.hair, 0.75)
        for side in (-1, 1):
            for place in (0.3, 0.8):
                x = side * (w * 0.86 + (volume + flare) * place)
                sway = 3.0 if style == "wavy" else 0.4
                brush.stroke(
                    [(x, 2), (x + side * sway, end * 0.4), (x - side * sway * 0.6, end * 0.7), (x, end - 3)],
                    2.6, streak, taper=0.75,
                )  # fmt: skip
    elif style == "afro":
        radius = w + 11 + 8 * identity.hair_length
        angles = np.linspace(-0.30 * np.pi, 1.30 * np.pi, 19)
        ring = np.stack([np.cos(angles) * radius, -10 - np.sin(angles) * radius * 0.93], axis=1)
        ring[1::2] *= 1.045
        brush.polygon(_under(curve(ring, closed=True), hat), face.hair)
        tint = lighter(face.hair, 0.13)
        if hat in ("none", "crown"):
            for angle in np.linspace(0.15 * np.pi, 0.85 * np.pi, 8):
                for reach in (0.93, 0.8):
                    brush.ellipse(
                        math.cos(angle) * radius * reach, -10 - math.sin(angle) * radius * reach * 0.93, 1.6, 1.6, tint
                    )
    elif style == "curly":
        low = 6 + 26 * identity.hair_length
        for side in (-1, 1):
            for i, t in enumerate(np.linspace(0, 1, 6)):
                y = -16 + (low + 16) * t
                brush.ellipse(side * (w + 1.5 + (1.6 if i % 2 else 0)), y, 6.2, 6.4, back)
    elif style == "bun" and hat in ("none", "crown"):
        y = face.top - 7.0 if hat == "none" else face.top - 2.0
        brush.ellipse(0, y, 11.5, 9.5, face.hair)
        brush.ellipse(-2.0, y - 2.4, 6, 4, lighter(face.hair, 0.2))
        brush.ellipse(0, y + 6.2, 8.5, 2.3, darker(face.hair, 0.4))
    elif style == "ponytail":
        end = 34 + 24 * identity.hair_length
        tail = [
            (w * 0.7, -24),
            (w + 9, -22),
            (w + 14.5, -4),
            (w + 12, end * 0.55),
            (w + 5, end),
            (w + 1, end - 8),
            (w + 3, end * 0.4),
            (w + 2, -6),
        ]
        brush.polygon(_under(curve(tail, closed=True), hat), face.hair)
        brush.stroke(
            [(w + 6, -16), (w + 10, -2), (w + 7.5, end * 0.55), (w + 4.5, end - 6)],
            2.4,
            lighter(face.hair, 0.22),
            taper=0.7,
        )
        brush.ellipse(w + 1.5, -19, 3.4, 5, (206, 62, 84), angle=-35)


def _hairline(identity: Identity, face: Face, low: float) -> list[tuple[float, float]]:
    """The edge of the hair on the skin, from the left side over the forehead to the right side."""
    w = face.width
    style = identity.hair_style
    rise = 0.0 if identity.fringe != "none" else identity.hairline
    if identity.fringe == "straight" and style not in ("quiff", "buzz", "afro"):
        y = face.brow_y - 2.6
        return [
            (-w * 0.98, low),
            (-w * 0.91, y + 4.5),
            (-w * 0.72, y),
            (-w * 0.36, y - 1.0),
            (0, y + 0.4),
            (w * 0.36, y - 1.0),
            (w * 0.72, y),
            (w * 0.91, y + 4.5),
            (w * 0.98, low),
        ]
    if style == "side_part" or (identity.fringe == "side" and style not in ("quiff", "buzz", "afro")):
        # Swept from a parting on the right over the forehead to the left.
        y = face.brow_y + (-2.0 if identity.fringe == "side" else -5.0)
        return [
            (-w * 0.98, low),
            (-w * 0.93, y + 4),
            (-w * 0.78, y + 0.5),
            (-w * 0.3, y - 4),
            (w * 0.22, -26),
            (w * 0.42, -31),
            (w * 0.62, -24),
            (w * 0.86, -15),
            (w * 0.98, low),
        ]
    y = -21.5 - 9.5 * rise
    temple = -17.0 - 8.0 * rise
    return [
        (-w * 0.985, low),
        (-w * 0.9, temple + 5),
        (-w * 0.68, temple - 3 * rise),
        (-w * 0.3, y + 1.5 * rise),
        (0, y + 2.2 * (1 - rise)),
        (w * 0.3, y + 1.5 * rise),
        (w * 0.68, temple - 3 * rise),
        (w * 0.9, temple + 5),
        (w * 0.985, low),
    ]


def paint_front(brush: Brush, identity: Identity, face: Face, hat: str) -> None:
    """Hair on the head, over skin and brows."""
    style, w = identity.hair_style, face.width
    if style == "bald":
        if hat == "none":
            brush.glow(-w * 0.3, face.top + 9, 8, 5, lighter(face.skin, 0.7), 0.7)
        return
    volume = _VOLUME[style]
    if style == "afro":
        volume += 3
    low = {
        "short": 1.0,
        "side_part": 1.0,
        "quiff": -2.0,
        "buzz": -3.0,
        "curly": 4.0,
        "afro": 2.0,
        "bun": -5.0,
        "ponytail": -5.0,
    }.get(style, 9.0 if style == "bob" else 14.0)
    wide = volume * {"side_part": 0.35, "quiff": 0.25, "short": 0.5}.get(style, 0.8)
    outer = [
        (w + wide * 0.9, low),
        (w + wide, -12.0),
        (w * 0.9 + wide, -24.0),
        (w * 0.58 + wide * 0.6, face.top + 3 - volume * 0.8),
        (0.0, face.top - volume),
    ]
    left = [(-x, y) for x, y in reversed(outer[:-1])]
    if style == "side_part":
        outer = [
            (w + wide, low),
            (w + wide, -14.0),
            (w * 0.86 + wide, -27),
            (w * 0.45, face.top - 1.5),
            (0.0, face.top - volume - 1),
        ]
        left = [
            (-w * 0.55, face.top - volume + 0.5),
            (-w * 0.95 - wide, -25.0),
            (-w - wide, -12.0),
            (-w - wide * 0.8, low),
        ]
    elif style == "quiff":
        outer = [
            (w + wide, low),
            (w + wide * 0.7, -14.0),
            (w * 0.92 + wide, -29),
            (w * 0.66, face.top - 8.5),
            (w * 0.1, face.top - 12.0),
        ]
        left = [(-w * 0.5, face.top - 8.0), (-w * 0.9 - wide, -30.0), (-w - wide * 0.7, -14.0), (-w - wide, low)]
    top = np.array([*outer, *left])
    if style in ("curly", "afro"):
        ring = curve(top)[::3]
        top = np.array(_bumps(ring, 1.6))
    line = _hairline(identity, face, low)
    inner = curve(line)
    if style in ("curly", "afro"):
        inner = inner + np.stack([np.zeros(len(inner)), 1.5 * np.sin(np.arange(len(inner)) * 1.05)], axis=1)
    area = _under(np.concatenate([curve(top), inner]), hat)
    if style == "buzz":
        brush.polygon(area, mix(face.hair, face.skin, 0.22))
        return
    if style not in ("curly", "afro"):
        # A thin shadow that the hair throws on the skin.
        brush.polygon(np.concatenate([inner + np.array([0, 2.0]), inner[::-1]]), darker(face.shade, 0.18), 0.75)
    brush.polygon(area, face.hair)
    if hat in ("none", "crown"):
        _paint_shine(brush, identity, face, volume, line)


def _paint_shine(brush: Brush, identity: Identity, face: Face, volume: float, line: list[tuple[float, float]]) -> None:
    style, w, top = identity.hair_style, face.width, face.top - volume
    light, dark = lighter(face.hair, 0.24), darker(face.hair, 0.3)
    if style in ("curly", "afro"):
        spots = (
            (-0.62, 8),
            (-0.25, 3.5),
            (0.15, 3),
            (0.52, 6),
            (-0.45, 14),
            (0.0, 9.5),
            (0.4, 13),
            (0.78, 14),
            (-0.85, 17),
        )
        for x, y in spots:
            brush.stroke([(w * x - 3, top + y + 1.5), (w * x, top + y - 1.2), (w * x + 3, top + y + 1.5)], 1.6, light)
        return
    if style == "quiff":
        for x in (-0.5, -0.15, 0.2, 0.5):
            brush.stroke(
                [(w * x, -25), (w * (x + 0.05), top - 1), (w * (x + 0.25), top - 4.5)],
                1.8,
                light if x < 0.3 else dark,
                taper=0.6,
            )
        return
    if style == "side_part" or identity.fringe == "side":
        part = (w * 0.44, top + 6)
        for reach, colour in ((0.35, light), (0.62, light), (0.84, dark)):
            brush.stroke(
                [part, (w * 0.44 - w * reach * 0.6, top + 7), (-w * reach * 0.9, top + 13 + 8 * reach)],
                1.7,
                colour,
                taper=0.7,
            )
        brush.stroke([part, (w * 0.72, top + 12), (w * 0.9, -14)], 1.3, dark, taper=0.7)
        return
    if identity.fringe == "straight":
        for x in (-0.7, -0.35, 0.0, 0.35, 0.7):
            brush.stroke(
                [(w * x * 0.85, top + 8), (w * x * 1.02, face.brow_y - 2.2)],
                1.3,
                dark if x in (-0.35, 0.35) else light,
                taper=0.6,
            )
        return
    if style in ("straight", "wavy", "bob"):
        brush.stroke([(0, top + 1.5), (0, line[4][1] - 1)], 1.1, dark)
    brush.stroke([(-w * 0.78, -22), (-w * 0.55, top + 8), (-w * 0.15, top + 4.5)], 2.2, light, taper=0.4)
    brush.stroke([(w * 0.8, -20), (w * 0.6, top + 9), (w * 0.35, top + 5.5)], 1.5, light, taper=0.6)
    if style in ("bun", "ponytail"):
        for x in (-0.35, 0.3):
            brush.stroke([(w * x, line[4][1] - 1), (w * x * 0.5, top + 3)], 1.1, dark, taper=0.5)
