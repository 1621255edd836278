"""Photos and masks among files and folders, as the tools that people come from leave them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from crossinit_core import InversionSettings, cross_initialize_words, invert, load_learned_token, load_photo
from crossinit_core.cli import main
from crossinit_core.diffusers_backbone import DiffusersBackbone, resolution_of
from crossinit_core.photos.folders import Photos, read_photos
from crossinit_core.photos.images import training_images
from tests.conftest import REPOSITORY


class Said(list[str]):
    """The lines that were said."""

    def about(self, name: str) -> str:
        lines = [line for line in self if name in line]
        assert len(lines) == 1, self
        assert len(lines[0]) < 600
        assert len(lines[0].splitlines()) == 1
        return lines[0]


@pytest.fixture
def said() -> Said:
    return Said()


def _photo(path: Path, seed: int = 0, size: tuple[int, int] = (80, 100)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _mask(path: Path, size: tuple[int, int] = (100, 80)) -> Path:
    """White on its left half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    mask.save(path)
    return path


def _read(said: Said, *paths: Path) -> Photos:
    return read_photos(paths, 64, said.append)


def _same(photos: Photos, *files: Path) -> bool:
    return len(photos.images) == len(files) and all(
        torch.equal(image, training_images(load_photo(file), 64))
        for image, file in zip(photos.images, files, strict=True)
    )


def _is_left_half(mask: torch.Tensor) -> bool:
    return mask.shape == (1, 64, 64) and float(mask[..., :30].min()) > 0.95 and float(mask[..., 34:].max()) < 0.05


def test_photos_have_the_pixels_of_learning(tmp_path: Path, said: Said) -> None:
    files = [_photo(tmp_path / name, seed) for seed, name in enumerate(("a.jpg", "b.png", "c.webp"))]
    photos = _read(said, tmp_path)
    assert _same(photos, *files)
    assert photos.masks is None
    assert not said


@pytest.mark.parametrize(
    "mask",
    [
        "anna-masklabel.png",
        "anna_mask.png",
        "anna.mask.png",
        "anna.jpg.mask.png",
        "ANNA-MaskLabel.PNG",
        "masks/anna.png",
        "mask/anna_mask.webp",
    ],
)
def test_a_mask_beside_its_photo_is_its_mask(tmp_path: Path, said: Said, mask: str) -> None:
    anna, bob = _photo(tmp_path / "anna.jpg"), _photo(tmp_path / "bob.jpg", seed=1)
    _mask(tmp_path / mask)
    photos = _read(said, tmp_path)
    assert _same(photos, anna, bob)
    assert photos.masks is not None
    assert _is_left_half(photos.masks[0])
    assert torch.equal(photos.masks[1], torch.ones(1, 64, 64))
    assert not said


def test_a_mask_is_found_among_given_files(tmp_path: Path, said: Said) -> None:
    anna, mask = _photo(tmp_path / "anna.jpg"), _mask(tmp_path / "anna-masklabel.png")
    photos = _read(said, mask, anna)
    assert _same(photos, anna)
    assert photos.masks is not None
    assert _is_left_half(photos.masks[0])


@pytest.mark.parametrize("mask", ["anna-masklabel.png", "anna_mask.png", "masks/anna.png", "../photos_mask/anna.png"])
def test_a_named_photo_has_the_mask_beside_it(tmp_path: Path, said: Said, mask: str) -> None:
    anna = _photo(tmp_path / "photos" / "anna.jpg")
    _photo(tmp_path / "photos" / "bob.jpg", seed=1)
    _mask(tmp_path / "photos" / "bob-mask.png")
    _mask(tmp_path / "photos" / mask)
    photos = _read(said, anna)
    assert _same(photos, anna)
    assert photos.masks is not None
    assert _is_left_half(photos.masks[0])
    assert said.about("as the mask of 'anna.jpg'").startswith("Using ")
    assert len(said) == 1


def test_captions_beside_a_named_photo_are_no_masks(tmp_path: Path, said: Said) -> None:
    anna = _photo(tmp_path / "anna.jpg")
    (tmp_path / "anna-mask.txt").write_text("a caption", encoding="utf-8")
    (tmp_path / "anna.txt").write_text("a caption", encoding="utf-8")
    assert _read(said, anna).masks is None
    assert not said


def test_repeat_counts_are_said_once(tmp_path: Path, said: Said) -> None:
    """kohya's folders: no photo counts more than another here."""
    photos = [_photo(tmp_path / f"{count}_anna person" / "1.jpg", seed=count) for count in (10, 2)]
    assert _same(_read(said, tmp_path), *photos)
    assert "every photo counts the same" in said.about("_anna person")
    assert len(said) == 1


def test_a_mask_of_another_size_is_stretched(tmp_path: Path, said: Said) -> None:
    _photo(tmp_path / "anna.jpg", size=(200, 300))
    _mask(tmp_path / "anna-masklabel.png", (30, 20))
    masks = _read(said, tmp_path).masks
    assert masks is not None
    assert _is_left_half(masks[0])


@pytest.mark.parametrize("layout", [("images", "masks"), ("10_anna person", "10_anna person_mask")])
def test_masks_in_a_folder_of_their_own(tmp_path: Path, said: Said, layout: tuple[str, str]) -> None:
    """As kohya's `conditioning_data_dir` has them."""
    anna = _photo(tmp_path / layout[0] / "001.jpg")
    _mask(tmp_path / layout[1] / "001.png")
    photos = _read(said, tmp_path)
    assert _same(photos, anna)
    assert photos.masks is not None
    assert _is_left_half(photos.masks[0])


