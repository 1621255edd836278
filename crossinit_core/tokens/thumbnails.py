"""The small picture of a person that travels in a token's file: about 20 KB, generated, never the photo.

It is a data URI under `modelspec.thumbnail`, which ComfyUI's Model Library and SwarmUI show.
"""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, features

PIXELS = 384
"""The longer side of a thumbnail."""
MOST_BYTES = 20_000
"""Of the picture itself; as text it takes a third more. ComfyUI reads no header of more than 1 MiB."""
LONGEST_URI = 40 + 4 * (MOST_BYTES // 3 + 1)
"""Characters of a data URI that is written here."""

_LONGEST_FOREIGN = 3 * 2**20
_MOST_PIXELS = 4096 * 4096
_QUALITIES = (85, 75, 65, 50, 35, 20)


def thumbnail_of(picture: Image.Image) -> str:
    """A data URI of a small copy, as WebP (JPEG where Pillow has no WebP), without anything else that the picture's file held."""
    kind = "webp" if features.check("webp") else "jpeg"
    small = picture.convert("RGB")
    small.info = {}
    small.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            small.save(file, kind, quality=quality)
            if file.tell() <= MOST_BYTES:
                return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
        # Noise, which no quality makes small.
        small = small.reduce(2)


def picture_in(uri: str) -> Image.Image | None:
    """The picture in a data URI that anybody may have written; None if there is none, or not one of a sensible size."""
    head, comma, text = uri.partition(",")
    if not comma or len(uri) > _LONGEST_FOREIGN or not head.startswith("data:image/") or not head.endswith(";base64"):
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["WEBP", "JPEG", "PNG"]) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        return None
