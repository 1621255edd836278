"""Short descriptions of workflows become files as ComfyUI's page saves them, and prompts as it sends them.

That page and description agree on every shipped workflow is tested in the page itself, in test_shipped.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from devtools.workflows.graph import Node, Note, Workflow, ids_of, with_values
from devtools.workflows.prompt import to_prompt
from devtools.workflows.saved_workflow import saved_workflow

Json = dict[str, Any]

OBJECT_INFO: Json = {
    "Checkpoint": {
        "display_name": "Load Checkpoint",
        "input": {"required": {"ckpt_name": [["a.safetensors", "b.safetensors"], {}]}},
        "output": ["MODEL", "CLIP"],
    },
    "Sampler": {
        "display_name": "Sampler",
        "input": {
            # Not in the order of input_order, which is what counts.
            "required": {
                "steps": ["INT", {"default": 20}],
                "model": ["MODEL", {}],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "sampler": ["COMBO", {"options": ["euler", "heun"]}],
            },
            "optional": {"mask": ["MASK", {}], "tiled": ["BOOLEAN", {"default": False}]},
            "hidden": {"unique_id": "UNIQUE_ID"},
        },
        "input_order": {
            "required": ["model", "seed", "steps", "cfg", "sampler"],
            "optional": ["mask", "tiled"],
        },
    },
    "Noise": {
        "output": ["NOISE"],
        "display_name": "Noise",
        "input": {"required": {"noise_seed": ["INT", {}], "width": ["INT", {}]}},
    },
    "Prompt": {
        "display_name": "Prompt",
        "input": {
            "required": {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}], "clip": ["CLIP", {}]},
            "optional": {"note": ["STRING", {"forceInput": True}], "extra": ["STRING", {"default": "none"}]},
        },
    },
    "LoadImage": {"display_name": "Image", "input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
    "Shape": {
        "display_name": "Shape",
        "input": {
            "required": {
                "kind": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "circle", "inputs": {"required": {"radius": ["INT", {"default": 1}]}}},
                            {"key": "box", "inputs": {"required": {"w": ["INT", {}], "h": ["INT", {}]}}},
                        ]
                    },
                ],
                "filled": ["BOOLEAN", {}],
            }
        },
    },
    "Choice": {
        "display_name": "Choice",
        "input": {
            "required": {
                "name": ["COMBO", {"options": ["a", "b"], "control_after_generate": True}],
                "tags": ["COMBO", {"options": ["p", "q"], "multi_select": True}],
            }
        },
    },
}
for _definition in OBJECT_INFO.values():
    _definition.setdefault("output", [])
    _definition.setdefault("output_name", _definition["output"])


def workflow(*nodes: Node) -> Workflow:
    return nodes, {"note": Note("read me")}, ()


def sampler(links: dict[str, tuple[str, int]] | None = None, title: str = "", **values: Any) -> Node:
    chosen = {"seed": 7, "steps": 30, "cfg": 5.5, "sampler": "heun", "tiled": True, **values}
    return Node("sampler", "Sampler", 100, chosen, links or {}, title=title)


CHECKPOINT = Node("checkpoint", "Checkpoint", 100, {"ckpt_name": "b.safetensors"})
NOISE = Node("noise", "Noise", 100, {"noise_seed": 5, "width": 64})


def inputs(*nodes: Node) -> Json:
    """What the page would send of the last of these nodes."""
    found: Json = to_prompt(workflow(*nodes), OBJECT_INFO)[str(len(nodes))]["inputs"]
    return found


def saved_values(*nodes: Node) -> list[Any]:
    """What the page would save of the widgets of the last of these nodes."""
    found: list[Any] = saved_workflow(workflow(*nodes), OBJECT_INFO)["nodes"][len(nodes) - 1]["widgets_values"]
    return found


def test_widgets_links_and_titles() -> None:
    graph = workflow(CHECKPOINT, sampler({"model": ("checkpoint", 0)}, title="My sampler"))
    assert to_prompt(graph, OBJECT_INFO) == {
        "1": {
            "class_type": "Checkpoint",
            "inputs": {"ckpt_name": "b.safetensors"},
            "_meta": {"title": "Load Checkpoint"},
        },
        "2": {
            "class_type": "Sampler",
            "inputs": {
                "seed": 7,
                "steps": 30,
                "cfg": 5.5,
                "sampler": "heun",
                "tiled": True,
                "model": ["1", 0],
            },
            "_meta": {"title": "My sampler"},
        },
    }
    assert ids_of(graph) == {"Checkpoint": "1", "My sampler": "2"}


def test_the_saved_form_has_every_socket() -> None:
    """The saved form has the order of the server and every socket."""
    graph = workflow(CHECKPOINT, sampler({"model": ("checkpoint", 0)}))
    saved = saved_workflow(graph, OBJECT_INFO)
    first, second, note = saved["nodes"]
    assert second["widgets_values"] == [7, "fixed", 30, 5.5, "heun", True]
    assert [slot["name"] for slot in second["inputs"]] == ["model", "seed", "steps", "cfg", "sampler", "mask", "tiled"]
    assert saved["links"] == [[1, 1, 0, 2, 0, "MODEL"]]
    assert first["outputs"][0]["links"] == [1] and second["inputs"][0]["link"] == 1
    assert note["type"] == "MarkdownNote" and note["widgets_values"] == ["read me"]


def test_notes_are_not_sent() -> None:
    assert set(to_prompt(workflow(CHECKPOINT, NOISE), OBJECT_INFO)) == {"1", "2"}


def test_a_seed_is_controlled_if_its_node_says_nothing() -> None:
    assert inputs(NOISE) == {"noise_seed": 5, "width": 64}
    assert saved_values(NOISE) == [5, "fixed", 64]


def test_a_controlled_combo_has_two_more_values() -> None:
    choice = Node("choice", "Choice", 100, {"name": "b", "control_after_generate": "increment", "tags": ["p", "q"]})
    assert saved_values(choice) == ["b", "increment", "", ["p", "q"]]
    # A plain list would read as a link.
    assert inputs(choice) == {"name": "b", "tags": {"__value__": ["p", "q"]}}


def test_a_widget_without_a_value_has_its_default() -> None:
    found = inputs(Node("sampler", "Sampler", 100, {"steps": 30}))
    assert found == {"seed": 0, "steps": 30, "cfg": 8.0, "sampler": "euler", "tiled": False}
    assert inputs(Node("prompt", "Prompt", 100)) == {"text": "", "extra": "none"}


def test_a_widget_that_a_link_feeds_keeps_its_place() -> None:
    nodes = NOISE, sampler({"steps": ("noise", 0)})
    found = inputs(*nodes)
    assert (found["steps"], found["cfg"]) == (["1", 0], 5.5)
    assert saved_values(*nodes) == [7, "fixed", 30, 5.5, "heun", True]


def test_upload_buttons_are_saved_and_not_sent() -> None:
    load = Node("image", "LoadImage", 100, {"image": "x.png"})
    assert saved_values(load) == ["x.png", "image"]
    assert inputs(load) == {"image": "x.png"}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("one", "Elsewhere", 100)], "no node of type 'Elsewhere'"),
        ([sampler(steps="randomize")], "Sampler, 'steps': expected INT"),
        ([sampler(tiled="yes")], "'tiled': expected BOOLEAN"),
        ([sampler(step=5)], r"no widget 'step'\. It has: seed, control_after_generate, steps"),
        ([sampler({"gone": ("sampler", 0)})], "Sampler has no input 'gone'"),
        ([sampler({"model": ("gone", 0)})], "Sampler, 'model': it is linked to 'gone'"),
        ([sampler(), sampler()], "Two nodes have the key 'sampler'"),
        ([Node("shape", "Shape", 100)], "'kind' is a combo that shows inputs of its own"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(nodes: list[Node], message: str) -> None:
    for form in (to_prompt, saved_workflow):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            form(workflow(*nodes), OBJECT_INFO)


@pytest.mark.parametrize("text", ["a {cat|dog}", "a \\{cat\\}", "a cat /* or\na dog */", "a cat // or a dog"])
def test_a_text_that_the_page_would_change_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Prompt, 'text'.*random choice"):
        inputs(Node("prompt", "Prompt", 100, {"text": text}))


def test_widgets_are_changed_by_title_and_by_type() -> None:
    load = Node("image", "LoadImage", 100, {"image": "x.png"})
    graph = workflow(CHECKPOINT, sampler(title="Final"), load)
    changed = with_values(
        graph,
        ("Checkpoint", "ckpt_name", "mine.safetensors"),
        ("Final", "seed", 99),
        ("Final", "steps", 2),
        ("LoadImage", "image", "y.png"),
    )
    prompt = to_prompt(changed, OBJECT_INFO)
    assert prompt["1"]["inputs"] == {"ckpt_name": "mine.safetensors"}
    assert prompt["2"]["inputs"] == {"seed": 99, "steps": 2, "cfg": 5.5, "sampler": "heun", "tiled": True}
    assert prompt["3"]["inputs"] == {"image": "y.png"}
    saved = saved_workflow(changed, OBJECT_INFO)["nodes"]
    assert saved[1]["widgets_values"] == [99, "fixed", 2, 5.5, "heun", True]
    assert saved[2]["widgets_values"] == ["y.png", "image"]
    assert graph == workflow(CHECKPOINT, sampler(title="Final"), load)


def test_a_change_without_effect_is_refused() -> None:
    linked = workflow(NOISE, sampler({"steps": ("noise", 0)}))
    two = workflow(Node("one", "Image", 100), Node("two", "Image", 100))
    with pytest.raises(ValueError, match="'steps': a link feeds"):
        with_values(linked, ("Sampler", "steps", 5))
    with pytest.raises(ValueError, match=r"2 nodes have the type 'Image' \(one, two\)"):
        with_values(two, ("Image", "image", "y.png"))
    with pytest.raises(ValueError, match=r"no node 'Video'\. It has: Image"):
        with_values(two, ("Video", "image", "y.png"))
    for name, value, message in (("step", 5, "no widget 'step'"), ("cfg", "much", "'cfg': expected FLOAT")):
        with pytest.raises(ValueError, match=message):
            to_prompt(with_values(linked, ("Sampler", name, value)), OBJECT_INFO)
