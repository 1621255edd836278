"""Every shipped workflow in ComfyUI's real page, in the miniature's painted world. Screenshots stay in test-output/.

The stock nodes load, sample and save; the checkpoint's name leads to the miniature (devtools/standins/miniature/loader.py). That the stock
loader takes a file of full size is tested in test_live.py and test_page.py, and that SDXL's workflows run on SDXL in
test_page_sdxl.py.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from crossinit_core import load_learned_token
from devtools.comfyui.links import PACK_NAME
from devtools.comfyui.server import ComfyServer
from devtools.docs.screenshots import LARGEST_THUMBNAIL, THUMBNAIL
from devtools.page.driver import ComfyPage
from devtools.workflows.faces import EXPRESSIONS, FOLDERS, PROMPTS, SHEET, STRIP
from devtools.workflows.miniature import DRESSED_PICTURES, PLAIN_PICTURES
from devtools.workflows.parts import (
    CHECKPOINT,
    CHECKPOINT_URL,
    CHECKPOINT_XL,
    CHECKPOINT_XL_URL,
    CONTROLNET,
    CONTROLNET_URL,
    CONTROLNET_XL,
    CONTROLNET_XL_URL,
    LORA,
    OTHER_FILES,
    SCENE,
)
from devtools.workflows.prompt import to_prompt
from devtools.workflows.settings import ON_MINIATURE, QUICK, SIDE
from devtools.workflows.shipped import MINIATURE, WORKFLOWS
from devtools.workflows.stock import EDGES, FIRST_PICTURE
from miniature.training.pack import WEIGHTS

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = REPOSITORY / "workflows"
SCREENSHOTS = REPOSITORY / "test-output"
GAP = 4
"""Between the cells of ComfyUI's image grid."""


