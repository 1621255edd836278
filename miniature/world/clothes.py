"""Clothes: what hangs from the shoulders, what lies on the neck, and the helmet of a spacesuit."""

from __future__ import annotations

import numpy as np

from .canvas import Brush, Colour, Points, curve, darker, lighter, mix
from .face import Face

FABRIC: dict[str, Colour] = {
    "red": (208, 48, 52),
    "orange": (238, 128, 40),
    "yellow": (246, 206, 62),
    "green": (58, 148, 84),
    "blue": (48, 98, 190),
    "purple": (124, 70, 160),
    "pink": (240, 138, 172),
    "brown": (128, 84, 56),
    "white": (244, 243, 240),
    "black": (44, 44, 52),
    "grey": (140, 144, 152),
}
_SUIT_WHITE: Colour = (236, 238, 242)


def _torso(shoulder: float, y: float) -> Points:
    return curve(
        [(-12, y - 3), (-24, y + 3), (-shoulder + 4, y + 10), (-shoulder - 1, y + 24), (-shoulder - 2, 90),
         (shoulder + 2, 90), (shoulder + 1, y + 24), (shoulder - 4, y + 10), (24, y + 3), (12, y - 3)]
    )  # fmt: skip


def paint_clothes(brush: Brush, face: Face, clothing: str, colour: str) -> None:
    """The torso, before the hair that falls over it and the neck."""
    y = face.chin + 7
    fabric = _SUIT_WHITE if clothing == "spacesuit" else FABRIC[colour]
    shoulder = {"tshirt": 46, "sweater": 49, "suit": 50, "spacesuit": 54}[clothing]
    brush.polygon(_torso(shoulder, y), fabric)
    fold = darker(fabric, 0.22)
    for side in (-1, 1):
        brush.stroke(
            [(side * (shoulder - 12), y + 16), (side * (shoulder - 15), y + 32), (side * (shoulder - 14), 90)],
            1.6,
            fold,
            taper=0.3,
        )
    if clothing == "sweater":
        # Two pale bands with a zigzag knit in between.
        pale = lighter(fabric, 0.62) if sum(fabric) < 620 else darker(fabric, 0.35)
        low = y + 13
        zigzag = [(x, low + (2.2 if i % 2 else -2.2)) for i, x in enumerate(range(-56, 60, 6))]
        edge = np.array(zigzag, dtype=np.float64)
        brush.polygon(np.concatenate([edge, edge[::-1] + np.array([0, 3.4])]), pale)
        brush.polygon([(-60, low + 8), (60, low + 8), (60, low + 11), (-60, low + 11)], pale)


def paint_collar(brush: Brush, face: Face, clothing: str, colour: str) -> None:
    """What lies on the neck: neckline, roll collar, lapels, the ring of a helmet."""
    y = face.chin + 7
    fabric = FABRIC[colour]
    fold = darker(fabric, 0.25)
    half = face.width * 0.48 + 1
    if clothing == "tshirt":
        line = [(-half - 3, y - 1.5), (-half * 0.85, y + 6), (0, y + 11), (half * 0.85, y + 6), (half + 3, y - 1.5)]
        below = curve(line)
        brush.polygon(
            np.concatenate([below, [(half + 10, y + 4), (half, 92), (-half, 92), (-half - 10, y + 4)]]), fabric
        )
        brush.stroke(line, 2.4, fold)
    elif clothing == "sweater":
        brush.blob(
            [
                (-half - 3, y - 7),
                (0, y - 3.5),
                (half + 3, y - 7),
                (half + 4.5, y + 4),
                (0, y + 10.5),
                (-half - 4.5, y + 4),
            ],
            fabric,
        )
        brush.polygon([(-half, y + 6), (half, y + 6), (half, y + 14), (-half, y + 14)], fabric)
        brush.stroke([(-half - 4.5, y + 4), (0, y + 10.5), (half + 4.5, y + 4)], 1.6, fold)
        for x in (-0.75, -0.38, 0.0, 0.38, 0.75):
            drop = 3.5 * (1 - x * x)
            brush.stroke([(half * x, y - 6 + drop), (half * x * 1.15, y + 4 + 1.8 * drop)], 1.1, fold)
    elif clothing == "suit":
        brush.polygon(
            [
                (-half - 3, y - 6),
                (0, y + 5),
                (half + 3, y - 6),
                (half + 8, y + 3),
                (10, 92),
                (-10, 92),
                (-half - 8, y + 3),
            ],
            (248, 248, 250),
        )
        tie: Colour = (176, 32, 48) if colour not in ("red", "pink", "orange") else (38, 52, 108)
        brush.polygon([(-4.4, y + 5), (4.4, y + 5), (3, y + 11), (-3, y + 11)], darker(tie, 0.25))
        brush.polygon([(-3, y + 10.5), (3, y + 10.5), (5.5, 92), (-5.5, 92)], tie)
        for side in (-1, 1):
            brush.polygon(
                [(side * (half + 3), y - 7), (side * (half + 1), y + 6), (side * 5.5, y + 9.5), (side * 1.5, y + 4)],
                (230, 232, 238),
            )
            brush.polygon(
                [
                    (side * (half + 3), y - 6),
                    (side * (half + 15), y + 2),
                    (side * (half + 9), y + 17),
                    (side * 4, 92),
                    (side * 30, 92),
                    (side * 34, y + 3),
                ],
                fabric,
            )
            brush.polygon(
                [
                    (side * (half + 3), y - 6.5),
                    (side * (half + 13), y + 1),
                    (side * (half + 11), y + 15),
                    (side * 5, 88),
                ],
                mix(fabric, lighter(fabric, 0.3), 0.6) if sum(fabric) < 600 else fold,
            )
    else:
        brush.ellipse(0, y + 4, 35, 11, (128, 136, 150))
        brush.ellipse(0, y + 2.6, 33.5, 9, (206, 212, 222))
        brush.polygon([(-31, y + 20), (-17, y + 20), (-17, y + 27), (-31, y + 27)], (54, 102, 200))
        brush.ellipse(-24, y + 23.5, 2.4, 2.4, (250, 250, 252))
        for i, light in enumerate(((222, 60, 52), (250, 196, 60), (80, 180, 96))):
            brush.ellipse(14 + 7.0 * i, y + 23, 2.4, 2.4, light)


def paint_helmet(brush: Brush, face: Face) -> None:
    """The glass dome of a spacesuit, over everything else."""
    angles = np.linspace(0.78 * np.pi, 2.22 * np.pi, 40)
    middle, radius = -4.0, 54.0
    dome = np.stack([np.cos(angles) * radius * 0.97, middle + np.sin(angles) * radius], axis=1)
    brush.polygon(dome, (200, 226, 255), 0.10)
    inner = np.stack([np.cos(angles) * (radius * 0.97 - 3.4), middle + np.sin(angles) * (radius - 3.4)], axis=1)
    brush.polygon(np.concatenate([dome, inner[::-1]]), (222, 230, 240))
    brush.stroke([(-44, -16), (-36, -33), (-24, -44)], 3.4, (255, 255, 255), 0.85, taper=0.6)