def test_a_mask_without_a_photo_is_said(tmp_path: Path, said: Said) -> None:
    anna = _photo(tmp_path / "anna.jpg")
    _mask(tmp_path / "bob-masklabel.png")
    _mask(tmp_path / "masks" / "carl.png")
    photos = _read(said, tmp_path)
    assert _same(photos, anna)
    assert photos.masks is None
    assert "its photo is not there" in said.about("bob-masklabel.png")
    assert "its photo is not there" in said.about("carl.png")


def test_a_photo_called_mask_may_be_named(tmp_path: Path, said: Said) -> None:
    party = _photo(tmp_path / "halloween_mask.jpg")
    assert _same(_read(said, party), party)


def test_a_mask_that_cannot_be_used_is_said(tmp_path: Path, said: Said) -> None:
    """Its photo is not learned whole instead: what the mask hides could be somebody else."""
    good = _photo(tmp_path / "good.jpg")
    _photo(tmp_path / "anna.jpg")
    (tmp_path / "anna-masklabel.png").write_bytes(b"no picture")
    _photo(tmp_path / "bob.jpg")
    Image.new("L", (100, 80), 1).save(tmp_path / "bob-masklabel.png")
    assert _same(_read(said, tmp_path), good)
    assert "anna-masklabel.png" in said.about("anna.jpg")
    assert "brightest pixel is 1 of 255" in said.about("bob.jpg")


def test_photos_in_folders_are_found(tmp_path: Path, said: Said) -> None:
    deep = _photo(tmp_path / "img" / "10_anna person" / "x" / "b.png", seed=1)
    upper = _photo(tmp_path / "z.jpg")
    assert _same(_read(said, tmp_path), upper, deep)
    assert not said


def test_what_lies_beside_photos_is_said_once(tmp_path: Path, said: Said) -> None:
    files = [_photo(tmp_path / f"{number}.jpg", number) for number in range(3)]
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("a photo of anna", encoding="utf-8")
    for hidden in (".DS_Store", "._0.jpg", "Thumbs.db", ".cache/0.jpg", "__MACOSX/0.jpg"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no picture")
    _photo(tmp_path / "0-condlabel.png")
    assert _same(_read(said, tmp_path), *files)
    assert len(said) == 2
    assert "steers a ControlNet" in said.about("condlabel")
    assert "'0.txt', '1.txt', '2.txt'" in said[1]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_folders_that_link_in_circles_end(tmp_path: Path, said: Said) -> None:
    anna = _photo(tmp_path / "a" / "anna.jpg")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "again.jpg").symlink_to(anna)
    assert len(_read(said, tmp_path).images) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_does_not_stop_the_search(tmp_path: Path, said: Said) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    anna = _photo(tmp_path / "anna.jpg")
    assert _same(_read(said, tmp_path), anna)


DAMAGED = ["jpg", "png", "webp", "gif", "tif", "bmp", *(["avif"] if features.check("avif") else [])]


@pytest.mark.parametrize("suffix", DAMAGED)
def test_a_damaged_photo_is_skipped_by_name(tmp_path: Path, said: Said, suffix: str) -> None:
    good = _photo(tmp_path / "good.jpg")
    whole = _photo(tmp_path / f"bad.{suffix}").read_bytes()
    (tmp_path / f"bad.{suffix}").write_bytes(whole[: len(whole) // 2])
    assert _same(_read(said, tmp_path), good)
    assert said.about(f"bad.{suffix}").startswith("Skipping")


def test_no_photo_at_all_says_what_was_seen(tmp_path: Path, said: Said) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "b.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2")
    with pytest.raises(ValueError, match=r"no usable photo in .*2 files were seen \(1 \.mp4, 1 \.txt\)"):
        _read(said, tmp_path)
    assert "is a movie" in said.about("b.mp4")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="it holds no files"):
        _read(said, empty)
    with pytest.raises(FileNotFoundError, match=re.escape("gone")):
        _read(said, tmp_path / "gone")


def test_the_command_line_learns_under_the_mask(tiny_models: Path, tmp_path: Path) -> None:
    """A mask that is white all over changes nothing; one that hides a half does."""

    def learned(name: str) -> torch.Tensor:
        out = tmp_path / f"{name}.safetensors"
        options = ["--steps", "1", "--batch-size", "2", "--resolution", "64", "--words", "face", "--resume-folder"]
        command = [
            "train",
            str(tiny_models / "tiny-eps"),
            str(folder),
            *options,
            str(tmp_path / name),
            "--out",
            str(out),
        ]
        assert main(command) == 0
        return load_learned_token(out).vectors

    folder = tmp_path / "photos"
    _photo(folder / "anna.png")
    plain = learned("plain")
    Image.new("L", (80, 100), 255).save(folder / "anna-masklabel.png")
    white = learned("white")
    torch.testing.assert_close(white, plain, atol=1e-4, rtol=0)
    _mask(folder / "anna-masklabel.png")
    assert float((learned("half") - white).abs().max()) > 1e-3
    assert torch.equal(plain, _as_before(folder / "anna.png", tiny_models / "tiny-eps"))


def _as_before(photo: Path, model: Path) -> torch.Tensor:
    """What is learned from the photo at its full size."""
    backbone = DiffusersBackbone.from_pretrained(model)
    settings = InversionSettings(steps=1, batch_size=2, resolution=64)
    return invert(
        backbone, cross_initialize_words(backbone, "face"), settings, images=[load_photo(photo)]
    ).token.vectors


def test_the_models_own_size_is_known_before_it_loads(tiny_models: Path, tmp_path: Path) -> None:
    for model in (tiny_models / "tiny-eps", REPOSITORY / "miniature" / "weights"):
        assert resolution_of(model) == DiffusersBackbone.from_pretrained(model).resolution
    assert resolution_of(tmp_path) == 512
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("[]", encoding="utf-8")
    assert resolution_of(tmp_path) == 512
