"""Numbers that the pages, help pages and tooltips say and the code decides: limits, settings, versions, sizes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from crossinit_core.families import BASES
from crossinit_core.learning.resume_folder import UNUSED_DAYS
from crossinit_core.photos.faces import MOST_ENLARGED
from crossinit_core.prompt_labels import LONGEST_LABEL
from crossinit_core.prompts import MAX_VECTORS
from crossinit_core.tokens.report_figure import DPI, WIDTH
from crossinit_core.tokens.thumbnails import MOST_BYTES, PIXELS
from devtools.comfyui.older import RELEASES
from devtools.docs import locales
from devtools.setup import comfyui_source
from devtools.workflows.miniature import PRESET, SAMPLING

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PEOPLE = {"ten": 10, "eight": 8, "two": 2, "十": 10, "八": 8}
"""Numbers that are written as words."""


def _text(name: str) -> str:
    """In one line: lines may break anywhere."""
    return " ".join((REPOSITORY / name).read_text(encoding="utf-8").split())


def _help(node: str) -> tuple[str, str]:
    return _text(f"web/docs/{node}.md"), _text(f"web/docs/{node}/zh.md")


def _said(pattern: str, text: str) -> list[str]:
    found = re.search(pattern, text)
    assert found, f"'{pattern}' is not said"
    return list(found.groups())


def test_the_miniatures_settings_are_those_of_its_workflow() -> None:
    """On its help page, in both languages, and under the README's film."""
    steps, cfg = SAMPLING["steps"], f"{SAMPLING['cfg']:g}"
    english, chinese = _help("CrossInitMiniature")
    assert f"*preset* {PRESET} or best" in english
    assert f"{steps} steps, cfg {cfg}, dpmpp_2m" in english
    assert f"*预设* {PRESET} 或 best" in chinese
    assert f"{steps} 步，cfg {cfg}，dpmpp_2m" in chinese
    assert f"with the preset {PRESET}" in _text("README.md")


def test_the_versions_are_those_that_are_asked_for() -> None:
    comfyui = PROJECT["tool"]["comfy"]["requires-comfyui"].removeprefix(">=").removesuffix(".0")
    (torch,) = (one.removeprefix("torch>=") for one in PROJECT["project"]["dependencies"] if one.startswith("torch"))
    assert f"ComfyUI ({comfyui} or newer)" in _text("README.md")
    assert re.search(rf"ComfyUI {comfyui}, Python [\d.]+ and PyTorch {torch}, each or newer", _text("README.md"))
    assert f"ComfyUI ({comfyui} or newer, on PyTorch {torch} or newer)" in _text("docs/install.md")


def test_the_versions_that_were_tried_are_those_that_tests_fetch() -> None:
    (listed, last) = _said(r"Tested with ComfyUI ([\d., ]+) and ([\d.]+), each with the page", _text("docs/install.md"))
    assert [*listed.split(", "), last] == [*(one.version for one in RELEASES), comfyui_source.VERSION]


def test_the_line_to_paste_asks_for_what_the_requirements_ask_for() -> None:
    required = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (quoted,) = _said(r'pip install "(facenet-pytorch[^"]+)"', _text("docs/install.md"))
    assert quoted in required


def test_a_vectors_width_is_that_of_its_family() -> None:
    rows = dict(re.findall(r"\| (SDXL|SD 2\.1 base, 512 px|SD 1\.5) \| ([\d +]+) \|", _text("docs/checkpoints.md")))
    widths = {base: " + ".join(map(str, width)) for width, base in BASES.items()}
    assert rows == {"SDXL": widths["sdxl"], "SD 2.1 base, 512 px": widths["sd2"], "SD 1.5": widths["sd1"]}
    said = f"{widths['sd1']} numbers on SD 1.x, {widths['sd2']} on SD 2.x, {widths['sdxl']} on SDXL"
    assert said in _text("docs/words.md")


def test_limits_are_those_of_the_code(pack: Any) -> None:
    most = pack.nodes.token_inputs.tokens_input("").template.max
    english, chinese = _help("CrossInitEncodePrompt")
    assert PEOPLE[_said(r"at most (\w+); a new socket", english)[0]] == most
    assert PEOPLE[_said(r"最多(\w)个，最后一个", chinese)[0]] == most
    english, chinese = _help("CrossInitReport")
    assert PEOPLE[_said(r"or up to (\w+) of them", english)[0]] == most
    assert PEOPLE[_said(r"最多(\w)个。接上", chinese)[0]] == most

    english, chinese = _help("CrossInitInitializeWords")
    assert f"one vector, at most {MAX_VECTORS} " in english
    assert f"最多 {MAX_VECTORS} 个" in chinese
    english, chinese = _help("CrossInitPromptList")
    assert f"at most {LONGEST_LABEL} of them" in english
    assert f"最多 {LONGEST_LABEL} 个" in chinese
    english, chinese = _help("CrossInitReport")
    assert f"{WIDTH * DPI:.0f} px wide" in english
    assert f"宽 {WIDTH * DPI:.0f} 像素" in chinese
    english, chinese = _help("CrossInitPrepareFace")
    assert MOST_ENLARGED == 4
    assert f"a quarter of **resolution** wide on the photo: {512 // 4} px for 512, {1024 // 4} px for 1024" in english
    assert f"四分之一宽：512 需要 {512 // 4} 像素，1024 需要 {1024 // 4} 像素" in chinese


