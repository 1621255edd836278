"""SDXL's workflows in ComfyUI's real page, on a stand-in checkpoint of SDXL with text encoders of full size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from devtools.page.driver import ComfyPage
from devtools.workflows.sdxl import NAME
from devtools.workflows.settings import SMALL
from devtools.workflows.stock import EDGES

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = REPOSITORY / "workflows"
SCREENSHOTS = REPOSITORY / "test-output"
LEARN = "CrossInitLearn"
ONE = [[64, 64]]
SAMPLING = [change for change in SMALL if change[0] != LEARN]


@pytest.fixture
def memory_is_given_back(live: Any) -> Iterator[None]:
    """The server has loaded SD 2.1, or will, and would hold both."""
    live.client.free()
    yield
    live.client.free()


def _complaints(log: str) -> list[str]:
    """ComfyUI only warns of weights that do not fit, and samples without them."""
    said = ("no match", "missing", "unexpected", "could not be applied", "not loaded")
    return [line for line in log.splitlines() if any(part in line.lower() for part in said)]


def _log(live: Any) -> str:
    return (live.base / "server.log").read_text(encoding="utf-8", errors="replace")


@pytest.mark.usefixtures("memory_is_given_back")
def test_a_face_is_learned_on_sdxl_and_saved_for_both_encoders(classic: ComfyPage, live: Any) -> None:
    before = len(_log(live))
    classic.load(FILES / "14-learn-a-face-on-sdxl.json")
    classic.set_widgets(*SMALL)
    classic.run(seconds=600)
    assert not classic.errors()
    assert not classic.failed()
    assert classic.pictures("SaveImage") == ONE
    assert "SDXL" in classic.text(LEARN)
    assert not _complaints(_log(live)[before:])
    saved = max(live.embeddings.glob(f"{NAME}*.safetensors"), key=lambda path: path.stat().st_mtime)
    vectors = load_file(saved)
    assert {key: tuple(value.shape) for key, value in vectors.items()} == {"clip_l": (2, 768), "clip_g": (2, 1280)}
    assert all(torch.isfinite(value).all() for value in vectors.values())
    with safe_open(saved, framework="pt") as file:
        assert file.metadata()["crossinit.steps"] == "3"
    classic.screenshot(SCREENSHOTS / "sdxl-learned.png")


@pytest.mark.usefixtures("memory_is_given_back")
def test_the_full_preset_takes_sdxls_own_settings(classic: ComfyPage) -> None:
    """At 64 px and cancelled soon, for 400 steps take long without a GPU."""
    classic.load(FILES / "14-learn-a-face-on-sdxl.json")
    classic.set_widgets((LEARN, "resolution", 64), (LEARN, "resume", False), (LEARN, "seed", 5))
    classic.start()
    classic.wait_until_said(LEARN, "step ")
    assert any(text.startswith("step 1 of 400") for text in classic.said(LEARN))
    assert "SDXL: 400 steps, batch 4, 64 px, rate 0.02" in classic.text(LEARN)
    classic.cancel()
    assert not classic.errors()


@pytest.mark.usefixtures("memory_is_given_back")
def test_controlnet_steers_a_face_learned_on_sdxl(newer: ComfyPage, live: Any) -> None:
    before = len(_log(live))
    newer.load(FILES / "15-sdxl-with-controlnet.json")
    newer.set_widgets(*SAMPLING)
    newer.run(seconds=600)
    assert not newer.errors()
    assert newer.pictures("SaveImage") == ONE
    assert newer.pictures(EDGES) == [[512, 512]]
    assert not _complaints(_log(live)[before:])
    newer.screenshot(SCREENSHOTS / "sdxl-with-controlnet.png")


@pytest.mark.parametrize("name", ["14-learn-a-face-on-sdxl", "15-sdxl-with-controlnet"])
def test_sdxls_workflows_draw_at_its_own_size(name: str) -> None:
    nodes = json.loads((FILES / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    (latent,) = (node for node in nodes if node["type"] == "EmptyLatentImage")
    assert latent["widgets_values"] == [1024, 1024, 1]
