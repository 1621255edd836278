"""Picture files of every kind: read right, or refused in one line that names the file."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, features

from crossinit_core import load_photo
from crossinit_core.photos.images import load_training_photo, training_images
from tests.conftest import REPOSITORY

REFUSAL = 600
GREY = np.linspace(0.1, 0.9, 80 * 96).reshape(80, 96)


@pytest.fixture
def portrait() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (10, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((96, 120), Image.Resampling.BICUBIC)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255


def _refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
        load_photo(path)
    message = str(caught.value)
    assert len(message) < REFUSAL
    assert len(message.splitlines()) == 1
    return message


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _tiff(
    path: Path, values: NDArray[np.generic], *, sample_format: int = 1, photometric: int = 1, **tags: int
) -> Path:
    """One strip of grey, little-endian, as scanners and programs of science write it (TIFF 6.0)."""
    height, width = values.shape
    pixels = values.tobytes()
    entries = {256: width, 257: height, 258: values.dtype.itemsize * 8, 259: 1, 262: photometric, 273: 8, 277: 1}
    entries |= {
        278: height,
        279: len(pixels),
        339: sample_format,
        **{int(tag[1:]): value for tag, value in tags.items()},
    }
    directory = struct.pack("<H", len(entries))
    for tag in sorted(entries):
        directory += struct.pack("<HHII", tag, 4, 1, entries[tag])
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory + bytes(4))
    return path


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "many", "many of XMP", "iCCP", "broken iCCP", "broken text"])
def test_bloated_metadata_does_not_hide_a_photo(tmp_path: Path, portrait: Image.Image, kind: str) -> None:
    much = b"x" * 3_000_000
    chunk = {
        "zTXt": _chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(much)),
        "iTXt": _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(much)),
        "tEXt": _chunk(b"tEXt", b"workflow\0" + much),
        "many": _chunk(b"zTXt", b"prompt\0\0" + zlib.compress(much[:1_000_000])) * 80,
        "many of XMP": _chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(much[:500_000])) * 200,
        "iCCP": _chunk(b"iCCP", b"profile\0\0" + zlib.compress(much)),
        "broken iCCP": _chunk(b"iCCP", b"profile\0\0no zlib"),
        "broken text": _chunk(b"iTXt", b"\xff"),
    }[kind]
    plain = io.BytesIO()
    portrait.save(plain, "PNG")
    start = plain.getvalue()
    path = tmp_path / "bloated.png"
    path.write_bytes(start[:33] + chunk + start[33:])
    assert torch.equal(load_photo(path), _tensor(portrait))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "png"])
def test_a_huge_profile_changes_nothing(tmp_path: Path, portrait: Image.Image, suffix: str) -> None:
    """Profiles are left aside, as ComfyUI's Load Image does; so are broken ones."""
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    portrait.save(tmp_path / f"plain.{suffix}", **options)
    portrait.save(tmp_path / f"profile.{suffix}", icc_profile=b"no profile at all" * 100_000, **options)
    assert torch.equal(load_photo(tmp_path / f"profile.{suffix}"), load_photo(tmp_path / f"plain.{suffix}"))


@pytest.mark.parametrize("where", ["eXIf", "Raw profile type exif", "XMP"])
def test_a_png_is_turned_by_any_of_its_texts(tmp_path: Path, portrait: Image.Image, where: str) -> None:
    exif, info = Image.Exif(), PngImagePlugin.PngInfo()
    exif[274] = 6
    if where == "XMP":
        info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta tiff:Orientation="6"/>', zip=True)
    elif where != "eXIf":
        info.add_text(where, f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=True)
    options: dict[str, Any] = {"exif": exif} if where == "eXIf" else {"pnginfo": info}
    portrait.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", **options)
    assert torch.equal(load_photo(tmp_path / "turned.png"), _tensor(portrait))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "float"])
