"""The small pictures of a run that a history keeps: its photos, and strips of what came while it learned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..photos.images import training_images

PIXELS = 192
"""The longer side of a picture that a history keeps."""
MOST_PICTURES = 12
"""The most pictures in a strip; runs of any length fit into it."""
MOST_PHOTOS = 4


@dataclass(frozen=True, eq=False)
class Picture:
    """A small picture (H, W, 3) uint8, and after which step it was taken."""

    step: int
    pixels: NDArray[np.uint8]


class Strip:
    """Pictures of a run of unknown length, thinned evenly as they come; the last one always stays."""

    def __init__(self, most: int = MOST_PICTURES) -> None:
        self._most, self._kept, self._every, self._count = most, list[Picture](), 1, 0
        self._last: Picture | None = None

    def add(self, step: int, picture: Image.Image) -> None:
        """Takes a small copy of the picture."""
        self._last = small_picture(step, picture)
        if self._count % self._every == 0:
            self._kept.append(self._last)
            if len(self._kept) == self._most:
                self._kept, self._every = self._kept[::2], self._every * 2
        self._count += 1

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """At most `most`, the first and the last among them."""
        if self._last is None or self._kept[-1] is self._last:
            return tuple(self._kept)
        return (*self._kept, self._last)


def small_picture(step: int, picture: Image.Image) -> Picture:
    """A copy that is at most `PIXELS` wide and high; what is smaller stays."""
    picture = picture.convert("RGB")
    picture.thumbnail((PIXELS, PIXELS))
    return Picture(step, np.asarray(picture).copy())


def small_photos(images: Tensor | Sequence[Tensor]) -> tuple[Picture, ...]:
    """The first of the photos that were learned from, cropped as for learning; see `images.training_images`."""
    batches = [images] if isinstance(images, Tensor) else images
    few = [photo[None] for photo in itertools.islice(itertools.chain.from_iterable(batches), MOST_PHOTOS)]
    pixels = (training_images(few, PIXELS) * 255).round().to(torch.uint8).cpu().numpy()
    return tuple(Picture(0, photo) for photo in pixels)
