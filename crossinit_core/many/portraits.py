"""The photos of a person, as they are or framed around the face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..photos.faces import Framing, prepare_faces
from ..photos.folders import Photos, read_photos
from ..photos.images import load_photo
from ..photos.picture_files import read_picture
from ..text import quoted
from .people import Person


def read_portraits(person: Person, resolution: int, say: Callable[[str], None]) -> Photos:
    """Photos (1, R, R, 3) and masks (1, R, R) in 0..1, R = `resolution`; `say` gets a line for what is not used.

    Raises ValueError that says why of each photo if none can be used, and NoDetectorError if a face is to be found and
    nothing is installed that does.
    """
    if person.face is None:
        refused: list[str] = []

        def heard(line: str) -> None:
            refused.append(line)
            say(line)

        try:
            return read_photos(person.photos, resolution, heard)
        except ValueError as error:
            raise ValueError(_with_reasons(error, refused)) from error
    crops = _FaceCrops(person.face)
    try:
        return read_photos(person.photos, resolution, say, crops)
    except ValueError as error:
        raise ValueError(_with_reasons(error, crops.refused)) from error


def _with_reasons(error: ValueError, reasons: list[str]) -> str:
    if not reasons:
        return str(error)
    more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
    return quoted(" ".join(reasons[:2]), 440) + more


class _FaceCrops:
    """A loader for `read_photos` that frames one face: of a number, or 0 for the only one."""

    def __init__(self, face: int) -> None:
        self._face = face
        self.refused: list[str] = []

    def __call__(self, photo: Path, mask: Path | None, resolution: int) -> tuple[Tensor, Tensor | None]:
        framing = Framing(face=max(1, self._face), alone=self._face == 0, resolution=resolution)
        head = None if mask is None else _brightness(mask)[None]
        try:
            faces = prepare_faces(load_photo(photo), framing, masks=head)
        except ValueError as error:
            self.refused.append(f"'{quoted(photo.name, 80)}': {error}")
            raise
        return faces.images, faces.masks


def _brightness(path: Path) -> Tensor:
    """A mask file (H, W) in 0..1; as `images.load_training_mask` reads it."""
    pixels = torch.as_tensor(read_picture(path))[..., :3]
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    return pixels.mean(dim=-1)
