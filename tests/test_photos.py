"""Photos of every kind become upright, square, RGB training images; masks go with them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from crossinit_core import load_photo
from crossinit_core.photos.images import as_rgb, latent_masks, training_images

ORIENTATION = 274
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def portrait() -> Image.Image:
    """80 x 100 px, no two of its corners alike."""
    picture = Image.new("RGB", (80, 100), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 39, 29), fill="red")
    draw.rectangle((40, 0, 79, 29), fill="blue")
    draw.rectangle((0, 80, 39, 99), fill="black")
    return picture


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255


def _disc(width: int, height: int, radius: int) -> torch.Tensor:
    picture = Image.new("RGB", (width, height), "black")
    x, y = width // 2, height // 2
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill="white")
    return _tensor(picture)


@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_phone_photo_is_turned_upright(tmp_path: Path, portrait: Image.Image, orientation: int) -> None:
    turn = STORED_AS[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (portrait if turn is None else portrait.transpose(turn)).save(tmp_path / "phone.png", exif=exif)
    torch.testing.assert_close(load_photo(tmp_path / "phone.png"), _tensor(portrait))


@pytest.mark.parametrize("orientation", STORED_AS)
def test_malformed_exif_still_turns_the_photo(tmp_path: Path, portrait: Image.Image, orientation: int) -> None:
    """Its tag of ImageWidth, a number, holds a text, as some editors leave it."""
    tags = [(256, 2, 4, b"wide"), (ORIENTATION, 3, 1, orientation.to_bytes(2, "little") + bytes(2))]
    entries = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    turn = STORED_AS[orientation]
    (portrait if turn is None else portrait.transpose(turn)).save(tmp_path / "phone.png", exif=exif)
    torch.testing.assert_close(load_photo(tmp_path / "phone.png"), _tensor(portrait))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0no tags", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_leaves_the_photo_as_is(tmp_path: Path, portrait: Image.Image, exif: bytes) -> None:
    portrait.save(tmp_path / "phone.png", exif=exif)
    torch.testing.assert_close(load_photo(tmp_path / "phone.png"), _tensor(portrait))


def test_a_tiff_is_turned_once(tmp_path: Path, portrait: Image.Image) -> None:
    """Pillow turns it when it reads the pixels."""
    portrait.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "scan.tif", tiffinfo={ORIENTATION: 6})
    torch.testing.assert_close(load_photo(tmp_path / "scan.tif"), _tensor(portrait))


def test_jpegs_are_read_as_rgb(tmp_path: Path, portrait: Image.Image) -> None:
    """Values are in 0..1."""
    portrait.save(tmp_path / "photo.jpg", quality=95)
    photo = load_photo(tmp_path / "photo.jpg")
    assert photo.shape == (1, 100, 80, 3)
    assert photo.dtype == torch.float32
    assert float((photo - _tensor(portrait)).abs().mean()) < 0.02
    portrait.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert float((load_photo(tmp_path / "print.jpg") - _tensor(portrait)).abs().mean()) < 0.02


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 32, 64))
    picture.paste((0, 0, 0, 128), (32, 0, 64, 32))
    picture.save(tmp_path / "cutout.png")
    photo = load_photo(tmp_path / "cutout.png")[0]
    assert photo[10, 10].tolist() == [1, 0, 0]
    assert photo[50, 50].tolist() == [1, 1, 1]
    assert photo[10, 50].tolist() == pytest.approx([127 / 255] * 3)


def test_a_grey_photo_is_used_as_rgb(tmp_path: Path, portrait: Image.Image) -> None:
    grey = portrait.convert("L")
    grey.save(tmp_path / "grey.png")
    torch.testing.assert_close(load_photo(tmp_path / "grey.png"), _tensor(grey))
    assert as_rgb(torch.full((1, 64, 64, 1), 0.25)).shape == (1, 64, 64, 3)


def test_16_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(shades).save(tmp_path / "scan.png")
    expected = torch.from_numpy(shades.astype(np.float32) / 65535)
    torch.testing.assert_close(load_photo(tmp_path / "scan.png")[0, ..., 1], expected, atol=0.005, rtol=0)


def test_overshoot_is_cut_off() -> None:
    """A bicubic resize leaves values a little outside of 0..1."""
    photo = torch.full((1, 64, 64, 3), 0.5)
    photo[0, 0, 0] = torch.tensor([-0.08, 1.12, 0.5])
    assert as_rgb(photo)[0, 0, 0].tolist() == [0, 1, 0.5]


def test_a_palette_picture_keeps_its_colours(tmp_path: Path, portrait: Image.Image) -> None:
    portrait.quantize(8).save(tmp_path / "few.png")
    torch.testing.assert_close(load_photo(tmp_path / "few.png"), _tensor(portrait), atol=0.02, rtol=0)
    transparent = portrait.quantize(8)
    transparent.save(tmp_path / "clear.png", transparency=transparent.getpixel((5, 5)))
    assert load_photo(tmp_path / "clear.png")[0, 5, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("content", [b"", b"Dear diary", b"\x89PNG\r\n\x1a\n half of it", b"\xff\xd8\xff\xe0 no jpeg"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'notes\.jpg' is not a picture that can be read"):
        load_photo(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_unreadable_photos_are_named(tmp_path: Path, portrait: Image.Image, suffix: str) -> None:
    """Files that were cut off, and files that are gone."""
    path = tmp_path / f"photo.{suffix}"
    portrait.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"'photo\.{suffix}' is not a picture that can be read"):
        load_photo(path)
    with pytest.raises(FileNotFoundError, match=r"no photo at '.*gone\.jpg'"):
        load_photo(tmp_path / "gone.jpg")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (200, 200)])
def test_a_face_is_never_squashed(size: tuple[int, int]) -> None:
    image = training_images(_disc(*size, radius=60), 128)[0, ..., 0]
    assert image.shape == (128, 128)
    bright = image > 0.5
    columns, rows = int(bright.any(dim=0).sum()), int(bright.any(dim=1).sum())
    assert columns == pytest.approx(rows, abs=1)
    assert columns == pytest.approx(120 * 128 / 200, abs=2)


def test_the_middle_of_a_photo_is_kept() -> None:
    photo = torch.zeros(1, 100, 200, 3)
    photo[:, :, :50] = 0.25
    photo[:, :, 50:150] = 0.5
    middle = training_images(photo, 64)
    torch.testing.assert_close(middle, torch.full_like(middle, 0.5), atol=1e-5, rtol=0)


def test_photos_of_different_sizes_make_one_batch() -> None:
    batch = training_images([torch.rand(2, 70, 90, 3), torch.rand(1, 200, 64, 4), torch.rand(1, 64, 64, 1)], 64)
    assert batch.shape == (4, 64, 64, 3)


def test_enlarged_photos_stay_in_range() -> None:
    edges = (torch.arange(64) % 16 < 8).float().expand(64, 64)[None, ..., None].expand(-1, -1, -1, 3)
    enlarged = training_images(edges, 256)
    assert enlarged.shape == (1, 256, 256, 3)
    assert float(enlarged.min()) >= 0
    assert float(enlarged.max()) <= 1
    assert float(enlarged.mean()) == pytest.approx(0.5, abs=0.01)


def test_a_large_photo_is_reduced_without_moire() -> None:
    grain = torch.rand(1, 1024, 1024, 1, generator=torch.Generator().manual_seed(0)).round().expand(-1, -1, -1, 3)
    reduced = training_images(grain, 64)
    assert float(reduced.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(reduced.std()) < 0.1


def test_the_callers_photo_is_left_alone() -> None:
    photo = torch.rand(1, 64, 64, 3)
    before = photo.clone()
    training_images(photo, 64).zero_()
    assert torch.equal(photo, before)


def test_a_mask_follows_the_crop_of_its_photo() -> None:
    mask = torch.zeros(1, 128, 256)
    mask[:, :, 64:128] = 1  # the left half of the middle square
    weights = latent_masks(mask, [(128, 256)], 64)
    assert weights.shape == (1, 1, 8, 8)
    expected = torch.zeros(8, 8)
    expected[:, :4] = 1
    torch.testing.assert_close(weights[0, 0], expected, atol=0.15, rtol=0)


def test_masks_are_stretched_to_their_photos() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    weights = latent_masks(mask, [(256, 128)], 64)[0, 0]
    torch.testing.assert_close(weights[:3], torch.ones(3, 8), atol=0.1, rtol=0)
    torch.testing.assert_close(weights[-3:], torch.zeros(3, 8), atol=0.1, rtol=0)


def test_one_mask_or_one_a_photo() -> None:
    """One mask serves all photos; of several, each stays with its own photo."""
    top, bottom = torch.zeros(64, 64), torch.zeros(64, 64)
    top[:32], bottom[32:] = 1, 1
    sizes = [(64, 64), (64, 64)]
    shared = latent_masks(top, sizes, 64)
    assert torch.equal(shared[0], shared[1])
    own = latent_masks([top, bottom], sizes, 64)
    assert torch.equal(own[0], shared[0])
    torch.testing.assert_close(own[1], shared[0].flip(-2))
    assert torch.equal(own, latent_masks(torch.stack([top, bottom]), sizes, 64))


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 masks for 3 photos"):
        latent_masks(torch.ones(2, 64, 64), [(64, 64)] * 3, 64)
    with pytest.raises(ValueError, match="Mask 2 leaves nothing"):
        latent_masks([torch.ones(64, 64), torch.zeros(64, 64)], [(64, 64)] * 2, 64)
    outside = torch.zeros(64, 256)
    outside[:, :50] = 1
    with pytest.raises(ValueError, match="Mask 1 leaves nothing"):
        latent_masks(outside, [(64, 256)], 64)
    with pytest.raises(ValueError, match="NaN"):
        latent_masks(torch.full((1, 64, 64), torch.nan), [(64, 64)], 64)
    with pytest.raises(ValueError, match=r"shape \(N, height, width\)"):
        latent_masks(torch.ones(1, 64, 64, 3), [(64, 64)], 64)
