"""A face: its measures and colours, and the parts that no expression moves: neck, ears, skin, nose."""

from __future__ import annotations

from dataclasses import dataclass

from .canvas import Brush, Colour, Points, curve, darker, lighter, mirrored, mix, ramp
from .identity import Identity

_SKIN: tuple[Colour, ...] = (
    (255, 228, 208),
    (247, 208, 176),
    (230, 180, 140),
    (198, 142, 100),
    (156, 104, 70),
    (114, 74, 50),
    (80, 51, 38),
)
HAIR: dict[str, Colour] = {
    "black": (36, 31, 36),
    "dark_brown": (72, 45, 32),
    "brown": (118, 76, 44),
    "auburn": (136, 48, 32),
    "ginger": (212, 104, 38),
    "dark_blond": (186, 142, 80),
    "blond": (240, 204, 112),
    "grey": (142, 144, 150),
    "white": (234, 232, 228),
}


@dataclass(frozen=True)
class Face:
    """Measures of one head in pixels of a 128 px picture; the origin lies between the eyes, y points down."""

    width: float  # half, at the cheeks
    top: float
    chin: float
    jaw_width: float
    eye_x: float
    eye_y: float
    eye_width: float  # half
    eye_height: float  # half
    brow_y: float
    nose_y: float
    mouth_y: float
    mouth_width: float  # half
    lip: float
    skin: Colour
    shade: Colour
    hair: Colour
    outline: Points


def measure(identity: Identity) -> Face:
    """The measures and colours of a face."""
    width = 23.0 + 8.0 * identity.face_width
    chin = 30.0 + 10.0 * identity.face_length
    top = -37.0
    jaw_width = width * (0.60 + 0.35 * identity.jaw)
    jaw_y = chin - 14.0 + 3.5 * identity.jaw
    chin_width = 3.5 + 10.5 * identity.chin
    outline = curve(
        mirrored(
            [
                (0, top),
                (width * 0.58, top + 4.5),
                (width * 0.93, top + 18),
                (width, -2),
                (width * (0.95 + 0.04 * identity.jaw), 9),
                (jaw_width, jaw_y),
                (chin_width, chin - 1.6),
                (0, chin),
            ]
        ),
        closed=True,
    )
    eye_width = 5.0 + 3.1 * identity.eye_size
    eye_height = eye_width * (0.42 + 0.32 * identity.eye_openness)
    eye_x = max(eye_width + 2.2, min(width * (0.40 + 0.13 * identity.eye_spacing), width - eye_width - 1.5))
    nose_y = 8.0 + 6.5 * identity.nose_length
    rosy = mix(ramp(_SKIN, identity.skin), (236, 120, 110), 0.13 * (1 - identity.skin_warmth))
    skin = mix(rosy, (222, 160, 60), 0.16 * identity.skin_warmth)
    return Face(
        width=width,
        top=top,
        chin=chin,
        jaw_width=jaw_width,
        eye_x=eye_x,
        eye_y=-2.0,
        eye_width=eye_width,
        eye_height=eye_height,
        brow_y=-2.0 - eye_height - 4.4 - 0.6 * identity.brow_thickness,
        nose_y=nose_y,
        mouth_y=nose_y + (chin - nose_y) * 0.43,
        mouth_width=6.0 + 6.0 * identity.mouth_width,
        lip=1.1 + 2.4 * identity.lip_fullness,
        skin=skin,
        shade=darker(mix(skin, (190, 70, 50), 0.18), 0.13),
        hair=_apart(HAIR[identity.hair_colour], skin),
        outline=outline,
    )


def _apart(hair: Colour, skin: Colour) -> Colour:
    """Hair as dark as the skin is darkened, so that the hairline stays visible."""
    distance = sum(abs(a - b) for a, b in zip(hair, skin, strict=True))
    return darker(hair, max(0.0, 0.5 * (1 - distance / 130)))


def paint_neck(brush: Brush, face: Face, clothing: str) -> None:
    """Neck with the shadow of the chin."""
    half = face.width * 0.48
    low = face.chin + (19 if clothing == "tshirt" else 11)
    brush.polygon(
        [
            (-half, 14),
            (half, 14),
            (half + 1, low - 9),
            (half + 6, low - 3),
            (half - 2, low + 1),
            (2 - half, low + 1),
            (-half - 6, low - 3),
            (-half - 1, low - 9),
        ],
        face.skin,
    )
    brush.blob(
        [
            (-half, face.chin - 10),
            (half, face.chin - 10),
            (half, face.chin + 3),
            (0, face.chin + 7),
            (-half, face.chin + 3),
        ],
        face.shade,
    )


