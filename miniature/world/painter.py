"""The portrait painter: identity and scene in, 128 px picture out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import clothes, eyes, hair, headwear, mouth
from .backgrounds import background
from .canvas import SIZE, SUPERSAMPLING, Brush
from .face import measure, paint_ears, paint_neck, paint_nose, paint_skin
from .identity import Identity
from .scene import Scene
from .styles import restyle

Sitters = Identity | tuple[Identity, ...]
"""Who is in a picture: one, or two from left to right if the scene has a companion."""


def paint(identities: Sitters, scene: Scene, seed: int = 0) -> NDArray[np.uint8]:
    """One portrait, (128, 128, 3) uint8.

    `seed` (0 or more) decides what neither identity nor scene says: where trees stand, the colour of a hat, the
    texture of paper. The same arguments give the same bytes.

    Raises ValueError if the number of identities does not fit the scene.
    """
    sitters = (identities,) if isinstance(identities, Identity) else tuple(identities)
    wanted = 2 if scene.companion == "yes" else 1
    if len(sitters) != wanted:
        raise ValueError(
            f"The scene has companion={scene.companion!r}, so it takes {wanted} identities, not {len(sitters)}."
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    looks = rng.random(6)
    image = background(scene.background, rng)
    brush = Brush(image)
    if wanted == 1:
        place = brush.placed(64 + scene.shift_x, 61 + scene.shift_y, scene.scale * 1.05, scene.roll, scene.mirrored)
        _paint_person(place, sitters[0], scene, scene.clothing_colour, looks[:3])
    else:
        colours = list(clothes.FABRIC)
        second = colours[(colours.index(scene.clothing_colour) + 1 + int(looks[3] * 10)) % len(colours)]
        for i, (x, colour) in enumerate(((34.0, scene.clothing_colour), (94.0, second))):
            flip = scene.mirrored != bool(i)
            place = brush.placed(x + scene.shift_x * 0.5, 69 + scene.shift_y, scene.scale * 0.70, scene.roll, flip)
            _paint_person(place, sitters[i], scene, colour, looks[:3] if i == 0 else looks[3:])
    picture = image.reduce(SUPERSAMPLING)
    if scene.light:
        gain = 1.0 + 0.42 * scene.light
        # Bright light lifts the shadows, dark light dims everything.
        levels = np.arange(256) / 255
        table = np.rint(255 * (levels ** (1 / gain) if gain > 1 else levels * gain)).astype(np.uint8)
        picture = Image.fromarray(table[np.asarray(picture)])
    return np.asarray(restyle(picture, scene.style, rng), dtype=np.uint8)


def paint_batch(identities: Sequence[Sitters], scenes: Sequence[Scene], seeds: Sequence[int]) -> NDArray[np.uint8]:
    """N portraits, (N, 128, 128, 3) uint8: entry i is `paint(identities[i], scenes[i], seeds[i])`."""
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), dtype=np.uint8)
    for i, (who, scene, seed) in enumerate(zip(identities, scenes, seeds, strict=True)):
        pictures[i] = paint(who, scene, int(seed))
    return pictures


def _paint_person(brush: Brush, identity: Identity, scene: Scene, colour: str, looks: NDArray[np.float64]) -> None:
    face = measure(identity)
    clothes.paint_clothes(brush, face, scene.clothing, colour)
    hair.paint_back(brush, identity, face, scene.hat)
    paint_neck(brush, face, scene.clothing)
    clothes.paint_collar(brush, face, scene.clothing, colour)
    if identity.hair_style not in hair.HIDES_EARS:
        paint_ears(brush, identity, face)
    paint_skin(brush, identity, face)
    mouth.paint_beard(brush, identity, face, scene.expression)
    paint_nose(brush, identity, face)
    mouth.paint_mouth(brush, identity, face, scene.expression)
    mouth.paint_moustache(brush, identity, face, scene.expression)
    eyes.paint_eyes(brush, identity, face, scene.expression)
    hair.paint_front(brush, identity, face, scene.hat)
    headwear.paint_eyewear(brush, face, scene.eyewear, float(looks[0]))
    headwear.paint_hat(brush, face, scene.hat, float(looks[1]))
    if scene.headphones == "yes":
        headwear.paint_headphones(brush, face, hair.height(identity, face), float(looks[2]))
    if scene.clothing == "spacesuit":
        clothes.paint_helmet(brush, face)


def contact_sheet(pictures: NDArray[np.uint8], columns: int, gap: int = 4) -> Image.Image:
    """(N, H, W, 3) pictures in rows of `columns` on white."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (255, 255, 255))
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (gap + i % columns * (width + gap), gap + i // columns * (height + gap)))
    return sheet
