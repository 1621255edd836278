"""What there is to start from, on ComfyUI's real page: blueprints, which are whole workflows as one node, found by their names;
workflows that open as apps; templates in their order.

On a newer page: CROSSINIT_PAGE=.host/page-1.58.1
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devtools.comfyui.links import PACK_NAME
from devtools.docs.fresh import open_app
from devtools.page import hands
from devtools.page.driver import ComfyPage
from devtools.workflows.blueprints import BLUEPRINTS, saved_blueprint
from devtools.workflows.miniature import WORKFLOW as MINIATURE
from devtools.workflows.shipped import WORKFLOWS

REPOSITORY = Path(__file__).resolve().parents[1]
SCREENSHOTS = REPOSITORY / "test-output"
LEARN, USE = "Learn a face", "Use a learned face"

# The miniature and a drawn person to the left of the one node, and what shows its results to the right.
CONNECT = """name => {
    const [node] = app.graph.nodes.filter(n => n.title === name)
    const [left, top] = node.pos
    const put = (type, x, y) => {
        const made = LiteGraph.createNode(type)
        made.pos = [left + x, top + y]
        app.graph.add(made)
        return made
    }
    const wire = (from, slot, to, input) => from.connect(slot, to, to.inputs.findIndex(i => i.name === input))
    const model = put('CrossInitMiniature', -400, 0)
    for (const [slot, input] of ['model', 'clip', 'vae'].entries()) wire(model, slot, node, input)
    if (node.inputs.some(i => i.name === 'photo')) wire(put('CrossInitDrawnPerson', -400, 200), 0, node, 'photo')
    wire(node, node.outputs.findIndex(o => o.name === 'picture'), put('PreviewImage', 520, 0), 'images')
}"""

SET = """([name, outer, inner]) => {
    const [node] = app.graph.nodes.filter(n => n.title === name)
    const set = (n, key, value) => {
        const widget = n.widgets.find(w => w.name === key)
        if (!widget) throw new Error(`${n.title} has no widget ${key}: ${n.widgets.map(w => w.name)}`)
        widget.value = value
    }
    for (const [key, value] of Object.entries(outer)) set(node, key, value)
    for (const [type, values] of Object.entries(inner))
        for (const [key, value] of Object.entries(values)) set(node.subgraph.nodes.find(n => n.type === type), key, value)
}"""


@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_a_blueprint_file_fits_the_nodes_of_today(live: Any, name: str) -> None:
    saved = json.loads((REPOSITORY / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    assert saved == saved_blueprint(name, BLUEPRINTS[name], live.info), (
        "write it anew: python -m devtools.workflows.author"
    )


def _put(page: ComfyPage, name: str, outer: dict[str, Any], inner: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A blueprint from the search box, connected and with these values; returns what the page would send, by node type."""
    hands.new_graph(page)
    hands.add_from_search(page, name.lower(), name, (700, 300))
    page.page.evaluate(CONNECT, name)
    page.page.evaluate(SET, [name, outer, inner])
    return {node["class_type"]: node["inputs"] for node in page.prompt().values()}


@pytest.fixture(scope="module", params=["classic", "newer"])
def page(request: pytest.FixtureRequest) -> Any:
    """The page with either kind of nodes."""
    return request.getfixturevalue(request.param)


@dataclass(frozen=True)
class Learned:
    """What there was when the one node had learned a face of this name: titles of nodes that ran, pictures, and errors."""

    name: str
    ran: list[str]
    pictures: list[list[int]]
    errors: list[str]


@pytest.fixture(scope="module")
def learned_face(page: ComfyPage) -> Learned:
    """Learn a face, from the search box to a picture, on the miniature."""
    name = "one-node-of-elements" if page.has_newer_nodes() else "one-node"
    outer = {"name": name, "preset": "custom", "resolution": 128, "framing": "by hand", "prompt": "a {} person outside"}
    inner = {"CrossInitLearn": {"steps": 2, "batch_size": 1}, "KSampler": {"steps": 2}}
    sent = _put(page, LEARN, outer, inner)
    assert sent["CrossInitLearn"]["name"] == name
    assert sent["CrossInitPrepareFace"]["resolution"] == 128
    assert sent["CrossInitEncodePrompt"]["text"] == "a {} person outside"
    assert (sent["EmptyLatentImage"]["width"], sent["EmptyLatentImage"]["height"]) == (128, 128)
    page.run()
    page.screenshot(SCREENSHOTS / f"blueprint-{name}.png")
    return Learned(name, page.ran(), page.pictures("PreviewImage"), page.errors())


def test_one_node_learns_keeps_and_shows_a_face(live: Any, learned_face: Learned) -> None:
    assert (live.embeddings / f"{learned_face.name}.safetensors").is_file()
    assert {"Learn Face (train)", "Save Learned Token", "KSampler"} <= set(learned_face.ran)
    assert learned_face.pictures == [[128, 128]]
    assert learned_face.errors == []


def test_one_node_uses_a_learned_face_with_another_seed_each_run(page: ComfyPage, learned_face: Learned) -> None:
    file = f"{learned_face.name}.safetensors"
    outer = {"file": file, "prompt": "a {} person in the snow", "resolution": 128, "likeness and prompt": 0.8}
    sent = _put(page, USE, outer, {"KSampler": {"steps": 2}})
    assert sent["CrossInitLoad"]["file"] == file
    assert sent["CrossInitEncodePrompt"]["text"] == "a {} person in the snow"
    assert sent["CrossInitEncodePrompt"]["strength"] == 0.8
    assert sent["KSampler"]["seed"] == 42
    page.run()
    page.screenshot(SCREENSHOTS / f"blueprint-use-{learned_face.name}.png")
    assert page.pictures("PreviewImage") == [[128, 128]]
    after = {node["class_type"]: node["inputs"] for node in page.prompt().values()}
    assert after["KSampler"]["seed"] != 42


def test_the_search_offers_both_by_what_they_do(classic: ComfyPage) -> None:
    hands.new_graph(classic)
    hands.open_search(classic, (700, 300))
    offered = hands.search(classic, "learn a face")
    hands.close_search(classic)
    assert set(BLUEPRINTS) <= set(offered)


def test_a_workflow_runs_as_an_app(classic: ComfyPage) -> None:
    """In App mode the page shows the workflow's own inputs, and its pictures after Run."""
    open_app(classic, REPOSITORY / "workflows" / f"{MINIATURE}.json")
    text = classic.page.locator("body").inner_text()
    assert all(widget in text for widget in ("seed", "name", "text"))
    quick = [("CrossInitLearn", "steps", 2), ("KSampler (plain)", "steps", 2), ("KSampler (prompt)", "steps", 2)]
    classic.set_widgets(*quick)
    classic.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
    classic.page.get_by_test_id("linear-image-output").first.wait_for(timeout=120_000)
    classic.screenshot(SCREENSHOTS / "app-ran.png")
    classic.command("Comfy.ToggleLinear")


def test_the_templates_stand_in_the_order_of_their_numbers(classic: ComfyPage) -> None:
    """A folder has no order of its own, and the server gives its files as they come."""
    first = sorted(WORKFLOWS)[0]
    hands.open_templates(classic, PACK_NAME, first)
    shown = classic.page.locator("[data-testid^=template-workflow-]").evaluate_all(
        "entries => entries.map(entry => entry.dataset.testid.replace('template-workflow-', ''))"
    )
    classic.screenshot(SCREENSHOTS / "templates.png")
    classic.page.keyboard.press("Escape")
    ours = [name for name in shown if name in WORKFLOWS]
    assert ours[0] == first and ours == sorted(ours)
