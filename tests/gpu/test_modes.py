"""Learning in every memory and attention mode of ComfyUI: right gradients, untouched pictures, no memory kept.

Each mode is a ComfyUI in a process of its own with full-size SD 2.1 or SDXL and random weights (the embedded miniature: real ones),
in which one run is compared with float32, and repeated under other conditions: `benchmarks.modes` makes and measures them.
Logs are kept in build/gpu-modes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.modes import AFTER, BEFORE, MODES, NEAR, RATIO, SAME_BITS, is_near, run_mode

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI")).resolve()
FULL_SIZE_ALONE = ("memory full while recording", "out of memory")
"""The miniature is too small to fill a GPU."""
IN_BFLOAT16, SDXL_IN_BFLOAT16 = ("bf16", "overflow in fp16"), 0.998
"""Checks that learn in bfloat16, and how near that comes on SDXL: 0.9988 was measured at batch 2, 0.9993 at batch 4."""


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A mode's name, and what it gave."""
    if not (COMFYUI / "comfy" / "sd.py").is_file():
        pytest.skip(f"there is no ComfyUI at {COMFYUI}; set COMFYUI_PATH")
    result = run_mode(request.param, COMFYUI, ROOT / "build" / "gpu-modes")
    if result.get("refused"):
        pytest.skip(f"ComfyUI does not start in this mode here: {result['end']}")
    return request.param, result


def test_the_mode_came_to_its_end(mode: tuple[str, dict[str, Any]]) -> None:
    name, result = mode
    assert "code" not in result, f"{name} ended with code {result['code']}: {result['end']}"
    wanted = {*SAME_BITS, *NEAR} - set(FULL_SIZE_ALONE if name == "embedded miniature" else ())
    assert wanted <= result.keys()


def test_the_default_precision_learns_what_float32_learns(mode: tuple[str, dict[str, Any]]) -> None:
    assert is_near(mode[1]), mode[1]


@pytest.mark.parametrize("check", SAME_BITS)
def test_the_same_bits_come_again(mode: tuple[str, dict[str, Any]], check: str) -> None:
    assert mode[1].get(check) == "same bits"


@pytest.mark.parametrize("check", NEAR)
def test_other_roundings_stay_near(mode: tuple[str, dict[str, Any]], check: str) -> None:
    name, result = mode
    if name == "embedded miniature" and check in FULL_SIZE_ALONE:
        pytest.skip("the miniature is too small to fill a GPU")
    found = result.get(check)
    if name.startswith("sdxl") and check in IN_BFLOAT16 and isinstance(found, dict) and not is_near(found):
        assert found["cosine_of_movement"] >= SDXL_IN_BFLOAT16 and abs(found["ratio_of_distance"] - 1) <= RATIO
        pytest.xfail(f"bfloat16 rounds too coarsely for SDXL's 70 blocks: cosine {found['cosine_of_movement']}")
    assert found == "same bits" or (isinstance(found, dict) and is_near(found)), found


def test_pictures_are_the_same_after_learning(mode: tuple[str, dict[str, Any]]) -> None:
    result = mode[1]
    if result[BEFORE] != "same bits":
        pytest.skip(f"ComfyUI itself does not repeat a picture in this mode: {result[BEFORE]}")
    assert result[AFTER] == "same bits"


@pytest.mark.parametrize("check", ["again after a picture", "without the recorded graph"])
def test_no_video_memory_is_kept(mode: tuple[str, dict[str, Any]], check: str) -> None:
    """Less may be in use than before, since ComfyUI's own models make room."""
    assert mode[1]["kept_mib"][check] < 1
