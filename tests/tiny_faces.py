"""Saved faces for the panel in the page's sidebar: a token of random vectors, with a picture in few strokes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from crossinit_core import LearnedToken, save_learned_token
from crossinit_core.tokens.description import described
from crossinit_core.tokens.history import History
from crossinit_core.tokens.sidecars import write_beside
from crossinit_core.tokens.small_pictures import Picture

LEARNED = {
    "crossinit.version": "1.0.0",
    "crossinit.steps": "320",
    "crossinit.checkpoint": "v2-1_512-ema-pruned",
    "modelspec.date": "2026-03-04T12:00:00+00:00",
}


def save_face(
    folder: Path,
    name: str,
    *,
    facts: Mapping[str, str] | None = None,
    picture: bool = True,
    beside: bool = False,
    layout: str | None = None,
    seed: int = 0,
) -> Path:
    """A face of this pack in a folder, as Save Learned Token writes it; `beside` with the files for other tools."""
    vectors = torch.randn(2, 1024, generator=torch.Generator().manual_seed(seed))
    history = History((0.1,), (0.0, 0.1), (0.0, 1.0), portrait=Picture(1, np.asarray(_face(seed))))
    token = LearnedToken(vectors, name, "sd2", {**LEARNED, **(facts or {})}, history if picture else None)
    token = described(token, picture=picture)
    path = save_learned_token(token, folder / f"{name}.safetensors", layout)
    write_beside(token, path, wanted=beside)
    return path


def _face(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)

    def colour() -> tuple[int, int, int]:
        red, green, blue = rng.integers(60, 230, 3).tolist()
        return red, green, blue

    picture = Image.new("RGB", (256, 256), colour())
    brush = ImageDraw.Draw(picture)
    brush.ellipse((55, 20, 200, 200), fill=colour())
    brush.ellipse((65, 40, 190, 215), fill=(225, 180, 150))
    for left in (95, 140):
        brush.ellipse((left, 100, left + 20, 115), fill=(40, 40, 60))
    brush.arc((100, 140, 155, 185), 20, 160, fill=(150, 50, 60), width=4)
    return picture
