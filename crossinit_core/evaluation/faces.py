"""How alike the faces on pictures are to a person's photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from .recognizers import Recognizer

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

_LABEL_PART = 0.07
"""The height of a label's letters in sides of the picture."""


@dataclass(frozen=True)
class Likeness:
    """`scores` has one number for each picture, None where no face was found; `recognizer` and `scale` say whose numbers they
    are and what they mean. `without_face` counts the photos in which no face was found."""

    scores: tuple[float | None, ...]
    recognizer: str
    scale: str = ""
    photos: int = 1
    without_face: int = 0

    @property
    def mean(self) -> float | None:
        """Over the pictures with a face; None if there is none."""
        found = [score for score in self.scores if score is not None]
        return sum(found) / len(found) if found else None

    @property
    def faceless(self) -> int:
        """Pictures without a face."""
        return sum(score is None for score in self.scores)

    def best(self, count: int = 0) -> list[int]:
        """The pictures from the most to the least alike, those without a face last; only the first `count` if it is not 0.

        Pictures without a face are left out as soon as some are to be chosen, unless no picture has a face.
        """
        order = sorted(range(len(self.scores)), key=lambda i: (self.scores[i] is None, -(self.scores[i] or 0.0), i))
        if not count:
            return order
        with_face = [index for index in order if self.scores[index] is not None]
        return (with_face or order)[:count]

    def label(self, index: int) -> str:
        """What is written on a picture: `0.61`, or `no face`."""
        score = self.scores[index]
        return "no face" if score is None else f"{score:.2f}"

    def summary(self) -> str:
        """The mean, whose it is, and a line for each picture."""
        pictures = "1 picture" if len(self.scores) == 1 else f"{len(self.scores)} pictures"
        if self.mean is None:
            first = f"No face was found on {pictures}, by {self.recognizer}."
        else:
            without = f", {self.faceless} without a face" if self.faceless else ""
            first = f"Likeness {self.mean:.3f} by {self.recognizer}: the mean of {pictures}{without}."
        lines = [first, self.scale] if self.scale else [first]
        if self.without_face:
            lines.append(f"{self.without_face} of {self.photos} photos were not used: no face was found on them.")
        if len(self.scores) > 1:
            lines += [f"Picture {index}: {self.label(index - 1)}" for index in range(1, len(self.scores) + 1)]
        return "\n".join(lines)


def reference_features(recognizer: Recognizer, photos: Sequence[Picture]) -> NDArray[np.float32]:
    """(M, d): features of the largest face on each photo on which there is one.

    Raises ValueError if there is none at all.
    """
    found = [features[0] for features in map(recognizer.embed, photos) if len(features)]
    if not found:
        what = "the photo" if len(photos) == 1 else f"any of the {len(photos)} photos"
        raise InputError(
            f"No face was found on {what} that pictures are compared with. Use a photo on which the whole face is seen.",
            "reference",
        )
    return np.stack(found)


def score_of(recognizer: Recognizer, picture: Picture, references: NDArray[np.float32]) -> float | None:
    """How alike a picture is to photos with these features: None without a face.

    It is the mean over the photos, as in Celeb Basis (`evaluation/clip_eval.py`). Of several faces the most alike counts, for a
    prompt may ask for somebody else beside the person.
    """
    features = recognizer.embed(picture)
    if not len(features):
        return None
    return float(recognizer.similarity(features, references).mean(axis=1).max())


def likeness(
    recognizer: Recognizer,
    pictures: Sequence[Picture],
    photos: Sequence[Picture],
    on_picture: Callable[[], object] = lambda: None,
) -> Likeness:
    """How alike each picture is to the person on the photos. `on_picture` is called after each picture and each photo.

    Raises ValueError if no photo shows a face.
    """

    def watched(photo: Picture) -> Picture:
        on_picture()
        return photo

    references = reference_features(recognizer, [watched(photo) for photo in photos])
    scores = []
    for picture in pictures:
        scores.append(score_of(recognizer, picture, references))
        on_picture()
    without = len(photos) - len(references)
    return Likeness(tuple(scores), recognizer.name, recognizer.scale, len(photos), without)


def labelled(picture: Picture, label: str) -> Picture:
    """The picture with a text in its lower left corner."""
    image = Image.fromarray(picture)
    height = max(10, round(min(image.size) * _LABEL_PART))
    font = _font(height)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    pad = max(2, height // 4)
    across, down = right - left + 2 * pad, bottom - top + 2 * pad
    draw.rectangle((0, image.height - down, across, image.height), fill=(0, 0, 0))
    draw.text((pad - left, image.height - down + pad - top), label, font=font, fill=(255, 255, 255))
    return np.asarray(image)


def _font(height: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(height)
    except TypeError:  # Pillow 10.0, whose own font has one size
        return ImageFont.load_default()
