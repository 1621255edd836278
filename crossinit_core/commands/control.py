"""A ControlNet beside the prompt: its folder, the picture that it follows, and how much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ..families import shown_widths
from ..models.diffusers_folder import read_object, weights_variant
from ..models.loading import reading
from ..photos.images import load_photo
from ..text import quoted

_KIND = "ControlNetModel"


@dataclass(frozen=True)
class Control:
    """A loaded ControlNet with its square picture. `strength` 0 is without it, 1 as it was trained."""

    model: Any
    picture: Image.Image
    strength: float


def check_control(folder: Path | None, picture: Path | None, strength: float) -> None:
    """Raises ValueError or FileNotFoundError if the three do not make a ControlNet; nothing large is read."""
    if not (math.isfinite(strength) and 0 <= strength <= 10):
        raise ValueError(f"--control-strength is {strength}, but a number from 0 to 10 is expected. 1 is usual.")
    if (folder is None) != (picture is None):
        raise ValueError(
            "--controlnet FOLDER and --control-image FILE belong together: the model, and the picture that it follows. Give both."
        )
    if folder is None or picture is None:
        return
    shown = quoted(folder, 200)
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "not there"
        raise ValueError(
            f"--controlnet is '{shown}', which is {what}, but a folder in diffusers' layout is expected: config.json and weights."
        )
    kind = read_object(folder / "config.json").get("_class_name")
    if kind != _KIND:
        raise ValueError(
            f"--controlnet is '{shown}', but its config.json names a {quoted(kind, 60)} and not a {_KIND}. Choose a ControlNet for "
            "SD 1.x, SD 2.x or SDXL."
        )
    weights_variant(folder)
    if not picture.is_file():
        raise FileNotFoundError(f"--control-image: there is no file at '{quoted(picture, 300)}'.")


def load_control(
    folder: Path,
    picture: Path,
    strength: float,
    *,
    widths: tuple[int, ...],
    size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Control:
    """The middle square of the picture at `size` pixels, and the model. Raises ValueError if it is for another model family."""
    width = read_object(folder / "config.json").get("cross_attention_dim")
    if width != sum(widths):
        raise ValueError(
            f"--controlnet is '{quoted(folder, 200)}', which attends to width {quoted(width, 20)}, but the model's text encoders have "
            f"{shown_widths(widths)}. Choose a ControlNet of the same family."
        )
    pixels = (load_photo(picture)[0] * 255).round().to(torch.uint8).numpy()
    square = ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.LANCZOS)
    from diffusers import ControlNetModel

    with reading(folder):
        model: Any = ControlNetModel.from_pretrained(
            folder, local_files_only=True, torch_dtype=dtype, **weights_variant(folder)
        )
    return Control(model.to(device).train(False), square, strength)