def _grid(columns: int, rows: int = 1) -> list[list[int]]:
    return [[columns * (SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP]]


ONE = [[SIDE, SIDE]]
SCALED = 144
"""Side of the photo of workflow 10: 0.02 million pixels, in steps of 8."""
PICTURES: dict[str, dict[str, list[list[int]]]] = {
    "01-learn-a-face": {"SaveImage": ONE, "CrossInitPrepareFace": ONE, "LossGraphNode": [[840, 520]]},
    "02-use-a-learned-face": {"SaveImage": ONE},
    "03-learned-face-with-controlnet": {"SaveImage": ONE, EDGES: [[640, 512]]},
    MINIATURE: {PLAIN_PICTURES: 4 * ONE, DRESSED_PICTURES: 4 * ONE, "CrossInitDrawnPerson": ONE},
    "05-learn-a-face-fast": {"SaveImage": ONE},
    "06-one-face-many-prompts": {FOLDERS: len(PROMPTS) * ONE, SHEET: _grid(4, 2)},
    "07-change-the-expression": {STRIP: _grid(len(EXPRESSIONS))},
    "08-two-people": {"SaveImage": ONE},
    "09-lora-and-second-pass": {FIRST_PICTURE: ONE, "SaveImage": [[SIDE * 3 // 2] * 2]},
    "10-inpaint-into-a-photo": {"SaveImage": [[SCALED, SCALED]]},
    "11-learn-from-several-photos": {"CrossInitPrepareFace": 3 * ONE, "SaveImage": ONE},
    "12-compare-initializations": {"SaveImage": _grid(3)},
    "13-bring-in-other-embeddings": {"SaveImage": _grid(3)},
    "14-learn-a-face-on-sdxl": {"SaveImage": ONE, "CrossInitPrepareFace": ONE, "LossGraphNode": [[840, 520]]},
    "15-sdxl-with-controlnet": {"SaveImage": ONE, EDGES: [[640, 512]]},
}
"""Width and height of every picture that nodes, by type or title, show after a run."""

pytestmark = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="there are no weights of the miniature")


@dataclass(frozen=True)
class Painted:
    """A running server in whose world people are painted."""

    url: str
    base: Path

    def log(self) -> str:
        return (self.base / "server.log").read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def painted(start_server: Callable[..., ComfyServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painted]:
    from devtools.standins.miniature.stage import set_miniature_stage

    base = tmp_path_factory.mktemp("painted")
    set_miniature_stage(base)
    with start_server(base) as server:
        yield Painted(server.url, base)


@pytest.fixture(scope="module")
def info(painted: Painted) -> dict[str, Any]:
    from devtools.comfyui.client import Client

    return Client(painted.url).object_info()


@pytest.fixture(scope="module")
def page_url(painted: Painted) -> str:
    return painted.url


def _untidy(page: ComfyPage) -> list[str]:
    """Nodes that cover one another, nodes outside of every group, notes whose text is cut off, widgets without a value."""
    nodes, groups = page.nodes(), page.groups()
    faults = [f"{one.title} covers {other.title}" for one, other in combinations(nodes, 2) if one.overlaps(other)]
    faults += [f"{node.title} sticks out" for node in nodes if not any(group.holds(node) for group in groups)]
    faults += page.page.evaluate(
        """() => [...document.querySelectorAll('.comfy-markdown .ProseMirror, .comfy-markdown-content')]
            .filter(text => {
                const room = text.classList.contains('comfy-markdown-content') ? text : text.parentElement
                return text.scrollHeight > room.clientHeight + 1
            })
            .map(text => `cut off: ${text.innerText.slice(0, 40)}`)"""
    )
    faults += page.page.evaluate(
        """() => app.graph.nodes.flatMap(node => (node.widgets ?? [])
            .filter(widget => widget.value === undefined || widget.value === null)
            .filter(widget => !['button', 'preview'].includes(widget.type) && !widget.name.startsWith('$$'))
            .map(widget => `${node.title}: ${widget.name} is empty`))"""
    )
    return faults


def _run_small(page: ComfyPage, name: str, info: dict[str, Any]) -> None:
    page.load(FILES / f"{name}.json")
    assert page.prompt() == to_prompt(WORKFLOWS[name], info), "the description means something else than its file"
    page.show_whole_graph()
    assert not page.errors()
    assert not _untidy(page)
    page.set_widgets(*(QUICK if name == MINIATURE else (*ON_MINIATURE, *QUICK)))
    page.run()
    assert not page.errors()
    assert not _untidy(page)
    assert {node: page.pictures(node) for node in PICTURES[name]} == PICTURES[name]


def _each_prompt_has_its_folder(painted: Painted) -> None:
    folders = sorted(path.parent.name for path in (painted.base / "output" / "crossinit").glob("*/*.png"))
    assert len(set(folders)) == len(PROMPTS)
    assert "a-person-on-the-beach" in folders


def _outside_of_the_mask_all_is_as_it_was(painted: Painted) -> None:
    photo = Image.open(painted.base / "input" / SCENE).resize((SCALED, SCALED), Image.Resampling.LANCZOS)
    result = Image.open(painted.base / "output" / "learned-face-inpainted_00001_.png").convert("RGB")
    before, after = (np.asarray(picture.convert("RGB")).astype(float) for picture in (photo, result))
    changed = np.abs(after - before).mean(axis=2)
    hole = np.asarray(photo.getchannel("A")) < 128
    far = np.asarray(photo.getchannel("A").filter(ImageFilter.MinFilter(21))) == 255
    assert far.mean() > 0.3
    assert changed[far].mean() < 1
    assert changed[hole].mean() > 20


def _every_embedding_is_saved_whole(painted: Painted) -> None:
    faces = painted.base / "models" / "embeddings"
    for file, tool in OTHER_FILES:
        brought, saved = (
            load_learned_token(faces / file),
            load_learned_token(faces / f"{tool.lower()}-face.safetensors"),
        )
        assert torch.equal(brought.vectors, saved.vectors)


def _controlnet_and_lora_fitted(painted: Painted) -> None:
    """ComfyUI only warns if they do not fit, and samples without them."""
    complaints = ("lora key not loaded", "missing controlnet keys", "control could not be applied")
    assert not [complaint for complaint in complaints if complaint in painted.log()]


AFTERWARDS = {
    "03-learned-face-with-controlnet": _controlnet_and_lora_fitted,
    "06-one-face-many-prompts": _each_prompt_has_its_folder,
    "09-lora-and-second-pass": _controlnet_and_lora_fitted,
    "10-inpaint-into-a-photo": _outside_of_the_mask_all_is_as_it_was,
    "13-bring-in-other-embeddings": _every_embedding_is_saved_whole,
    "15-sdxl-with-controlnet": _controlnet_and_lora_fitted,
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_in_the_page(classic: ComfyPage, painted: Painted, info: dict[str, Any], name: str) -> None:
    """A workflow is opened, runs to its end, and shows its pictures."""
    _run_small(classic, name, info)
    classic.screenshot(SCREENSHOTS / f"{name}.png")
    if name in AFTERWARDS:
        AFTERWARDS[name](painted)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_does_so_in_the_newer_nodes_as_well(newer: ComfyPage, info: dict[str, Any], name: str) -> None:
    _run_small(newer, name, info)
    newer.screenshot(SCREENSHOTS / f"{name}-newer-nodes.png")


def test_every_workflow_is_a_template_with_its_thumbnail(classic: ComfyPage) -> None:
    page = classic.page
    classic.command("Comfy.BrowseTemplates")
    page.get_by_role("dialog").get_by_text(PACK_NAME).first.click()
    for name in WORKFLOWS:
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first.element_handle()
        page.wait_for_function("image => image.complete && image.naturalWidth", arg=picture)
        assert picture and picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [THUMBNAIL] * 2
    assert page.locator("[data-testid^=template-workflow-]").count() == len(WORKFLOWS)
    classic.screenshot(SCREENSHOTS / "templates.png")
    page.keyboard.press("Escape")


def test_missing_models_are_named(painted: Painted, browser: Any) -> None:
    """Models that are missing are named with their folders and where to get them."""
    models = painted.base / "models"
    away = [models / "checkpoints" / CHECKPOINT, models / "controlnet" / CONTROLNET, models / "loras" / LORA]
    away += [models / "checkpoints" / CHECKPOINT_XL, models / "controlnet" / CONTROLNET_XL]
    for path in away:
        path.rename(path.with_suffix(".away"))
    try:
        page = ComfyPage.open(browser, painted.url)
        page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        posed = _missing(page, "03-learned-face-with-controlnet", CONTROLNET)
        with_lora = _missing(page, "09-lora-and-second-pass", LORA)
        on_sdxl = _missing(page, "15-sdxl-with-controlnet", CONTROLNET_XL)
        page.close()
    finally:
        for path in away:
            path.with_suffix(".away").rename(path)
    checkpoint = (CHECKPOINT, "checkpoints", _page_of(CHECKPOINT_URL))
    assert posed == [checkpoint, (CONTROLNET, "controlnet", _page_of(CONTROLNET_URL))]
    assert on_sdxl == [
        (CHECKPOINT_XL, "checkpoints", _page_of(CHECKPOINT_XL_URL)),
        (CONTROLNET_XL, "controlnet", _page_of(CONTROLNET_XL_URL)),
    ]
    # Nobody can know where a user's own style comes from: the page gives its name.
    assert with_lora == [checkpoint, (LORA, "loras", LORA)]


def _missing(page: ComfyPage, name: str, one: str) -> list[tuple[str, str, str]]:
    """The page's list of missing models, once it has this one: file, folder, and what the copy button gives."""
    page.load(FILES / f"{name}.json")
    rows = page.page.get_by_test_id("missing-model-importable-rows").locator("> div")
    if not rows.first.is_visible():
        page.page.get_by_text("View details").click()
    rows.filter(has_text=one).wait_for()
    found = []
    for row in rows.all():
        row.get_by_role("button", name="Copy").click()
        copied = page.page.evaluate("() => navigator.clipboard.readText()")
        found.append((row.locator("[title]").first.inner_text(), row.locator("span.block").inner_text(), copied))
    page.screenshot(SCREENSHOTS / f"{name}-missing-models.png")
    return found


def _page_of(address: str) -> str:
    """Where a person looks at a file of Hugging Face, who would download it from `address`."""
    return address.replace("/resolve/", "/blob/")


def test_a_thumbnail_is_small() -> None:
    for name in WORKFLOWS:
        path = FILES / f"{name}.jpg"
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert picture.size == (THUMBNAIL, THUMBNAIL)
        assert path.stat().st_size <= LARGEST_THUMBNAIL


def test_notes_name_workflows_that_there_are() -> None:
    said = {
        found
        for _, notes, _ in WORKFLOWS.values()
        for note in notes.values()
        for found in re.findall(r"\b\d\d-[a-z-]+", note.text)
    }
    assert said <= set(WORKFLOWS)
    assert "01-learn-a-face" in said


def test_notes_say_what_a_larger_checkpoint_needs() -> None:
    for name, (nodes, notes, _) in WORKFLOWS.items():
        said = " ".join(note.text for note in notes.values())
        sizes = [node.values for node in nodes if node.type == "EmptyLatentImage" and node.values["width"] == 512]
        cropped = [node for node in nodes if node.type == "CrossInitPrepareFace"]
        assert ("A **768** checkpoint" in said) == bool(sizes), name
        assert ("**resolution** of Prepare Face Photo" in said) == bool(cropped), name


def test_the_console_is_silent_about_the_pack(classic: ComfyPage, newer: ComfyPage) -> None:
    assert not classic.complaints + newer.complaints
