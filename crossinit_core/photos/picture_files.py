"""A picture file -> its pixels, upright. Files are not believed: sizes are checked before pixels are unpacked.

Pixels are as they are stored. Colour profiles are left aside, as ComfyUI's Load Image does (`nodes.py`), so that a photo
learns the same in a graph and on the command line. Of several pictures in a file (animations, pages) the first is read.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ..text import quoted

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM")
"""What is meant by a picture file. Pillow knows more, and starts other programs for some of them."""
MOST_BYTES = 2**29
MOST_PIXELS = 178_956_970
"""Pillow's own limit, twice `Image.MAX_IMAGE_PIXELS` as it comes; a host may have lifted that."""
MANY_PIXELS = 40_000_000
"""From here on a JPEG may be decoded at half its size."""
FLAT_PIXELS = 4_000_000
"""From here on a picture is refused if it is packed as no photo can be: what is smaller takes less than 200 MB."""
MOST_PIXELS_PER_BYTE = 100
"""A JPEG of one colour has 64; packed PNG and WebP files of one colour have thousands."""
LONGEST_TEXT = 2**19
"""Metadata beyond this is left out; Pillow gives up a PNG for 1 MB of it (`PngImagePlugin.MAX_TEXT_CHUNK`)."""
MOST_SEGMENTS = 64
MOST_SCANS = 100
"""Of a progressive JPEG: each scan goes over the whole picture, however few bytes it has (as `djpeg -maxscans`)."""

