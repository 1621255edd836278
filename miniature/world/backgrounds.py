"""What is behind a person: plain colours and places."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .canvas import Brush, Colour, darker, gradient, lighter, mix

PLAIN: dict[str, Colour] = {
    "white": (246, 246, 244),
    "grey": (168, 172, 178),
    "blue": (128, 178, 228),
    "green": (140, 200, 140),
    "yellow": (250, 224, 128),
    "orange": (246, 180, 112),
    "pink": (248, 190, 206),
    "red": (216, 96, 92),
    "purple": (176, 148, 214),
    "brown": (160, 124, 98),
}


def background(name: str, rng: np.random.Generator) -> Image.Image:
    """A supersampled picture of a plain colour or of a place; places vary with `rng`."""
    if name in PLAIN:
        colour = PLAIN[name]
        return gradient(lighter(colour, 0.12), darker(colour, 0.03))
    return {"beach": _beach, "forest": _forest, "city": _city, "space": _space, "snow": _snow}[name](rng)


def _beach(rng: np.random.Generator) -> Image.Image:
    image = gradient((96, 184, 240), (206, 236, 250))
    brush = Brush(image)
    side = 1 if rng.random() < 0.5 else -1
    sun = 64 - side * (44 + 6 * rng.random())
    brush.ellipse(sun, 18, 13, 13, (255, 240, 170), 0.6)
    brush.ellipse(sun, 18, 9.5, 9.5, (255, 222, 84))
    horizon = 62 + 6 * rng.random()
    brush.polygon([(0, horizon), (128, horizon), (128, 128), (0, 128)], (32, 132, 190))
    brush.polygon([(0, horizon + 9), (128, horizon + 9), (128, 128), (0, 128)], (58, 172, 208))
    shore = horizon + 21
    brush.blob(
        [(-9, shore), (20, shore - 2), (64, shore + 2), (108, shore - 2), (137, shore), (150, 140), (-22, 140)],
        (246, 250, 250),
    )
    brush.blob(
        [(-9, shore + 3), (20, shore + 1), (64, shore + 5), (108, shore + 1), (137, shore + 3), (150, 140), (-22, 140)],
        (242, 214, 154),
    )
    for _ in range(3):
        x, y = 128 * rng.random(), horizon + 4 + 10 * rng.random()
        brush.stroke([(x - 6, y), (x, y - 1), (x + 6, y)], 1.0, (190, 228, 240))
    # A palm tree leans in from the side.
    foot = 64 + side * (58 + 4 * rng.random())
    head = (foot - side * 9, 30 + 6 * rng.random())
    brush.stroke([(foot, shore + 10), (foot - side * 2, 60), head], 4.5, (140, 96, 58), taper=0.3)
    for dx, dy in ((-17, 3), (-12, 12), (-10, -8), (3, -12), (14, -4), (15, 8)):
        brush.stroke(
            [head, (head[0] + dx * 0.6, head[1] + dy * 0.5 - 4), (head[0] + dx, head[1] + dy)],
            5.0,
            (44, 138, 72) if dy < 5 else (30, 110, 60),
            taper=0.8,
        )
    return image


def _tree(brush: Brush, x: float, foot: float, height: float, green: Colour, snow: bool) -> None:
    brush.polygon([(x - 1.8, foot - 8), (x + 1.8, foot - 8), (x + 1.8, foot), (x - 1.8, foot)], (92, 62, 44))
    for i in range(3):
        top = foot - height + i * height * 0.24
        half = height * (0.17 + 0.075 * i)
        low = top + height * 0.40
        brush.polygon([(x, top), (x + half, low), (x - half, low)], mix(green, (12, 40, 34), 0.12 * i))
        if snow:
            brush.polygon(
                [
                    (x, top),
                    (x + half * 0.5, top + height * 0.2),
                    (x, top + height * 0.15),
                    (x - half * 0.5, top + height * 0.2),
                ],
                (250, 252, 255),
            )


def _forest(rng: np.random.Generator) -> Image.Image:
    image = gradient((206, 234, 206), (138, 190, 132))
    brush = Brush(image)
    for i in range(9):
        x = -4 + i * 17 + 6 * rng.random()
        _tree(brush, x, 92, 62 + 22 * rng.random(), (104, 164, 108), False)
    brush.polygon([(0, 88), (128, 88), (128, 128), (0, 128)], (78, 138, 72))
    for x in (4, 24, 104, 124):
        _tree(
            brush,
            x + 6 * rng.random() - 3,
            104 + 6 * rng.random(),
            76 + 22 * rng.random(),
            mix((34, 110, 66), (50, 128, 62), rng.random()),
            False,
        )
    return image


def _city(rng: np.random.Generator) -> Image.Image:
    image = gradient((246, 190, 150), (252, 226, 190))
    brush = Brush(image)
    for far in (True, False):
        x = -6.0
        while x < 130:
            wide = 13 + 9 * rng.random()
            high = (
                (44 + 26 * rng.random())
                if far
                else (14 + 40 * abs(x + wide / 2 - 64) / 64 * (0.6 + 0.6 * rng.random()) + 14)
            )
            roof = 104 - high * (1.15 if far else 1.3)
            tint = (
                mix((176, 160, 186), (196, 172, 178), rng.random())
                if far
                else mix((70, 82, 118), (104, 88, 116), rng.random())
            )
            brush.polygon([(x, roof), (x + wide, roof), (x + wide, 128), (x, 128)], tint)
            if not far:
                for row in range(int((116 - roof) / 7)):
                    for column in range(int((wide - 3) / 5)):
                        lit = rng.random() < 0.62
                        wx, wy = x + 2.5 + 5 * column, roof + 3.5 + 7 * row
                        brush.polygon(
                            [(wx, wy), (wx + 2.6, wy), (wx + 2.6, wy + 3.6), (wx, wy + 3.6)],
                            (255, 222, 118) if lit else darker(tint, 0.3),
                        )
            x += wide + (0 if far else 1.5)
    return image


def _space(rng: np.random.Generator) -> Image.Image:
    image = gradient((16, 14, 44), (44, 24, 78))
    brush = Brush(image)
    side = 1 if rng.random() < 0.5 else -1
    brush.glow(64 - side * 40, 70, 44, 30, (140, 60, 150), 0.35)
    for star in rng.random((46, 3)):
        radius = 0.55 + 0.75 * star[2] ** 2
        brush.ellipse(
            star[0] * 128, star[1] * 128, radius, radius, (255, 250, 226) if star[2] < 0.7 else (190, 214, 255)
        )
    x, y = 64 + side * (44 + 6 * rng.random()), 24 + 8 * rng.random()
    planet = ((226, 134, 74), (96, 168, 214), (206, 108, 128))[int(rng.random() * 3)]
    brush.ellipse(x, y, 13, 13, planet)
    brush.ellipse(x - 2, y - 2, 10, 10, lighter(planet, 0.22))
    brush.stroke([(x - 21, y + 6), (x, y + 2.5), (x + 21, y - 6)], 2.4, (246, 224, 178))
    brush.ellipse(64 - side * 46, 42 + 10 * rng.random(), 6, 6, (196, 198, 206))
    return image


def _snow(rng: np.random.Generator) -> Image.Image:
    image = gradient((164, 200, 232), (226, 238, 248))
    brush = Brush(image)
    for x, high in ((14 + 8 * rng.random(), 62), (112 + 8 * rng.random(), 70), (58 + 10 * rng.random(), 48)):
        brush.polygon([(x, 98 - high), (x + high * 0.72, 100), (x - high * 0.72, 100)], (126, 152, 186))
        brush.polygon(
            [
                (x, 98 - high),
                (x + high * 0.3, 98 - high * 0.56),
                (x + high * 0.1, 98 - high * 0.64),
                (x - high * 0.06, 98 - high * 0.5),
                (x - high * 0.3, 98 - high * 0.58),
            ],
            (250, 252, 255),
        )
    brush.blob([(-10, 90), (30, 85), (64, 90), (100, 85), (138, 90), (150, 150), (-22, 150)], (244, 248, 253))
    for x in (5, 22, 106, 123):
        _tree(brush, x + 6 * rng.random() - 3, 100 + 6 * rng.random(), 46 + 16 * rng.random(), (46, 108, 92), True)
    for flake in rng.random((34, 3)):
        brush.ellipse(flake[0] * 128, flake[1] * 118, 0.9 + 0.8 * flake[2], 0.9 + 0.8 * flake[2], (255, 255, 255))
    return image
