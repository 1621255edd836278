"""The photos of a person, as they are or framed around the face."""

from __future__ import annotations

from collections.abc import Callable

from ..photos.face_crops import FaceCrops
from ..photos.folders import Photos, read_photos
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
    crops = FaceCrops(person.face)
    try:
        return read_photos(person.photos, resolution, say, crops)
    except ValueError as error:
        raise ValueError(_with_reasons(error, crops.refused)) from error


def _with_reasons(error: ValueError, reasons: list[str]) -> str:
    if not reasons:
        return str(error)
    more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
    return quoted(" ".join(reasons[:2]), 440) + more
