"""The pack in ComfyUI's real page, in headless Chromium. Screenshots stay in test-output/.

Every shipped workflow runs in test_shipped.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from harness.browser import find_browser
from harness.page import ComfyPage, PageError, chromium
from harness.shipped import WORKFLOWS
from harness.stage import SMALL

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = [REPOSITORY / "workflows" / f"{name}.json" for name in WORKFLOWS]
SCREENSHOTS = REPOSITORY / "test-output"
HELP_PAGES = sorted((REPOSITORY / "web" / "docs").glob("*.md"))
LEARN = "CrossInitLearn"

pytestmark = pytest.mark.skipif(
    find_browser(os.environ) is None,
    reason="there is no Chromium, Chrome or Edge; install one, or set CROSSINIT_CHROMIUM",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def classic(live: Any, browser: Any) -> Iterator[ComfyPage]:
    """The page as a new local installation shows it."""
    page = ComfyPage.open(browser, live.url)
    yield page
    page.close()


@pytest.fixture(scope="module")
def modern(live: Any, browser: Any) -> Iterator[ComfyPage]:
    """The page with its newer nodes, "Nodes 2.0", and with previews in KSampler too."""
    page = ComfyPage.open(
        browser, live.url, {"Comfy.VueNodes.Enabled": True, "Comfy.Execution.PreviewMethod": "latent2rgb"}
    )
    yield page
    page.close()


def _load_small(page: ComfyPage, workflow: Path, seed: int) -> None:
    """A shipped workflow, unchanged but for its sizes; the seeds keep ComfyUI from answering out of its cache."""
    page.load(workflow)
    for node, name, value in (*SMALL, (LEARN, "seed", seed), ("KSampler", "seed", seed)):
        page.set_widget(node, name, value)


def _crowded(page: ComfyPage) -> list[str]:
    """Nodes that cover one another, and nodes that no group holds."""
    nodes, groups = page.nodes(), page.groups()
    covered = [f"{one.title} covers {other.title}" for one, other in combinations(nodes, 2) if one.overlaps(other)]
    return covered + [f"{node.title} sticks out" for node in nodes if not any(group.holds(node) for group in groups)]


def test_learn_face_shows_a_picture_and_the_loss_while_it_learns(classic: ComfyPage) -> None:
    _load_small(classic, SHIPPED[0], seed=1002)
    classic.start()
    classic.wait_for_text(LEARN, "step 1 of 3 · loss")
    classic.wait_for_picture(LEARN)
    classic.screenshot(SCREENSHOTS / "learning.png")
    classic.wait_for_end()
    classic.wait_for_text(LEARN, "learned in")
    classic.wait_for_text("CrossInitSave", "In a prompt: embedding:")
    assert not _crowded(classic)


def test_cancel_in_the_page_keeps_what_was_learned(classic: ComfyPage) -> None:
    _load_small(classic, SHIPPED[0], seed=1005)
    classic.set_widget(LEARN, "steps", 6)
    classic.start()
    classic.wait_for_text(LEARN, "step 2 of 6")
    classic.cancel()
    assert not classic.errors()
    classic.run()
    text = classic.text(LEARN)
    again = re.fullmatch(r"learned in [\d.]+ s \((\d) steps\), loss [\d.]+", text)
    assert again, text
    assert 1 <= int(again[1]) <= 4
    assert classic.pictures("SaveImage") == [[64, 64]]


def test_a_workflow_runs_in_the_newer_nodes_as_well(modern: ComfyPage) -> None:
    _load_small(modern, SHIPPED[0], seed=1003)
    assert not _crowded(modern)
    modern.run()
    assert not modern.errors()
    assert modern.pictures("SaveImage") == [[64, 64]]
    assert not _crowded(modern)
    modern.screenshot(SCREENSHOTS / "newer-nodes.png")


def test_a_bad_name_is_shown_at_its_node_when_run_is_pressed(classic: ComfyPage) -> None:
    _load_small(classic, SHIPPED[0], seed=1004)
    classic.set_widget("CrossInitSave", "name", "my face")
    classic.start()
    with pytest.raises(PageError, match="refusal"):
        classic.wait_for_end()
    classic.page.get_by_test_id("error-overlay").wait_for()
    classic.screenshot(SCREENSHOTS / "bad-name.png")
    assert "Save Learned Token is red" in classic.errors()
    classic.cancel()


def test_every_node_is_found_by_what_people_search_for(classic: ComfyPage, live: Any) -> None:
    wanted = {info["display_name"] for info in live.info.values() if info["category"] == "CrossInit"}
    assert len(wanted) >= 8
    offered = classic.search("textual inversion")
    for name in sorted(wanted):
        offered.filter(has_text=name).first.wait_for()
    classic.screenshot(SCREENSHOTS / "search.png")
    classic.page.keyboard.press("Escape")


def test_a_run_does_not_draw_a_new_seed_for_the_face(classic: ComfyPage) -> None:
    classic.load(SHIPPED[0])
    assert "control_after_generate" not in classic.widgets(LEARN)
    assert "control_after_generate" in classic.widgets("KSampler")


def test_learn_face_hides_what_few_people_need(modern: ComfyPage) -> None:
    modern.load(SHIPPED[0])
    node = modern.element(LEARN)
    for name in ("preset", "seed"):
        assert node.get_by_text(name, exact=True).is_visible()
    assert not node.get_by_text("learning_rate", exact=True).is_visible()
    node.get_by_test_id("advanced-inputs-button").click()
    node.get_by_text("learning_rate", exact=True).wait_for()
    node.get_by_test_id("advanced-inputs-button").click()


@pytest.mark.skipif(not HELP_PAGES, reason="there are no help pages yet")
def test_every_node_has_a_help_page(live: Any) -> None:
    nodes = {name for name, info in live.info.items() if info["category"] == "CrossInit"}
    assert {page.stem for page in HELP_PAGES} == nodes


@pytest.mark.parametrize("help_page", HELP_PAGES, ids=lambda path: path.stem)
def test_a_node_has_its_help_in_the_page(classic: ComfyPage, help_page: Path) -> None:
    text = help_page.read_text(encoding="utf-8")
    classic.add_node(help_page.stem)
    shown = classic.open_help()
    heading = re.search(r"^#+ +(.+)$", text, re.MULTILINE)
    assert heading, f"{help_page.name} has no heading"
    shown.get_by_role("heading", name=heading[1]).first.wait_for()
    classic.screenshot(SCREENSHOTS / f"help-{help_page.stem}.png")
    assert not shown.locator("img").evaluate_all(
        "images => images.filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
    )


def test_the_console_is_silent_about_the_pack(classic: ComfyPage, modern: ComfyPage) -> None:
    assert not classic.complaints + modern.complaints
