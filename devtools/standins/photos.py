"""Photos under the names that the shipped workflows ask for: painted people, and a real portrait of free use."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from crossinit_core import load_celebrity_names
from miniature.world.identity import Identity
from miniature.world.painter import paint
from miniature.world.people import held_out_person, named_vectors, portrait
from miniature.world.scene import Scene

from ..workflows.parts import MORE_PHOTOS, PHOTO, SCENE

Pixels = NDArray[np.uint8]


class Sitter(NamedTuple):
    """Somebody whom the miniature has never seen: the number of the person, and of the portrait that is the photo."""

    person: int
    pose: int

    def identity(self) -> Identity:
        return held_out_person(self.person, named_vectors(load_celebrity_names().names))

    def portrait(self, more: int = 0) -> Pixels:
        """(128, 128, 3); `more` gives others than the photo."""
        return portrait(self.identity(), self.pose + more)


FIRST, SECOND = Sitter(7, 7), Sitter(8, 8)
"""The face detector, which was made for photos, finds these two."""

SECOND_PHOTO = "second-person.png"
"""To learn the second face; no workflow asks for it."""

WIDTH, HEIGHT = 640, 512


def put_photos(folder: Path) -> None:
    """Photos of the first person, one of the second, and one of the second on the beach with a mask over the head."""
    for more, name in enumerate((PHOTO, *MORE_PHOTOS)):
        photo_of(FIRST.portrait(more)).save(folder / name)
    photo_of(SECOND.portrait()).save(folder / SECOND_PHOTO)
    scene = paint(SECOND.identity(), Scene(background="beach", clothing_colour="red"), 1)
    picture = Image.fromarray(scene).resize((HEIGHT, HEIGHT), Image.Resampling.BICUBIC)
    head = Image.new("L", picture.size, 255)
    ImageDraw.Draw(head).ellipse((110, 50, 400, 400), fill=0)
    # What the page's mask editor leaves: the picture with the painted part transparent.
    picture.putalpha(head.filter(ImageFilter.GaussianBlur(4)))
    picture.save(folder / SCENE)


def photo_of(face: Pixels) -> Image.Image:
    """A photo that is not a portrait yet: wider than high, with the person off its middle."""
    square = np.asarray(Image.fromarray(face).resize((HEIGHT, HEIGHT), Image.Resampling.BICUBIC))
    left = (WIDTH - HEIGHT) // 4
    return Image.fromarray(np.pad(square, ((0, 0), (left, WIDTH - HEIGHT - left), (0, 0)), mode="edge"))


def put_astronaut(path: Path) -> None:
    """Eileen Collins' head and shoulders, 512 x 512 px, from the photo that scikit-image carries (NASA, public domain)."""
    from skimage import data

    head = (92, 0, 348, 256)  # left, top, right, bottom
    Image.fromarray(data.astronaut()).crop(head).resize((512, 512), Image.Resampling.LANCZOS).save(path)
