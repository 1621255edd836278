"""What is worn on the head: eyewear, hats, headphones."""

from __future__ import annotations

import numpy as np

from .canvas import Brush, Colour, curve, darker, lighter, mirrored
from .clothes import FABRIC
from .face import Face


def paint_eyewear(brush: Brush, face: Face, eyewear: str, look: float) -> None:
    """Glasses leave the eyes visible, sunglasses hide them; `look` 0..1 chooses shape and colour of the frame."""
    if eyewear == "none":
        return
    x, y = face.eye_x, face.eye_y + 0.8
    rx = min(max(face.eye_width + 2.8, 8.4), x - 1.0)
    frames: tuple[Colour, ...] = ((34, 30, 36), (118, 46, 30), (34, 30, 36), (36, 60, 116))
    frame = frames[int(look * 4) % 4]
    round_shape = (look * 7) % 1 < 0.5
    ry = rx * (0.92 if round_shape else 0.78)
    angles = np.arange(32) * (2 * np.pi / 32)
    power = 1.0 if round_shape else 0.55
    cosine, sine = np.cos(angles), np.sin(angles)
    unit = np.stack([np.sign(cosine) * np.abs(cosine) ** power, np.sign(sine) * np.abs(sine) ** power], axis=1)
    thick = 2.2
    for side in (-1, 1):
        centre = (side * x, y)
        brush.stroke([(side * (x + rx), y - 2), (side * (face.width + 1.0), y - 2.8)], 2.0, frame)
        if eyewear == "glasses":
            brush.polygon(unit * (rx, ry) + centre, (235, 244, 255), 0.16)
            ring = np.concatenate([unit, unit[:1]])
            brush.polygon(
                np.concatenate(
                    [ring * (rx + thick * 0.6, ry + thick * 0.6), (ring * (rx - thick * 0.6, ry - thick * 0.6))[::-1]]
                )
                + centre,
                frame,
            )
        else:
            lens = unit * (rx + 1.8, ry + 1.6) + (side * x, y + 0.8)
            brush.polygon(lens, (18, 16, 22))
            brush.polygon(unit * (rx * 0.86, ry * 0.84) + (side * x, y + 0.8), (48, 46, 60))
            brush.stroke([(side * x - rx * 0.5, y + 1.8), (side * x - rx * 0.05, y - ry * 0.42)], 2.2, (150, 160, 182))
    gap = x - rx
    brush.stroke([(-gap - 0.6, y - 0.6), (0, y - 2.6), (gap + 0.6, y - 0.6)], 2.0, frame)