_ADVICE = "Use a JPEG, PNG or WebP file."
_SAVE_AS_8_BIT = "Save it as an ordinary picture with 8 bits a channel."

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHER_KINDS = (
    (b"%!PS", "a PostScript file (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS)"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\xd7\xcd\xc6\x9a", "a WMF drawing"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an SVG drawing or another XML file"),
    (b"<!DOCTYPE", "an HTML file"),
    (b"<html", "an HTML file"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the picture itself"),
    (b"PK\x03\x04", "a zip archive"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MOVIE_BRANDS = {b"isom", b"mp41", b"mp42", b"qt  ", b"iso2", b"M4V ", b"avc1"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation; 1 is upright."""


class _RefusedError(Exception):
    """Why a readable file is not used, and what to do: the rest of a sentence that starts with the file's name."""


def read_picture(path: Path, *, smallest: int = 1, enough: int | None = None) -> NDArray[Any]:
    """The pixels of a picture file: (H, W, 3 or 4) uint8, or (H, W, 1) float32 in 0..1 of 16-bit and float grey.

    Both sides must have `smallest` px. A JPEG above `MANY_PIXELS` is decoded at a half, a quarter or an eighth of its size
    if `enough` px of its shorter side are left.

    Raises FileNotFoundError, or ValueError of one line that names the file and the reason.
    """
    name = quoted(path.name, 80)
    if not path.is_file():
        raise FileNotFoundError(f"There is no photo at '{quoted(path, 300)}'.")
    content = b""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _RefusedError(
                f"has {size >> 20} MB, but at most {MOST_BYTES >> 20} are read. Save it smaller, as a JPEG."
            )
        with path.open("rb") as file:
            content = file.read(64)
            _refuse_other_kinds(content)
            content += file.read()
        return _pixels(content, smallest, enough)
    except _RefusedError as refused:
        raise ValueError(f"'{name}' {refused}") from None
    except UnidentifiedImageError:
        reason = _unknown(content)
    except MemoryError:
        reason = "there is not enough memory for it"
    except Exception as error:  # Pillow's readers raise nearly anything for damaged files
        reason = quoted(error) or type(error).__name__
    raise ValueError(f"'{name}' is not a picture that can be read ({reason}). {_ADVICE}")


def _pixels(content: bytes, smallest: int, enough: int | None) -> NDArray[Any]:
    Image.init()
    slim = _without_metadata(content)
    try:
        opened = Image.open(io.BytesIO(slim), formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        number = "".join(character for character in str(error).partition("pixels")[0] if character.isdigit())
        raise _RefusedError(_too_many(int(number or 0))) from None
    with opened as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise _RefusedError(_too_many(width * height))
        if width * height > FLAT_PIXELS and len(slim) * MOST_PIXELS_PER_BYTE < width * height:
            raise _RefusedError(
                f"claims {width} x {height} px in only {len(slim) >> 10} KB, as a decompression bomb does. "
                "Use a photo, or save this picture smaller."
            )
        if min(width, height) < smallest:
            raise _RefusedError(
                f"is {width} x {height} px, but at least {smallest} x {smallest} px are needed to show a face. "
                "Use a larger photo."
            )
        if enough and picture.format in ("JPEG", "MPO"):
            _decode_smaller(picture, enough)
        return _as_array(picture)


def _too_many(pixels: int) -> str:
    return (
        f"has {pixels / 1e6:.0f} megapixels, but at most {MOST_PIXELS // 10**6} are read, so that no file can fill the "
        "memory. Make it smaller in a photo program: 2 megapixels are plenty to learn from."
    )


def _decode_smaller(picture: Image.Image, enough: int) -> None:
    """Has libjpeg leave out detail that is not needed, before it takes memory."""
    width, height = picture.size
    scale = 1
    while width * height > MANY_PIXELS * scale**2 and min(width, height) >= 2 * enough * scale and scale < 8:
        scale *= 2
    if scale > 1:
        picture.draft(None, (width // scale, height // scale))  # None: the mode stays


def _as_array(picture: Image.Image) -> NDArray[Any]:
    raw_mode, tags = _raw_mode(picture), dict(getattr(picture, "tag_v2", {}))
    if tags:
        _check_tiff(tags)
    photo = _upright(picture)
    if photo.mode in ("F", "I") or photo.mode.startswith("I;16"):
        return _deep_grey(photo, raw_mode, tags)
    if photo.mode == "LAB":
        raise _RefusedError(f"has Lab colours, which are not read. {_SAVE_AS_8_BIT}")
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    array = np.array(photo if photo.mode == mode else photo.convert(mode))
    if ";16" in raw_mode:
        _refuse_dark(int(array[..., :3].max()) * 257, 65535)
    return array


def _raw_mode(picture: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words; to be asked before they are read."""
    tiles = getattr(picture, "tile", None) or [(None, None, None, "")]
    arguments: Any = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _check_tiff(tags: dict[int, Any]) -> None:
    if _first(tags, 254, 0) & 1:
        raise _RefusedError("starts with a small preview, as raw photos do. Save the photo itself as a JPEG.")
    if _first(tags, 339, 1) == 2:  # SampleFormat; Pillow takes signed bytes for unsigned ones
        raise _RefusedError(f"holds signed numbers, and does not say which of them is white. {_SAVE_AS_8_BIT}")

    if _first(tags, 284, 1) == 2 and _first(tags, 258, 1) > 8:  # Pillow 13 reads noise
        raise _RefusedError(f"holds 16-bit colours one after the other (planar), which are not read. {_SAVE_AS_8_BIT}")


def _first(tags: dict[int, Any], tag: int, otherwise: int) -> int:
    value = tags.get(tag, otherwise)
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int | float) else otherwise


def _deep_grey(photo: Image.Image, raw_mode: str, tags: dict[int, Any]) -> NDArray[np.float32]:
    """Grey of more than 8 bits, (H, W, 1) float32 in 0..1.

    White is the largest number that fits, for floats 1. TIFF's MaxSampleValue does not name another one: it is not to change
    how a picture looks (TIFF 6.0, section 8). A TIFF may count from white to black (PhotometricInterpretation 0), which Pillow
    leaves as it is.
    """
    values = np.array(photo)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _RefusedError("holds pixels that are not numbers (NaN or infinite). Save it anew as a JPEG or PNG.")
    if photo.mode == "F":
        if not 0 <= low <= high <= 1:
            raise _RefusedError(
                f"holds floating-point numbers from {low:.3g} to {high:.3g}, and only those from 0 to 1 have a known "
                f"meaning. {_SAVE_AS_8_BIT}"
            )
        white = 1.0
    elif photo.mode == "I" and not raw_mode.startswith("I;16") and (tags or photo.format not in ("PPM", None)):
        raise _RefusedError(f"holds 32-bit integers, and does not say which number is white. {_SAVE_AS_8_BIT}")
    else:
        white = 4095.0 if raw_mode == "I;12" else 65535.0
        if low < 0 or high > white:
            raise _RefusedError(f"holds {low:.0f} to {high:.0f}, where white is {white:.0f}. {_SAVE_AS_8_BIT}")
    _refuse_dark(high, white)
    grey = (values.astype(np.float32) / white)[..., None]
    return 1 - grey if tags and _first(tags, 262, 1) == 0 else grey


def _refuse_dark(high: float, white: float) -> None:
    """Cameras and scanners put 10, 12 or 14 bits into 16 without saying so: such a picture would be learned as night."""
    if 0 < high < white / 4:
        raise _RefusedError(
            f"is deeper than 8 bits, and its lightest pixel has {high / white:.0%} of white. It may hold 10 to 14 bits in "
            f"16; the file does not say. {_SAVE_AS_8_BIT}"
        )


def _upright(photo: Image.Image) -> Image.Image:
    """A photo as its EXIF orientation wants it seen.

    Pillow's `exif_transpose` also writes all of EXIF anew, and fails if any of its tags is malformed.
    """
    photo.load()  # a TIFF is turned by this already, and then says so
    try:
        turn = _TURNS.get(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # a damaged EXIF raises nearly anything
        log.warning("The photo's EXIF data cannot be read (%s), so it is not turned.", quoted(error))
        turn = None
    return photo if turn is None else photo.transpose(turn)


def _refuse_other_kinds(head: bytes) -> None:
    for start, kind in _OTHER_KINDS:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start) or head.startswith(start):
            raise _RefusedError(f"is {kind}, not a photo. {_ADVICE}")
    if head[4:8] != b"ftyp":
        return
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, len(head), 4))}
    Image.init()
    if b"avif" in brands or b"avis" in brands:
        if "AVIF" not in Image.OPEN:
            raise _RefusedError(
                "is an AVIF picture, which this Pillow does not read. Save it as a JPEG, or update Pillow."
            )
    elif brands & _HEIC_BRANDS:
        if "HEIF" not in Image.OPEN:
            raise _RefusedError(
                "is a HEIC photo, as iPhones take them, which Pillow does not read. Save it as a JPEG. On the iPhone: "
                "Settings, Camera, Formats, Most Compatible."
            )
    elif head[8:12] in _MOVIE_BRANDS:
        raise _RefusedError(f"is a movie, not a photo. {_ADVICE}")


def _unknown(content: bytes) -> str:
    if not content:
        return "the file is empty"
    if not content.strip(b"\0"):
        return "the file holds nothing but zeros"
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a damaged TIFF, or one with numbers or channels of an unusual kind"
    if content[4:8] == b"ftyp":
        return "the file is damaged or cut off"
    starts = (_PNG, b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM")
    return "the file is damaged or cut off" if content.startswith(starts) else "it has the content of no picture format"


def _without_metadata(content: bytes) -> bytes:
    """A PNG or JPEG without what has no pixels in it, so that nothing there can keep it from being read."""
    if content.startswith(_PNG):
        return _slim_png(content)
    return _slim_jpeg(content) if content.startswith(b"\xff\xd8") else content


def _slim_png(content: bytes) -> bytes:
    """Without text, profiles and further frames. What turns a photo stays: EXIF, also in the texts where tools hide it."""
    kept, at = [content[:8]], 8
    known = set[bytes]()
    while at + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        end = at + 12 + length
        body = content[at + 8 : end - 4]
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            kept.append(content[at:end])
        elif kind + body[:8] not in known and _turns_a_png(kind, body):
            known.add(kind + body[:8])  # thousands of them would add up
            kept.append(content[at:end])
        elif not kind.isalpha() or end > len(content):  # damaged: Pillow says so
            kept.append(content[at:])
            break
        if kind == b"IEND":
            break
        at = end
    return b"".join(kept)


def _turns_a_png(kind: bytes, body: bytes) -> bool:
    if kind == b"eXIf":
        return len(body) <= LONGEST_TEXT and body[:2] in (b"II", b"MM")
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or len(body) > LONGEST_TEXT:
        return False
    keyword, _, rest = body.partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
        return False
    if kind == b"zTXt":
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        return True
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(packed, LONGEST_TEXT)
    except zlib.error:
        return False
    return unpacker.eof


def _slim_jpeg(content: bytes) -> bytes:
    """Without comments, profiles and further pictures (MPO). EXIF, XMP, JFIF and Adobe's colour marker stay."""
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = struct.unpack(">BH", content[at + 1 : at + 4])
        end = at + 2 + length
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        if marker == 0xDA or length < 2 or end > len(content):
            break
        application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not application or (marker in (0xE0, 0xE1, 0xEE) and len(kept) < MOST_SEGMENTS):
            kept.append(content[at:end])
        at = end
    end = content.find(b"\xff\xd9", at)
    scans = content.count(b"\xff\xda", at, len(content) if end < 0 else end)
    if scans > MOST_SCANS:
        raise _RefusedError(f"is a JPEG of {scans} scans, where a photo has about 10. {_ADVICE}")
    return b"".join([*kept, content[at:]])