def test_grey_scans_have_their_true_shades(tmp_path: Path, kind: str, photometric: int) -> None:
    stored = GREY if photometric else 1 - GREY
    path = tmp_path / "scan.tif"
    if kind == "float":
        _tiff(path, stored.astype(np.float32), sample_format=3, photometric=photometric)
    elif kind == "8 bit":
        _tiff(path, (stored * 255).round().astype(np.uint8), photometric=photometric)
    else:
        _tiff(path, (stored * 65535).round().astype(np.uint16), photometric=photometric)
    photo = load_photo(path)[0]
    assert torch.equal(photo[..., 0], photo[..., 2])
    torch.testing.assert_close(photo[..., 0], torch.from_numpy(GREY).float(), atol=0.003, rtol=0)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_packed_16_bit_scans_have_their_shades(tmp_path: Path, compression: str) -> None:
    picture = Image.fromarray((GREY * 65535).round().astype(np.uint16))
    picture.save(tmp_path / "scan.tif", compression=compression)
    shades = load_photo(tmp_path / "scan.tif")[0, ..., 0]
    torch.testing.assert_close(shades, torch.from_numpy(GREY).float(), atol=0.001, rtol=0)
    picture.save(tmp_path / "negative.tif", compression=compression, tiffinfo={262: 0})
    shades = load_photo(tmp_path / "negative.tif")[0, ..., 0]
    torch.testing.assert_close(shades, torch.from_numpy(1 - GREY).float(), atol=0.001, rtol=0)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_fewer_bits_in_16_are_refused(tmp_path: Path, bits: int, suffix: str) -> None:
    shades = (GREY * (2**bits - 1)).round().astype(np.uint16)
    Image.fromarray(shades).save(tmp_path / f"camera.{suffix}")
    assert "does not say" in _refusal(tmp_path / f"camera.{suffix}")


def test_dark_deep_colours_are_refused(tmp_path: Path) -> None:
    """A PNG of 3 x 16 bits, of which a camera filled 12."""
    rows = (np.repeat(GREY[..., None], 3, axis=2) * 4095).astype(">u2").reshape(80, -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 80, 16, 2, 0, 0, 0))
    path = tmp_path / "camera.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", packed) + _chunk(b"IEND", b""))
    assert "does not say" in _refusal(path)


@pytest.mark.parametrize(
    "case", ["int32", "uint32", "int16", "int8", "float 0..255", "float below 0", "NaN", "float64"]
)
def test_numbers_without_a_white_are_refused(tmp_path: Path, case: str) -> None:
    cases: dict[str, tuple[NDArray[Any], int]] = {
        "int32": ((GREY * 2**31).astype(np.int32), 2),
        "uint32": ((GREY * 2**32).astype(np.uint32), 1),
        "int16": ((GREY * 2**15).astype(np.int16), 2),
        "int8": ((GREY * 127).astype(np.int8), 2),
        "float 0..255": ((GREY * 255).astype(np.float32), 3),
        "float below 0": ((GREY - 0.5).astype(np.float32), 3),
        "NaN": (np.where(GREY > 0.5, np.nan, GREY).astype(np.float32), 3),
        "float64": (GREY, 3),
    }
    values, sample_format = cases[case]
    _refusal(_tiff(tmp_path / "science.tif", values, sample_format=sample_format))


def test_planar_deep_colours_are_refused(tmp_path: Path) -> None:
    """Pillow makes noise of them."""
    height, width = GREY.shape
    plane = (GREY * 65535).astype("<u2").tobytes()
    start = 8 + 3 * len(plane)
    lists = {258: (16,) * 3, 273: tuple(8 + band * len(plane) for band in range(3)), 279: (len(plane),) * 3}
    single = {256: width, 257: height, 259: 1, 262: 2, 277: 3, 278: height, 284: 2}
    directory, after = struct.pack("<H", 10), start + 2 + 10 * 12 + 4
    values = b""
    for tag in sorted({*lists, *single}):
        if tag in lists:
            directory += struct.pack("<HHII", tag, 4, 3, after + len(values))
            values += struct.pack("<3I", *lists[tag])
        else:
            directory += struct.pack("<HHII", tag, 4, 1, single[tag])
    path = tmp_path / "planar.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, start) + plane * 3 + directory + bytes(4) + values)
    assert "planar" in _refusal(path)


def test_inverted_cmyk_of_adobe_is_read(tmp_path: Path, portrait: Image.Image) -> None:
    """Pillow writes the Adobe marker, and the ink turned around as Photoshop does."""
    portrait.convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    assert float((load_photo(tmp_path / "print.jpg") - _tensor(portrait)).abs().mean()) < 0.02
    portrait.convert("CMYK").save(tmp_path / "print.tif")
    assert float((load_photo(tmp_path / "print.tif") - _tensor(portrait)).abs().mean()) < 0.01


def test_one_bit_and_grey_with_alpha_are_read(tmp_path: Path, portrait: Image.Image) -> None:
    portrait.convert("1").save(tmp_path / "fax.png")
    assert torch.equal(load_photo(tmp_path / "fax.png"), _tensor(portrait.convert("1")))
    clear = portrait.convert("LA")
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(tmp_path / "clear.png")
    assert bool((load_photo(tmp_path / "clear.png") == 1).all())


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "mpo"])
def test_the_first_of_several_pictures_is_read(tmp_path: Path, portrait: Image.Image, suffix: str) -> None:
    other = portrait.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    portrait.save(tmp_path / f"film.{suffix}", save_all=True, append_images=[other], **options)
    photo = load_photo(tmp_path / f"film.{suffix}")
    assert photo.shape == (1, 120, 96, 3)
    assert float((photo - _tensor(portrait)).abs().mean()) < 0.05 < float((photo - _tensor(other)).abs().mean())


