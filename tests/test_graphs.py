"""Saved workflows become the prompt that ComfyUI's page would send."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devtools.workflows.graphs import set_widget, to_api

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
    "Noise": {"display_name": "Noise", "input": {"required": {"noise_seed": ["INT", {}], "width": ["INT", {}]}}},
    "Prompt": {
        "display_name": "Prompt",
        "input": {
            "required": {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}], "clip": ["CLIP", {}]},
            "optional": {"note": ["STRING", {"forceInput": True}], "extra": ["STRING", {"default": "none"}]},
        },
    },
    "Lora": {
        "display_name": "Lora",
        "input": {"required": {"model": ["MODEL", {}], "clip": ["CLIP", {}], "strength": ["FLOAT", {"default": 1.0}]}},
    },
    "Image": {"display_name": "Image", "input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
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


def node(node_id: int, kind: str, values: Any = None, **more: Any) -> Json:
    made: Json = {"id": node_id, "type": kind, "mode": 0, "inputs": [], "outputs": [], **more}
    if values is not None:
        made["widgets_values"] = values
    return made


def socket(name: str, kind: str, link: int | None, widget: bool = False) -> Json:
    return {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if widget else {})}


def workflow(nodes: list[Json], links: list[list[Any]] | None = None) -> Json:
    return {"version": 0.4, "nodes": nodes, "links": links or [], "groups": [{"title": "a group"}], "extra": {}}


def sampler(values: Any = None, **more: Any) -> Json:
    default = [7, "randomize", 30, 5.5, "heun", True]
    return node(3, "Sampler", default if values is None else values, **more)


def inputs(graph: Json, node_id: int) -> Json:
    found: Json = to_api(graph, OBJECT_INFO)[str(node_id)]["inputs"]
    return found


def test_widgets_links_and_titles() -> None:
    graph = workflow(
        [node(1, "Checkpoint", ["b.safetensors"]), sampler(inputs=[socket("model", "MODEL", 9)], title="My sampler")],
        [[9, 1, 0, 3, 0, "MODEL"]],
    )
    assert to_api(graph, OBJECT_INFO) == {
        "1": {
            "class_type": "Checkpoint",
            "inputs": {"ckpt_name": "b.safetensors"},
            "_meta": {"title": "Load Checkpoint"},
        },
        "3": {
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


def test_links_saved_as_objects() -> None:
    graph = workflow([node(1, "Checkpoint", ["a.safetensors"]), sampler(inputs=[socket("model", "MODEL", 9)])])
    graph["links"] = [{"id": 9, "origin_id": 1, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "MODEL"}]
    assert inputs(graph, 3)["model"] == ["1", 0]


def test_a_noise_seed_is_controlled_although_its_node_does_not_say_so() -> None:
    assert inputs(workflow([node(1, "Noise", [5, "fixed", 64])]), 1) == {"noise_seed": 5, "width": 64}


def test_a_controlled_combo_has_two_more_values_and_a_multi_select_is_no_link() -> None:
    graph = workflow([node(1, "Choice", ["b", "increment", "", ["p", "q"]])])
    assert inputs(graph, 1) == {"name": "b", "tags": {"__value__": ["p", "q"]}}


def test_values_given_by_name() -> None:
    graph = workflow([sampler({"seed": 1, "steps": 2, "cfg": 3.0, "sampler": "euler", "tiled": False})])
    assert inputs(graph, 3) == {"seed": 1, "steps": 2, "cfg": 3.0, "sampler": "euler", "tiled": False}


def test_a_widget_newer_than_the_workflow_has_its_default() -> None:
    assert inputs(workflow([sampler([7, "fixed", 30, 5.5, "heun"])]), 3)["tiled"] is False


def test_a_widget_that_is_fed_by_a_link_keeps_its_place() -> None:
    graph = workflow(
        [node(1, "Noise", [5, "fixed", 64]), sampler(inputs=[socket("steps", "INT", 4, widget=True)])],
        [[4, 1, 0, 3, 0, "INT"]],
    )
    found = inputs(graph, 3)
    assert (found["steps"], found["cfg"]) == (["1", 0], 5.5)


def test_a_primitive_gives_its_value() -> None:
    graph = workflow(
        [node(8, "PrimitiveNode", [12, "fixed"]), sampler(inputs=[socket("steps", "INT", 4, widget=True)])],
        [[4, 8, 0, 3, 0, "INT"]],
    )
    assert inputs(graph, 3)["steps"] == 12
    assert "8" not in to_api(graph, OBJECT_INFO)


def test_reroutes_are_followed_and_notes_left_out() -> None:
    graph = workflow(
        [
            node(1, "Checkpoint", ["a.safetensors"]),
            node(5, "Reroute", inputs=[socket("", "*", 1)], outputs=[{"type": "MODEL"}]),
            node(6, "Reroute", inputs=[socket("", "*", 2)], outputs=[{"type": "MODEL"}]),
            node(7, "Note", ["read me"]),
            node(8, "MarkdownNote", ["# read me"]),
            sampler(inputs=[socket("model", "MODEL", 3)]),
        ],
        [[1, 1, 0, 5, 0, "*"], [2, 5, 0, 6, 0, "*"], [3, 6, 0, 3, 0, "MODEL"]],
    )
    assert inputs(graph, 3)["model"] == ["1", 0]
    assert set(to_api(graph, OBJECT_INFO)) == {"1", "3"}


def bypassable(mode: int) -> Json:
    lora = node(
        2,
        "Lora",
        [0.5],
        mode=mode,
        inputs=[socket("model", "MODEL", 1), socket("clip", "CLIP", 2)],
        outputs=[{"type": "MODEL"}, {"type": "CLIP"}, {"type": "MASK"}],
    )
    prompt = node(4, "Prompt", ["a cat", "x"], inputs=[socket("clip", "CLIP", 4)])
    end = sampler(inputs=[socket("model", "MODEL", 3), socket("mask", "MASK", 5)])
    return workflow(
        [node(1, "Checkpoint", ["a.safetensors"]), lora, end, prompt],
        [
            [1, 1, 0, 2, 0, "MODEL"],
            [2, 1, 1, 2, 1, "CLIP"],
            [3, 2, 0, 3, 0, "MODEL"],
            [4, 2, 1, 4, 0, "CLIP"],
            [5, 2, 2, 3, 1, "MASK"],
        ],
    )


def test_a_bypassed_node_passes_on_what_it_gets_by_type() -> None:
    prompt = to_api(bypassable(4), OBJECT_INFO)
    assert "2" not in prompt
    assert prompt["3"]["inputs"]["model"] == ["1", 0]
    assert prompt["4"]["inputs"]["clip"] == ["1", 1]
    assert "mask" not in prompt["3"]["inputs"]  # nothing of that type goes into the node


def test_a_muted_node_and_the_links_from_it_are_gone() -> None:
    prompt = to_api(bypassable(2), OBJECT_INFO)
    assert "2" not in prompt
    assert "model" not in prompt["3"]["inputs"]
    assert "clip" not in prompt["4"]["inputs"]


def test_a_dynamic_combo_brings_the_widgets_of_its_choice() -> None:
    box = workflow([node(1, "Shape", ["box", 3, 4, True])])
    circle = workflow([node(1, "Shape", ["circle", 9, False])])
    assert inputs(box, 1) == {"kind": "box", "kind.w": 3, "kind.h": 4, "filled": True}
    assert inputs(circle, 1) == {"kind": "circle", "kind.radius": 9, "filled": False}


def test_upload_buttons_and_text_previews_behind_the_widgets_are_not_sent() -> None:
    assert inputs(workflow([node(1, "Image", ["x.png", "image"])]), 1) == {"image": "x.png"}


def test_comments_and_escapes_of_a_prompt_text_are_resolved() -> None:
    text = "a \\{cat\\} /* not\nthis */ here // nor this\nend"
    assert inputs(workflow([node(1, "Prompt", [text, "x"])]), 1)["text"] == "a {cat}  here \nend"


def test_the_workflow_is_not_changed() -> None:
    graph = bypassable(4)
    before = copy.deepcopy(graph)
    to_api(graph, OBJECT_INFO)
    assert graph == before


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"3": {"class_type": "Sampler"}}, "Export API"),
        (workflow([node(1, "Elsewhere")]), r"node 1 \(Elsewhere\).*no node of type"),
        (workflow([sampler([7, 30, "randomize", 5.5, "heun", True])]), r"node 3 \(Sampler\), 'steps': expected INT"),
        (workflow([sampler([7, "fixed", 30, 5.5, "heun", "yes"])]), "'tiled': expected BOOLEAN"),
        (workflow([sampler([7, "fixed", 30, 5.5, "heun", True, 3])]), "node 3 .* 7 values, but the node has 6"),
        (workflow([sampler(inputs=[socket("model", "MODEL", 9)])]), r"'model': link 9 is not in the workflow"),
        (workflow([sampler(inputs=[socket("gone", "X", 1)])], [[1, 3, 0, 3, 0, "X"]]), "'gone'.*no such input"),
        (
            workflow([sampler(inputs=[socket("model", "MODEL", 1)])], [[1, 77, 0, 3, 0, "MODEL"]]),
            "'model': it is linked to node 77",
        ),
        (
            workflow(
                [
                    node(5, "Reroute", inputs=[socket("", "*", 1)]),
                    node(6, "Reroute", inputs=[socket("", "*", 2)]),
                    sampler(inputs=[socket("model", "MODEL", 3)]),
                ],
                [[1, 6, 0, 5, 0, "*"], [2, 5, 0, 6, 0, "*"], [3, 6, 0, 3, 0, "MODEL"]],
            ),
            "leads back to itself",
        ),
        (workflow([node(1, "Prompt", ["a {cat|dog}", "x"])]), r"node 1 \(Prompt\), 'text'.*random choice"),
        (workflow([node(1, "Shape", ["star", True])]), r"'kind': 'star' is not one of \['circle', 'box'\]"),
        (
            {**workflow([node(1, "some-uuid")]), "definitions": {"subgraphs": [{"id": "some-uuid"}]}},
            "is a subgraph",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(graph: Json, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        to_api(graph, OBJECT_INFO)


def test_set_widget_by_type_title_and_id() -> None:
    graph = workflow(
        [node(1, "Checkpoint", ["a.safetensors"]), sampler(title="Final"), node(4, "Image", ["x.png", "image"])]
    )
    set_widget(graph, "Checkpoint", "ckpt_name", "mine.safetensors", OBJECT_INFO)
    set_widget(graph, "Final", "seed", 99, OBJECT_INFO)
    set_widget(graph, 3, "steps", 2, OBJECT_INFO)
    set_widget(graph, 4, "image", "y.png", OBJECT_INFO)
    assert inputs(graph, 1) == {"ckpt_name": "mine.safetensors"}
    assert graph["nodes"][1]["widgets_values"] == [99, "randomize", 2, 5.5, "heun", True]
    assert graph["nodes"][2]["widgets_values"] == ["y.png", "image"]


def test_set_widget_with_values_by_name_and_with_values_that_are_missing() -> None:
    by_name = workflow([sampler({"seed": 1, "steps": 2, "cfg": 3.0, "sampler": "euler", "tiled": False})])
    set_widget(by_name, "Sampler", "steps", 4, OBJECT_INFO)
    assert inputs(by_name, 3)["steps"] == 4

    older = workflow([sampler([7, "fixed", 30, 5.5, "heun"])])
    set_widget(older, "Sampler", "tiled", True, OBJECT_INFO)
    assert inputs(older, 3) == {"seed": 7, "steps": 30, "cfg": 5.5, "sampler": "heun", "tiled": True}


def test_set_widget_refuses_what_would_have_no_effect() -> None:
    linked = workflow(
        [node(1, "Noise", [5, "fixed", 64]), sampler(inputs=[socket("steps", "INT", 4, widget=True)])],
        [[4, 1, 0, 3, 0, "INT"]],
    )
    two = workflow([node(1, "Image", ["x.png"]), node(2, "Image", ["x.png"])])
    with pytest.raises(ValueError, match=r"'steps': a link feeds"):
        set_widget(linked, "Sampler", "steps", 5, OBJECT_INFO)
    with pytest.raises(ValueError, match=r"no widget 'step'\. It has: seed, steps"):
        set_widget(linked, "Sampler", "step", 5, OBJECT_INFO)
    with pytest.raises(ValueError, match="'cfg': expected FLOAT"):
        set_widget(linked, "Sampler", "cfg", "much", OBJECT_INFO)
    with pytest.raises(ValueError, match=r"2 nodes have the type 'Image'.*\(1, 2\)"):
        set_widget(two, "Image", "image", "y.png", OBJECT_INFO)
    with pytest.raises(ValueError, match=r"no node 'Video'\. It has: node 1 \(Image\)"):
        set_widget(two, "Video", "image", "y.png", OBJECT_INFO)
