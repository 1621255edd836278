"""The pack in ComfyUI's real page, in headless Chromium. Screenshots stay in test-output/.

Every shipped workflow runs in test_shipped.py; what people do by hand is in test_page_user.py.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from devtools.page.driver import ComfyPage
from devtools.workflows.settings import SMALL
from devtools.workflows.shipped import WORKFLOWS

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = [REPOSITORY / "workflows" / f"{name}.json" for name in WORKFLOWS]
SCREENSHOTS = REPOSITORY / "test-output"
LEARN = "CrossInitLearn"


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


def test_learn_face_shows_picture_and_loss(classic: ComfyPage) -> None:
    """Learn Face shows a picture and the loss while it learns."""
    _load_small(classic, SHIPPED[0], seed=1002)
    classic.start()
    classic.wait_for_picture(LEARN)
    classic.screenshot(SCREENSHOTS / "learning.png")
    classic.wait_for_end()
    assert any("step 1 of 3 · loss" in text for text in classic.said(LEARN))
    classic.wait_for_text(LEARN, "learned in")
    classic.wait_for_text("CrossInitSave", "Prompt: embedding:")
    assert not _crowded(classic)


def test_a_workflow_runs_in_the_newer_nodes_as_well(newer: ComfyPage) -> None:
    _load_small(newer, SHIPPED[0], seed=1003)
    assert not _crowded(newer)
    newer.run()
    assert not newer.errors()
    assert newer.pictures("SaveImage") == [[64, 64]]
    assert not _crowded(newer)
    newer.screenshot(SCREENSHOTS / "newer-nodes.png")


def test_a_run_does_not_draw_a_new_seed_for_the_face(classic: ComfyPage) -> None:
    classic.load(SHIPPED[0])
    assert "control_after_generate" not in classic.widgets(LEARN)
    assert "control_after_generate" in classic.widgets("KSampler")


def test_learn_face_hides_what_few_people_need(newer: ComfyPage) -> None:
    newer.load(SHIPPED[0])
    node = newer.element(LEARN)
    for name in ("preset", "seed"):
        assert node.get_by_text(name, exact=True).is_visible()
    assert not node.get_by_text("learning_rate", exact=True).is_visible()
    node.get_by_test_id("advanced-inputs-button").click()
    node.get_by_text("learning_rate", exact=True).wait_for()
    node.get_by_test_id("advanced-inputs-button").click()


def test_the_console_is_silent_about_the_pack(classic: ComfyPage, newer: ComfyPage) -> None:
    assert not classic.complaints + newer.complaints