def paint_ears(brush: Brush, identity: Identity, face: Face) -> None:
    """Ears; hair that comes later may hide them."""
    rx, ry = 3.4 + 2.4 * identity.ear_size, 5.0 + 4.0 * identity.ear_size
    for side in (-1, 1):
        x = side * (face.width + rx * 0.35)
        brush.ellipse(x, 1, rx, ry, face.skin, angle=side * 10)
        brush.ellipse(x + side * 0.4, 1, rx * 0.55, ry * 0.6, face.shade, angle=side * 10)


def paint_skin(brush: Brush, identity: Identity, face: Face) -> None:
    """The head, with a soft shadow on one side, cheeks, freckles, mole and lines of age."""
    brush.polygon(face.outline, face.shade)
    brush.polygon(face.outline * (0.95, 0.975) + (-1.1, -0.9), mix(face.shade, face.skin, 0.55))
    brush.polygon(face.outline * (0.91, 0.955) + (-1.9, -1.6), face.skin)
    cheek = mix(face.skin, (226, 66, 72), 0.55)
    for side in (-1, 1):
        brush.glow(side * face.width * 0.62, 11, 7.5, 5.5, cheek, 0.08 + 0.62 * identity.rosiness)
    _paint_lines_of_age(brush, identity, face)
    if identity.freckles > 0.05:
        spot = mix(darker(face.skin, 0.25 + 0.35 * identity.skin), (150, 70, 30), 0.5 - 0.4 * identity.skin)
        places = ((0.40, 7.5), (0.62, 6.6), (0.50, 10.6), (0.74, 10), (0.36, 13), (0.62, 14), (0.16, 5.2), (0.84, 7))
        for x, y in places[: 3 + round(5 * identity.freckles)]:
            for side in (-1, 1):
                shift = 0.7 * side
                radius = 0.75 + 0.5 * identity.freckles
                brush.ellipse(side * face.width * x, y + shift, radius, radius, spot, 0.55 + 0.4 * identity.freckles)
    if identity.mole != "none":
        x, y = (face.width * 0.58, 17.0) if identity.mole == "cheek" else (face.mouth_width * 0.75, face.mouth_y - 5.5)
        brush.ellipse(x, y, 1.7, 1.7, mix(darker(face.skin, 0.7), (60, 30, 24), 0.5))


def _paint_lines_of_age(brush: Brush, identity: Identity, face: Face) -> None:
    strength = max(0.0, identity.age - 0.25) / 0.75
    if strength <= 0:
        return
    line = darker(face.shade, 0.22)
    for side in (-1, 1):
        start = (side * (face.mouth_width * 0.62 + 1.5), face.nose_y - 1)
        bend = (side * (face.mouth_width + 2.2), (face.nose_y + face.mouth_y) / 2 + 1)
        end = (side * (face.mouth_width + 2.6), face.mouth_y + 2)
        brush.stroke([start, bend, end], 1.0 + 1.2 * strength, line, 0.35 + 0.85 * strength, taper=0.7)
        under = face.eye_y + face.eye_height + 3.2
        brush.stroke(
            [(side * (face.eye_x - 4.5), under - 0.6), (side * face.eye_x, under + 1), (side * (face.eye_x + 5), under - 0.8)],
            0.8 + 0.9 * strength, line, 0.3 + 0.6 * strength, taper=0.6,
        )  # fmt: skip
    if strength > 0.3:
        for y in (-19.5, -23.5):
            brush.stroke([(-9, y + 0.6), (0, y - 0.6), (9, y + 0.6)], 0.9 + 0.8 * strength, line, 0.85 * strength)


def paint_nose(brush: Brush, identity: Identity, face: Face) -> None:
    """Bridge, tip and wings of the nose."""
    half = 2.7 + 5.0 * identity.nose_width
    y = face.nose_y
    brush.blob(
        [(1.0, -1), (half * 0.62, y * 0.5), (half * 1.02, y - 1.0), (half * 0.3, y + 0.8), (0.4, y * 0.6)],
        face.shade,
        0.55,
    )
    brush.blob(
        [
            (-half, y - 1.2),
            (-half * 0.5, y - 3.4),
            (half * 0.5, y - 3.4),
            (half, y - 1.2),
            (half * 0.5, y + 1.3),
            (-half * 0.5, y + 1.3),
        ],
        mix(face.skin, face.shade, 0.7),
    )
    brush.ellipse(-0.4, y - 2.6, half * 0.42, 2.0, lighter(face.skin, 0.28))
    brush.ellipse(-0.7, y * 0.35, 0.9, y * 0.33, lighter(face.skin, 0.22), 0.7)
    dark = darker(face.shade, 0.38)
    for side in (-1, 1):
        brush.ellipse(side * half * 0.5, y + 0.35, half * 0.24 + 0.25, 0.95, dark)
        brush.stroke(
            [(side * half * 0.86, y - 2.6), (side * (half + 0.55), y - 0.9), (side * half * 0.8, y + 0.6)],
            1.0,
            dark,
            0.85,
        )