OTHER_KINDS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(x) run\n",
    "EPS with preview": b"\xc5\xd0\xd3\xc6" + bytes(60),
    "PDF": b"%PDF-1.7\n",
    "PSD": b"8BPS\0\1" + bytes(40),
    "FITS": b"SIMPLE  =                    T" + bytes(200),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60),
    "JPEG XL": b"\xff\x0a" + bytes(60),
    "movie": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(60),
    "web": b"<!DOCTYPE html><html>",
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "XPM": b"/* XPM */\nstatic char *x[] = {\n",
    "empty": b"",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_only_picture_formats_are_opened(tmp_path: Path, kind: str, suffix: str) -> None:
    """Whatever the ending says. Pillow would start Ghostscript for EPS."""
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(OTHER_KINDS[kind])
    message = _refusal(path)
    word = {"EPS": "PostScript", "EPS with preview": "PostScript", "PSD": "Photoshop", "HEIC": "iPhone"}.get(kind, "")
    assert word in message


def test_too_many_megapixels_are_said(tmp_path: Path) -> None:
    start = io.BytesIO()
    Image.new("RGB", (64, 64)).save(start, "JPEG")
    content = bytearray(start.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 12288, 16384)
    (tmp_path / "phone.jpg").write_bytes(content)
    message = _refusal(tmp_path / "phone.jpg")
    assert "201 megapixels" in message
    assert "smaller" in message


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path, portrait: Image.Image) -> None:
    """Each costs the time of the whole picture."""
    buffer = io.BytesIO()
    portrait.save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    (tmp_path / "slow.jpg").write_bytes(content[:-2] + content[last:-2] * 200 + content[-2:])
    assert "scans" in _refusal(tmp_path / "slow.jpg")
    (tmp_path / "live.jpg").write_bytes(content + b"\xff\xda" * 200)
    assert load_photo(tmp_path / "live.jpg").shape == (1, 120, 96, 3), "what follows a photo is not a part of it"


PEAK = """
import re, sys
from pathlib import Path

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
"""
"""MB, of this process alone: `ru_maxrss` starts with those of the one that started it."""
BOMB = """
from crossinit_core import load_photo
before = peak()
try:
    load_photo(Path(sys.argv[1]))
except ValueError as error:
    print(error)
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
@pytest.mark.parametrize("width", [3_000, 13_000, 60_000])
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, width: int) -> None:
    """13,000 squared lie below Pillow's own limit."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(50)) + packer.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", packed) + _chunk(b"IEND", b""))
    command = [sys.executable, "-W", "ignore", "-c", PEAK + BOMB, str(path)]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "bomb" in answer[0]
    assert int(answer[1]) < 50, "MB were taken"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(300, 200), (96, 130), (64, 64)])
def test_a_photo_made_small_is_the_same(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    """To the bit, so that a token is too."""
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    small, found = load_training_photo(path, 64)
    assert torch.equal(small, training_images(load_photo(path), 64))
    assert found == (size[1], size[0])


MEMORY = """
from crossinit_core.photos.folders import read_photos
before = peak()
photos = read_photos([Path(path) for path in sys.argv[1:]], 64)
print(len(photos.images), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_many_large_photos_need_the_memory_of_one(tmp_path: Path) -> None:
    def needed(count: int) -> int:
        paths = [tmp_path / f"{number}.jpg" for number in range(count)]
        for path in paths:
            picture.save(path, quality=90)
        command = [sys.executable, "-c", PEAK + MEMORY, *map(str, paths)]
        answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
        assert int(answer[0]) == count
        return int(answer[1])

    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((3000, 2000), Image.Resampling.BICUBIC)
    assert needed(8) < 250, "MB for eight photos that are 72 MB each as floats"


FUZZED = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", *(["AVIF"] if features.check("avif") else [])]


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    values = np.random.default_rng(0).integers(0, 256, (72, 80, 3), dtype=np.uint8)
    contents = {}
    for name in FUZZED:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, name)
        contents[name] = buffer.getvalue()
    return contents


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, originals: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    content = bytearray(originals[name])
    half = data.draw(st.sampled_from([40, 400, len(content)]))
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, min(half, len(content)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "damaged.jpg"
    path.write_bytes(content)
    try:
        photo = load_photo(path)
    except ValueError as error:
        assert len(str(error)) < REFUSAL
        assert len(str(error).splitlines()) == 1
        assert "damaged.jpg" in str(error)
    else:
        assert photo.ndim == 4
        assert 0 <= float(photo.min()) <= float(photo.max()) <= 1
