"""The course of a run, for reports: numbers of every step and a few small pictures.

A history travels with its token through a graph and is never written to the token's file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..backbone import FrozenModel
from ..photos.images import training_images

PIXELS = 192
"""The longer side of a picture that a history keeps."""
MOST_PICTURES = 12
"""The most pictures in a strip; runs of any length fit into it."""
MOST_PHOTOS = 4

_TABLE_PART = 4096
"""Rows of the token table that are measured at once."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A small picture (H, W, 3) uint8, and after which step it was taken."""

    step: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class History:
    """How a token was learned.

    `losses` has one entry a step, at the vectors that the step began with. `distances` (mean of |v - v0|) and `angles`
    (mean angle between v and v0 in degrees) have one more: entry s is that after s steps. `vocabulary_norms` are the
    101 percentiles of the norms of the token table's rows. `photos` are the first of those that were learned from.
    `previews` are what the model saw while it learned, `samples` what it drew for `sample_prompt`; they are empty where
    nobody asked for them. The first `resumed_from` steps came from a resume file, which keeps no pictures.
    """

    losses: tuple[float, ...]
    distances: tuple[float, ...]
    angles: tuple[float, ...]
    vocabulary_norms: tuple[float, ...] = ()
    photos: tuple[Picture, ...] = ()
    previews: tuple[Picture, ...] = ()
    samples: tuple[Picture, ...] = ()
    sample_prompt: str = ""
    resumed_from: int = 0
    seconds: float = 0.0


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


def mean_angle(vectors: Tensor, start: Tensor) -> float:
    """The mean over k of the angle between v_k and v0_k, (K, d) each, in degrees."""
    u, v = (F.normalize(side.double(), dim=1) for side in (vectors, start))
    # The arc cosine of nearly equal directions would lose the angle in rounding.
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    return float(angle.rad2deg().mean())


@torch.no_grad()
def vocabulary_norms(model: FrozenModel, size: int) -> tuple[float, ...]:
    """The 101 percentiles of the norms of the token table's `size` rows."""
    parts = torch.arange(size, device=model.device).split(_TABLE_PART)
    return percentiles(torch.cat([model.embed(part).norm(dim=1) for part in parts]))


def percentiles(values: Tensor | Iterable[float]) -> tuple[float, ...]:
    """0 %, 1 %, .. 100 % of some numbers."""
    values = torch.as_tensor(values).cpu().double()  # MPS knows no float64
    return tuple(torch.quantile(values, torch.linspace(0, 1, 101, dtype=torch.float64)).tolist())
