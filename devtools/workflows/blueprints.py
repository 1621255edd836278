"""Workflows of which ComfyUI's page makes one node: the subgraph blueprints of `subgraphs/`.

The name of a file is the name of the node that people search for. ComfyUI reads them from app/subgraph_manager.py, the page
in stores/subgraphStore.ts (ComfyUI_frontend 1.47 and 1.58); ComfyUI's own in its folder `blueprints` have the same form.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .graph import Link, Pair, Workflow
from .layout import Column, Frame, lay_out
from .learning import PROMPT
from .parts import (
    LEARN,
    LOAD,
    LOOK,
    USE,
    checkpoint,
    decode,
    latent,
    learn,
    load_token,
    names,
    negative,
    photo,
    positive,
    prepare,
    sampler,
    save_token,
    start,
)
from .saved_workflow import saved_workflow
from .widgets import Json, definition_of, values_of

INPUT_NODE, OUTPUT_NODE = -10, -20
"""What the page calls the two ends of a subgraph."""

_NAMES = uuid.UUID("5b1c6f0e-3a52-4c58-9b57-0c1f1d2c1e18")
"""Where the ids come from: the same names give the same ids, so that a file that is written anew is the same file."""


@dataclass(frozen=True)
class Blueprint:
    """A workflow of which some nodes, `outside`, stay on the page: what they feed are the inputs, by name.

    `widgets` are shown on the node, by their name there; one with several places sets all of them. `shown` are widgets that
    are shown as they are, with what the page puts beside them: a seed with its control. `outputs` come out, by name.
    """

    description: str
    aliases: Sequence[str]
    workflow: Workflow
    outside: Mapping[Link, str]
    widgets: Mapping[str, Sequence[tuple[str, str]]]
    outputs: Mapping[str, Link]
    shown: Sequence[tuple[str, str]] = ()
    size: Pair = (400, 400)


_CHECKPOINT = {("checkpoint", 0): "model", ("checkpoint", 1): "clip", ("checkpoint", 2): "vae"}
_SIDES = [("latent", "width"), ("latent", "height")]


def learn_a_face() -> Blueprint:
    """Photo and checkpoint in; the face, a picture and the text for prompts out."""
    workflow = lay_out(
        [
            Frame("Outside", LOAD, [Column(320, [checkpoint(), photo()])]),
            Frame("1. Photo", LOAD, [Column(320, [replace(prepare(), grows=False)])]),
            Frame("2. Learn the face", LEARN, [Column(320, [names(), start()]), Column(380, [learn()])]),
            Frame("3. Keep it", LOOK, [Column(340, [save_token()])]),
            Frame(
                "4. A first picture",
                USE,
                [Column(400, [positive(PROMPT, "learn"), negative(), latent()]), Column(340, [sampler(), decode()])],
            ),
        ]
    )
    return Blueprint(
        "Learns a person's face from one photo, keeps it under a name in models/embeddings, and makes a first picture. "
        "Connect Load Checkpoint and Load Image. prompt_text is what other prompts call the person. "
        "Set resolution to 1024 for SDXL, and to 768 for a checkpoint made for 768.",
        ("face", "train", "textual inversion", "embedding", "portrait", "personalization", "cross initialization"),
        workflow,
        {**_CHECKPOINT, ("photo", 0): "photo"},
        {
            "name": [("learn", "name")],
            "preset": [("learn", "preset")],
            "prompt": [("positive", "text")],
            "resolution": [("prepare", "resolution"), *_SIDES],
            "framing": [("prepare", "framing")],
        },
        {"token": ("save_token", 1), "picture": ("decode", 0), "prompt_text": ("save_token", 0)},
        size=(420, 480),
    )


def use_a_learned_face() -> Blueprint:
    """Checkpoint in, a picture out; the face is a file."""
    workflow = lay_out(
        [
            Frame("Outside", LOAD, [Column(320, [checkpoint()])]),
            Frame("1. Face", LOAD, [Column(340, [load_token()])]),
            Frame("2. Prompt", LEARN, [Column(400, [positive("a {} person on the beach", "face"), negative()])]),
            Frame("3. Picture", USE, [Column(320, [latent(), sampler(), decode()])]),
        ]
    )
    return Blueprint(
        "Makes a picture of a person whose face was learned before. Connect Load Checkpoint, choose the file of the face, and "
        "write {} in the prompt where the person's name would stand.",
        ("face", "textual inversion", "embedding", "portrait", "cross initialization"),
        workflow,
        _CHECKPOINT,
        {
            "file": [("face", "file")],
            "prompt": [("positive", "text")],
            "resolution": _SIDES,
            "likeness and prompt": [("positive", "strength")],
        },
        {"picture": ("decode", 0)},
        [("sampler", "seed"), ("sampler", "control_after_generate")],
        size=(420, 400),
    )


BLUEPRINTS: dict[str, Blueprint] = {"Learn a face": learn_a_face(), "Use a learned face": use_a_learned_face()}
"""Every blueprint by the name of its file."""


def saved_blueprint(name: str, blueprint: Blueprint, info: Json) -> Json:
    """The file of a blueprint: one node, and the subgraph that it stands for; `info` is the server's /object_info.

    Raises ValueError if a value, a link, a widget or an output names something that its node does not have.
    """
    whole = saved_workflow(blueprint.workflow, info)
    numbers = {node.key: number for number, node in enumerate(blueprint.workflow[0], start=1)}
    outside = {(numbers[key], slot): inlet for (key, slot), inlet in blueprint.outside.items()}
    cut = {number for number, _ in outside}
    nodes = {node["id"]: node for node in whole["nodes"] if node["id"] not in cut}

    inputs: dict[str, Json] = {inlet: _end(name, "input", inlet) for inlet in outside.values()}
    links: list[Json] = []

    def connect(source: int, source_slot: int, target: int, slot: int, type_: str) -> int:
        number = len(links) + 1
        values = (number, source, source_slot, target, slot, type_)
        links.append(
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), values, strict=True))
        )
        return number

    def let_in(inlet: str, target: int, slot: int) -> None:
        place = nodes[target]["inputs"][slot]
        known = inputs.setdefault(inlet, _end(name, "input", inlet))
        known.setdefault("type", place["type"])
        place["link"] = connect(INPUT_NODE, list(inputs).index(inlet), target, slot, known["type"])
        known["linkIds"].append(place["link"])

    for node in nodes.values():
        for output in node["outputs"]:
            output["links"] = []
    for _, source, source_slot, target, slot, type_ in whole["links"]:
        if target in cut:
            continue
        if (source, source_slot) in outside:
            let_in(outside[source, source_slot], target, slot)
        else:
            number = connect(source, source_slot, target, slot, type_)
            nodes[target]["inputs"][slot]["link"] = number
            nodes[source]["outputs"][source_slot]["links"].append(number)
    for inlet, places in blueprint.widgets.items():
        for key, widget in places:
            let_in(inlet, numbers[key], _slot(nodes[numbers[key]], widget))

    outputs: list[Json] = []
    for outlet, (key, slot) in blueprint.outputs.items():
        output = nodes[numbers[key]]["outputs"][slot]
        number = connect(numbers[key], slot, OUTPUT_NODE, len(outputs), output["type"])
        output["links"].append(number)
        outputs.append({**_end(name, "output", outlet), "type": output["type"], "linkIds": [number]})

    left = min(node["pos"][0] for node in nodes.values())
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    identity = str(uuid.uuid5(_NAMES, name))
    groups = [group for group in whole["groups"] if group["bounding"][0] + group["bounding"][2] > left]
    subgraph = {
        "id": identity,
        "version": 1,
        "state": {
            "lastGroupId": len(whole["groups"]),
            "lastNodeId": max(nodes),
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": INPUT_NODE, "bounding": [left - 260, 80, 140, 20 * len(inputs) + 40]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 120, 80, 140, 20 * len(outputs) + 40]},
        "inputs": list(inputs.values()),
        "outputs": outputs,
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": groups,
        "links": links,
        "extra": {},
        "category": "CrossInit",
        "description": blueprint.description,
    }
    node = _node(max(nodes) + 1, subgraph, blueprint, numbers, info)
    return {
        "revision": 0,
        "last_node_id": max(nodes) + 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {"BlueprintDescription": blueprint.description, "BlueprintSearchAliases": list(blueprint.aliases)},
        "version": 0.4,
    }


def _node(number: int, subgraph: Json, blueprint: Blueprint, numbers: Mapping[str, int], info: Json) -> Json:
    """The one node on the page."""
    sockets: list[Json] = []
    for end in subgraph["inputs"]:
        widget = {"widget": {"name": end["name"]}} if end["name"] in blueprint.widgets else {}
        sockets.append({"name": end["name"], "type": end["type"], **widget, "link": None})
    values = []
    for key, name_inside in [*(places[0] for places in blueprint.widgets.values()), *blueprint.shown]:
        inside = blueprint.workflow[0][numbers[key] - 1]
        found = {widget.name: value for widget, value in values_of(inside, definition_of(inside.type, info))}
        values.append(found[name_inside])
    shown = [[str(numbers[key]), widget] for key, widget in blueprint.shown]
    return {
        "id": number,
        "type": subgraph["id"],
        "pos": [40, 80],
        "size": list(blueprint.size),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": [{"name": end["name"], "type": end["type"], "links": []} for end in subgraph["outputs"]],
        "title": subgraph["name"],
        "properties": {"proxyWidgets": [*(["-1", widget] for widget in blueprint.widgets), *shown]},
        "widgets_values": values,
    }


def _end(blueprint: str, side: str, name: str) -> Json:
    """A socket of a subgraph, without its type."""
    return {"id": str(uuid.uuid5(_NAMES, f"{blueprint}/{side}/{name}")), "name": name, "linkIds": []}


def _slot(node: Json, widget: str) -> int:
    for slot, socket in enumerate(node["inputs"]):
        if socket.get("widget", {}).get("name") == widget:
            return slot
    raise ValueError(f"{node['type']} has no widget '{widget}'.")
