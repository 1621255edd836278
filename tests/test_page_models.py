"""A saved person in the Model Library of ComfyUI's real page: found by picture and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from crossinit_core import LearnedToken, save_learned_token
from crossinit_core.tokens.description import described
from crossinit_core.tokens.history import History
from crossinit_core.tokens.sidecars import write_beside
from crossinit_core.tokens.small_pictures import Picture
from devtools.page.driver import ComfyPage

SCREENSHOTS = Path(__file__).resolve().parents[1] / "test-output"
NAME = "shown-in-the-library"


def _save(folder: Path) -> None:
    """A token with a picture of a face in few strokes."""
    picture = Image.new("RGB", (512, 512), (70, 110, 160))
    brush = ImageDraw.Draw(picture)
    brush.ellipse((130, 80, 380, 430), fill=(225, 180, 150))
    for left in (190, 280):
        brush.ellipse((left, 200, left + 40, 230), fill=(40, 40, 60))
    brush.arc((200, 280, 310, 370), 20, 160, fill=(150, 50, 60), width=8)
    history = History((0.1,), (0.0, 0.1), (0.0, 1.0), portrait=Picture(1, np.asarray(picture)))
    facts = {"crossinit.steps": "320", "crossinit.checkpoint": "v2-1_512-ema-pruned"}
    token = described(LearnedToken(torch.randn(2, 1024), NAME, "sd2", facts, history), "Ann Lee")
    write_beside(token, save_learned_token(token, folder / f"{NAME}.safetensors"))


def test_the_model_library_shows_picture_and_text(classic: ComfyPage, live: Any) -> None:
    _save(live.embeddings)
    try:
        classic.command("Workspace.ToggleSidebarTab.model-library")
        page = classic.page
        page.get_by_text("embeddings", exact=True).click()
        leaf = page.get_by_text(NAME, exact=True).first
        leaf.hover()
        shown = page.locator(".model_preview")
        shown.wait_for()
        image = shown.locator(".model_preview_image img")
        image.wait_for()
        page.wait_for_function("() => document.querySelector('.model_preview_image img').naturalWidth > 0")
        assert (image.get_attribute("src") or "").startswith("data:image/")
        assert image.evaluate("element => element.naturalWidth") == 384
        text = shown.inner_text()
        for said in (f"embedding:{NAME} person", "Ann Lee", "consent", "320 steps", "stable-diffusion-v2-512"):
            assert said in text
        classic.screenshot(SCREENSHOTS / "model-library.png")
    finally:
        classic.command("Workspace.ToggleSidebarTab.model-library")
        for file in live.embeddings.glob(f"{NAME}.*"):
            file.unlink()


def test_the_server_gives_the_preview(live: Any) -> None:
    """The route that other panels of the page and of packs ask."""
    import io
    import urllib.request

    _save(live.embeddings)
    try:
        address = f"{live.url}/api/experiment/models/preview/embeddings/0/{NAME}.safetensors"
        with urllib.request.urlopen(address) as answer, Image.open(io.BytesIO(answer.read())) as picture:
            assert max(picture.size) == 384
    finally:
        for file in live.embeddings.glob(f"{NAME}.*"):
            file.unlink()
