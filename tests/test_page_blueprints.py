"""Blueprints: whole workflows as one node, found by their names, on ComfyUI's real page; and workflows that open as apps.

On a newer page: CROSSINIT_PAGE=.host/page-1.58.1
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devtools.page import hands
from devtools.page.driver import ComfyPage
from devtools.workflows.blueprints import BLUEPRINTS, saved_blueprint
from devtools.workflows.shipped import APPS

REPOSITORY = Path(__file__).resolve().parents[1]
SCREENSHOTS = REPOSITORY / "test-output"

CONNECT = """name => {
    const [node] = app.graph.nodes.filter(n => n.title === name)
    const put = (type, at) => { const n = LiteGraph.createNode(type); n.pos = at; app.graph.add(n); return n }
    const model = put('CrossInitMiniature', [40, 80])
    const wire = (from, slot, to, input) => from.connect(slot, to, to.inputs.findIndex(i => i.name === input))
    wire(model, 0, node, 'model'); wire(model, 1, node, 'clip'); wire(model, 2, node, 'vae')
    if (node.inputs.some(i => i.name === 'image')) wire(put('CrossInitDrawnPerson', [40, 320]), 0, node, 'image')
    const shown = put('PreviewImage', [1200, 80])
    wire(node, node.outputs.findIndex(o => o.name === 'image'), shown, 'images')
    const text = node.outputs.findIndex(o => o.name === 'prompt_text')
    if (text >= 0) wire(node, text, put('PreviewAny', [1200, 420]), 'source')
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


@pytest.fixture(scope="module")
def learned_name(classic: ComfyPage) -> str:
    """Learn a face, from the search box to a picture, on the miniature."""
    name = "Learn a face"
    hands.new_graph(classic)
    hands.add_from_search(classic, "learn a face", name, (700, 300))
    classic.page.evaluate(CONNECT, name)
    outer = {"name": "in-one-node", "preset": "custom", "resolution": 128, "framing": "by hand"}
    inner = {"CrossInitLearn": {"steps": 2, "batch_size": 1}, "KSampler": {"steps": 2}}
    classic.page.evaluate(SET, [name, outer, inner])
    sent = {node["class_type"]: node["inputs"] for node in classic.prompt().values()}
    assert sent["CrossInitLearn"]["name"] == "in-one-node"
    assert sent["CrossInitPrepareFace"]["resolution"] == 128
    assert (sent["EmptyLatentImage"]["width"], sent["EmptyLatentImage"]["height"]) == (128, 128)
    classic.screenshot(SCREENSHOTS / "blueprint-learn.png")
    classic.start()
    classic.wait_for_picture("PreviewImage")
    return "in-one-node"


def test_one_node_learns_keeps_and_shows_a_face(live: Any, classic: ComfyPage, learned_name: str) -> None:
    assert (live.embeddings / f"{learned_name}.safetensors").is_file()
    assert classic.pictures("PreviewImage") == [[128, 128]]


def test_one_node_uses_a_learned_face(classic: ComfyPage, learned_name: str) -> None:
    name = "Use a learned face"
    hands.new_graph(classic)
    hands.add_from_search(classic, "use a learned face", name, (700, 300))
    classic.page.evaluate(CONNECT, name)
    outer = {"file": f"{learned_name}.safetensors", "text": "a {} person in the snow", "resolution": 128}
    classic.page.evaluate(SET, [name, outer, {"KSampler": {"steps": 2}}])
    sent = {node["class_type"]: node["inputs"] for node in classic.prompt().values()}
    assert sent["CrossInitLoad"]["file"] == f"{learned_name}.safetensors"
    assert sent["CrossInitEncodePrompt"]["text"] == "a {} person in the snow"
    classic.screenshot(SCREENSHOTS / "blueprint-use.png")
    classic.start()
    classic.wait_for_picture("PreviewImage")
    assert classic.pictures("PreviewImage") == [[128, 128]]


def test_the_search_offers_both_by_what_they_do(classic: ComfyPage) -> None:
    hands.new_graph(classic)
    hands.open_search(classic, (700, 300))
    offered = hands.search(classic, "learn a face")
    hands.close_search(classic)
    assert set(BLUEPRINTS) <= set(offered)


@pytest.mark.parametrize("name", sorted(APPS))
def test_a_workflow_opens_as_an_app(classic: ComfyPage, name: str) -> None:
    """In App mode the page shows the workflow's own inputs; which those are, the page says in what it saves."""
    classic.load(REPOSITORY / "workflows" / f"{name}.json")
    classic.command("Comfy.ToggleLinear")
    classic.page.wait_for_timeout(3000)
    classic.page.screenshot(path=SCREENSHOTS / f"app-{name}.png")
    text = classic.page.locator("body").inner_text()
    for widget in ("name", "preset") if name.startswith("01") else ("text",):
        assert widget in text
    classic.command("Comfy.ToggleLinear")