def test_the_picture_in_a_file_is_as_small_as_said() -> None:
    english, chinese = _help("CrossInitSave")
    assert f"at most {MOST_BYTES // 1000} KB" in english
    assert f"最多 {MOST_BYTES // 1000} KB" in chinese
    assert f"at most {PIXELS} px and {MOST_BYTES // 1000} KB" in _text("docs/formats.md")


def test_resume_files_stay_as_long_as_said() -> None:
    """A month, and a month more under another name: two in all."""
    assert PEOPLE[_said(r"nobody has used it for (\w+) months", _text("docs/first-face.md"))[0]] == 2 * UNUSED_DAYS / 30
    days = _said(r"for (\d+) days it is put aside .{1,90} after (\d+) more days", _text("docs/reliability.md"))
    assert days == [str(UNUSED_DAYS)] * 2


def test_published_steps_are_reproduced_as_closely_on_every_page() -> None:
    """The two pages that tell of the recorded SDXL steps agree."""
    one, two = _text("docs/checkpoints.md"), _text("docs/without-a-checkpoint.md")
    count, diffusers, comfyui = _said(
        r"and (\d+) for SDXL .{1,160} is ([\d.e-]+) on diffusers' modules and ([\d.e-]+) on ComfyUI's own", one
    )
    assert _said(r"so are (\d+) steps of the published code for SDXL \(([\d.e-]+) and ([\d.e-]+)\)", two) == [
        count, diffusers, comfyui
    ]  # fmt: skip


def test_every_page_counts_the_languages_alike() -> None:
    names = {
        "zh": "Chinese (simplified", "zh-TW": "and traditional)", "ja": "Japanese", "ko": "Korean", "fr": "French",
        "es": "Spanish", "pt-BR": "Portuguese", "ru": "Russian", "tr": "Turkish",
    }  # fmt: skip
    assert sorted(names) == locales.languages()
    text = _text("docs/nodes.md")
    assert not [name for name in names.values() if name not in text]


def test_sdxls_numbers_are_the_same_everywhere() -> None:
    """Help page and page of checkpoints tell what was measured of SDXL."""
    path = REPOSITORY / "docs" / "measurements" / "performance" / "sdxl" / "ours.json"
    modes = json.loads(path.read_text(encoding="utf-8"))["modes"]
    full, large = modes["full preset"], modes["1024 px"]
    low, large_low = modes["low memory"], modes["1024 px, low memory"]
    peaks = [f"{run['peak_gib']:.1f}" for run in (full, large, low, large_low)]
    whole = f"{full['seconds']:.0f}"
    assert [whole, *peaks] == _said(
        r"steps of \*full\* took (\d+) s\. They need ([\d.]+) GiB .{1,30} and ([\d.]+) GiB with \*\*resolution\*\* 1024; "
        r"with \*\*memory\*\* \*low\* it is ([\d.]+) GiB and ([\d.]+) GiB",
        _text("web/docs/CrossInitLearn.md"),
    )
    assert [whole, *peaks] == _said(
        r"步用了 (\d+) 秒，需要 ([\d.]+) GiB 显存；.{1,20}需要 ([\d.]+) GiB.{1,40}分别是 ([\d.]+) GiB 和 ([\d.]+) GiB",
        _text("web/docs/CrossInitLearn/zh.md"),
    )
    steps = (f"{run['ms_a_step']:.0f}" for run in (large, modes["default, 10 steps"]))
    assert [whole, peaks[0], *steps, peaks[1], *peaks[2:]] == _said(
        r"took (\d+) s and ([\d.]+) GiB\. At 1024 px a step takes (\d+) ms, where it takes (\d+) ms at 768 px, and learning "
        r"([\d.]+) GiB\. With \*memory\* low it is ([\d.]+) GiB at 768 px and ([\d.]+) GiB at 1024 px",
        _text("docs/checkpoints.md"),
    )


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_what_is_to_be_pasted_holds_no_angle_brackets(page: str) -> None:
    """A shell takes `<` for a file: what one has to fill in is a word in capital letters that the page explains."""
    blocks = re.findall(r"```\w*\n(.*?)```", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    assert not [block for block in blocks if "<" in block.replace("<2.6", "")]