def paint_hat(brush: Brush, face: Face, hat: str, look: float) -> None:
    """A hat over the hair; `look` 0..1 chooses its colour."""
    if hat == "none":
        return
    w = face.width
    colours = list(FABRIC.values())
    colour = colours[int(look * 97) % 9]
    dark, light = darker(colour, 0.3), lighter(colour, 0.25)
    if hat == "cap":
        dome = mirrored([(0, face.top - 11), (w * 0.7, face.top - 6), (w + 4.5, -25), (w + 4.5, -15.5), (0, -18.5)])
        brush.blob(dome, colour)
        brush.stroke([(0, face.top - 10), (0, -20)], 1.0, dark)
        brush.stroke([(-w * 0.5, face.top - 7), (-w * 0.66, -24), (-w * 0.62, -18)], 1.0, dark)
        brush.stroke([(w * 0.5, face.top - 7), (w * 0.66, -24), (w * 0.62, -18)], 1.0, dark)
        brush.ellipse(0, face.top - 11, 2.6, 1.6, dark)
        brush.ellipse(0, -27, 6.0, 5.4, (250, 250, 250) if sum(colour) < 620 else (60, 70, 90))
        brush.blob(
            mirrored([(0, -21.5), (w * 0.7, -20), (w + 5.0, -14.5), (w + 1.5, -11.8), (w * 0.6, -14.2), (0, -15.8)]),
            dark,
        )
    elif hat == "beanie":
        brush.ellipse(0, face.top - 16, 7.4, 7.0, light)
        brush.blob(
            mirrored([(0, face.top - 13), (w * 0.72, face.top - 7), (w + 4.5, -22), (w + 4, -16), (0, -16)]), colour
        )
        for x in (-0.62, -0.22, 0.22, 0.62):
            brush.stroke([(w * x * 0.7, face.top - 8), (w * x, -24)], 1.3, dark)
        band = curve([(-w - 4.6, -26), (0, -29), (w + 4.6, -26)]), curve([(w + 5.2, -14), (0, -17), (-w - 5.2, -14)])
        brush.polygon(np.concatenate(band), light)
        for x in np.linspace(-0.9, 0.9, 9):
            brush.stroke([(w * x * 1.05, -27.6 + 2 * abs(x)), (w * x * 1.08, -16.2 + 2 * abs(x))], 0.9, dark)
    elif hat == "cowboy":
        leather = ((150, 100, 58), (196, 150, 96), (92, 60, 42), (216, 190, 140))[int(look * 4) % 4]
        under = darker(leather, 0.35)
        brim = mirrored(
            [
                (0, -25),
                (w * 0.9, -23),
                (w + 14, -27),
                (w + 25, -35),
                (w + 23, -27),
                (w + 12, -18),
                (w * 0.6, -14.5),
                (0, -14),
            ]
        )
        brush.blob(brim, under)
        brush.blob(
            mirrored(
                [
                    (0, -26),
                    (w * 0.9, -25),
                    (w + 14, -28.5),
                    (w + 25, -35.5),
                    (w + 22, -29.5),
                    (w + 11, -21),
                    (w * 0.6, -18),
                    (0, -17.2),
                ]
            ),
            leather,
        )
        brush.blob(
            mirrored(
                [(0, face.top - 12), (w * 0.42, face.top - 17), (w * 0.86, face.top - 6), (w * 0.98, -22), (0, -19)]
            ),
            leather,
        )
        brush.blob(
            [(-w * 0.3, face.top - 13), (0, face.top - 11), (w * 0.3, face.top - 13), (0, face.top - 3)], under, 0.6
        )
        brush.polygon(
            np.concatenate(
                [
                    curve([(-w * 0.97, -27.5), (0, -24.5), (w * 0.97, -27.5)]),
                    curve([(w * 0.99, -22), (0, -18.8), (-w * 0.99, -22)]),
                ]
            ),
            (70, 40, 34) if sum(leather) > 300 else (196, 60, 52),
        )
    else:
        gold: Colour = (250, 200, 56)
        base, tip = -25.0, face.top - 17
        half = w * 0.98
        points = [
            (-half, base),
            (-half - 4, tip + 4),
            (-half * 0.52, base - 13),
            (0, tip - 2),
            (half * 0.52, base - 13),
            (half + 4, tip + 4),
            (half, base),
        ]
        brush.polygon(np.concatenate([np.array(points), curve([(half, base), (0, base + 4.5), (-half, base)])]), gold)
        brush.polygon(
            np.concatenate(
                [
                    curve([(-half, base - 4.6), (0, base), (half, base - 4.6)]),
                    curve([(half, base), (0, base + 4.5), (-half, base)]),
                ]
            ),
            (222, 158, 32),
        )
        for x, y, gem in ((-0.62, 0.6, (56, 120, 214)), (0, 2.2, (214, 40, 64)), (0.62, 0.6, (56, 120, 214))):
            brush.ellipse(half * x, base + y - 2.2, 2.4, 2.4, gem)
        for x, y in ((-half - 4, tip + 4), (0, tip - 2), (half + 4, tip + 4)):
            brush.ellipse(x, y, 2.5, 2.5, (255, 236, 150))


def paint_headphones(brush: Brush, face: Face, top: float, look: float) -> None:
    """Headphones over hair whose top is at `top`."""
    colours: tuple[Colour, ...] = ((44, 46, 54), (214, 52, 60), (52, 96, 200), (244, 244, 246))
    colour = colours[int(look * 4) % 4]
    x, y = face.width + 5.5, 1.0
    band = [
        (-x, y - 4),
        (-x * 0.98, -20),
        (-x * 0.62, top + 1.5),
        (0, top - 3.5),
        (x * 0.62, top + 1.5),
        (x * 0.98, -20),
        (x, y - 4),
    ]
    brush.stroke(band, 5.0, colour)
    brush.stroke(band, 1.3, lighter(colour, 0.45))
    for side in (-1, 1):
        brush.ellipse(side * (x - 1.2), y, 5.4, 11.0, darker(colour, 0.45))
        brush.ellipse(side * (x + 1.2), y, 5.0, 10.0, colour)
        brush.ellipse(side * (x + 2.0), y - 2, 2.0, 4.6, lighter(colour, 0.35))
