"""Photos framed around the face as *Prepare Face Photo* does it, one after the other as they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..text import quoted
from .faces import Framing, prepare_faces
from .images import load_photo
from .picture_files import read_picture


class FaceCrops:
    """A loader for `folders.read_photos`. `say`, if given, gets a line about each photo: which face, how large."""

    def __init__(self, face: int, say: Callable[[str], None] | None = None) -> None:
        """`face` 1 is the largest on its photo, 0 the only one: then a photo with several is refused."""
        self._framing, self._say = Framing(face=max(1, face), alone=face == 0), say
        self.refused: list[str] = []
        """Why photos could not be framed."""

    def __call__(self, photo: Path, mask: Path | None, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The framed picture (1, R, R, 3) and the mask of the head (1, R, R), both in 0..1.

        A mask of the photo's own decides the frame, and is the mask. Raises ValueError for a photo without such a face, and
        NoDetectorError if no face detector is installed.
        """
        image = load_photo(photo)
        head = None if mask is None else _brightness(mask)[None]
        try:
            faces = prepare_faces(image, replace(self._framing, resolution=resolution), masks=head)
        except ValueError as error:
            self.refused.append(f"'{quoted(photo.name, 100)}': {error}")
            raise
        if self._say:
            self._say(f"{quoted(photo.name, 100)}: {faces.summary()}")
        return faces.images, faces.masks


def _brightness(path: Path) -> Tensor:
    """A mask file (H, W) in 0..1; as `images.load_training_mask` reads it."""
    pixels = torch.as_tensor(read_picture(path))[..., :3]
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    return pixels.mean(dim=-1)
