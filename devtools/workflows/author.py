"""Writes the workflow files of `workflows/` from short descriptions.

A workflow file as ComfyUI's page saves it repeats every socket and every widget of every node. Here a graph is what a
person thinks of: nodes, their values, what feeds them, where they stand. `python -m devtools.workflows.author` starts a server,
asks it for the nodes, and writes the files; the page's own format is kept (version 0.4).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .widgets import Json, options_of, ordered_specs, widgets_of

Link = tuple[str, int]
"""A node's key and the index of its output."""

Pair = tuple[int, int]
"""Left and top, or width and height."""

GROUP_COLORS = {"load": "#3f789e", "learn": "#8A8", "use": "#b58b2a", "look": "#a1309b"}
NOTE_COLORS = {"color": "#222", "bgcolor": "#000"}
TITLE_HEIGHT = 30
BADGE_HEIGHT = 20
"""The page writes a node's pack above its title."""
GROUP_TITLE_HEIGHT = 36
GROUP_MARGIN = 20
VIEW = {"scale": 0.8, "offset": [100, 170]}
"""Where the page looks when it opens a workflow: the top left corner, clear of the page's bars."""


@dataclass(frozen=True)
class Node:
    """One node: `values` by widget name, `links` by input name. `layout` says where it stands, and how wide it is.

    One that grows takes the height that its column has left over.
    """

    key: str
    type: str
    height: int
    values: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    title: str = ""
    models: Sequence[Mapping[str, str]] = ()
    grows: bool = False
    pos: Pair = (0, 0)
    size: Pair = (0, 0)


@dataclass(frozen=True)
class Note:
    """Markdown beside the nodes; as high as its text."""

    text: str
    title: str = "Note"
    pos: Pair = (0, 0)
    size: Pair = (0, 0)


@dataclass(frozen=True)
class Group:
    """A frame around nodes and notes, by their keys. Frames that begin at one height end at one height."""

    title: str
    keys: Sequence[str]
    color: str = GROUP_COLORS["use"]


Workflow = tuple[Sequence[Node], Mapping[str, Note], Sequence[Group]]
"""Nodes, notes by key, and frames, as `layout` gives them."""


def write_workflow(
    path: Path, nodes: Sequence[Node], notes: Mapping[str, Note], groups: Sequence[Group], info: Json
) -> None:
    """Write one workflow file. Raises ValueError where a value or link names something that a node does not have."""
    path.write_text(
        json.dumps(build(nodes, notes, groups, info), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def build(nodes: Sequence[Node], notes: Mapping[str, Note], groups: Sequence[Group], info: Json) -> Json:
    """The workflow as the page would save it."""
    ids = {node.key: number for number, node in enumerate(nodes, start=1)}
    note_ids = {key: number for number, key in enumerate(notes, start=len(nodes) + 1)}
    saved = [_saved_node(node, ids[node.key], order, info) for order, node in enumerate(nodes)]
    links: list[list[Any]] = []
    for node, target in zip(nodes, saved, strict=True):
        for name, (source_key, output) in node.links.items():
            source = saved[ids[source_key] - 1]
            slot = _input_slot(target, name, node)
            number = len(links) + 1
            type_ = source["outputs"][output]["type"]
            links.append([number, source["id"], output, target["id"], target["inputs"].index(slot), type_])
            slot["link"] = number
            source["outputs"][output]["links"].append(number)
    saved += [_saved_note(note, note_ids[key], len(saved)) for key, note in notes.items()]
    boxes = {node.key: (node.pos, node.size) for node in nodes} | {key: (n.pos, n.size) for key, n in notes.items()}
    return {
        "last_node_id": len(saved),
        "last_link_id": len(links),
        "nodes": saved,
        "links": links,
        "groups": _saved_groups(groups, boxes),
        "config": {},
        "extra": {"ds": VIEW},
        "version": 0.4,
    }


def _saved_node(node: Node, number: int, order: int, info: Json) -> Json:
    definition = info[node.type]
    inputs: list[Json] = []
    values: list[Any] = []
    unused = set(node.values)
    for name, spec in ordered_specs(definition):
        widgets = list(widgets_of(name, spec))
        optional = name in (definition["input"].get("optional") or {})
        if not widgets:
            inputs += _sockets(name, spec, optional, node)
        for widget in widgets:
            if not widget.sent:
                values.append(node.values.get(widget.name, "fixed"))
                unused.discard(widget.name)
                continue
            choices = widget.options.get("options") or [None]
            default = widget.options.get("default", choices[0])
            values.append(node.values.get(name, default))
            unused.discard(name)
            slot: Json = {"name": name, "type": widget.type, "widget": {"name": name}, "link": None}
            inputs.append(slot | ({"shape": 7} if optional else {}))
    if unused:
        raise ValueError(f"{node.type} has no widget {', '.join(sorted(unused))}.")
    if node.type == "LoadImage":
        values.append("image")  # the upload button counts as a widget
    outputs = [
        {"name": name, "type": type_, "links": []}
        for name, type_ in zip(definition["output_name"], definition["output"], strict=True)
    ]
    saved: Json = {
        "id": number,
        "type": node.type,
        "pos": list(node.pos),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"Node name for S&R": node.type},
        "widgets_values": values,
    }
    if node.title:
        saved["title"] = node.title
    if node.models:
        saved["properties"]["models"] = [dict(model) for model in node.models]
    return saved


def _sockets(name: str, spec: Any, optional: bool, node: Node) -> list[Json]:
    shape = {"shape": 7} if optional else {}
    if spec[0] != "COMFY_AUTOGROW_V3":
        return [{"name": name, "type": spec[0], "link": None, **shape}]
    template = options_of(spec)["template"]
    inner = next(iter(template["input"]["required"].values()))
    used = sum(1 for key in node.links if key.startswith(f"{name}."))
    count = min(used + 1, template["max"])
    return [
        {"name": f"{name}.{template['prefix']}{i}", "label": f"{template['prefix']}{i}", "type": inner[0], "link": None}
        for i in range(count)
    ]


def _input_slot(target: Json, name: str, node: Node) -> Json:
    for slot in target["inputs"]:
        if slot["name"] == name:
            return slot
    raise ValueError(f"{node.type} has no input '{name}'. It has: {', '.join(s['name'] for s in target['inputs'])}.")


def _saved_note(note: Note, number: int, order: int) -> Json:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(note.pos),
        "size": list(note.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": note.title,
        "properties": {},
        "widgets_values": [note.text],
        **NOTE_COLORS,
    }


def _saved_groups(groups: Sequence[Group], boxes: Mapping[str, tuple[Pair, Pair]]) -> list[Json]:
    saved: list[Json] = []
    for number, group in enumerate(groups, start=1):
        chosen = [boxes[key] for key in group.keys]
        left = min(pos[0] for pos, _ in chosen) - GROUP_MARGIN
        top = min(pos[1] for pos, _ in chosen) - TITLE_HEIGHT - BADGE_HEIGHT - GROUP_TITLE_HEIGHT
        right = max(pos[0] + size[0] for pos, size in chosen) + GROUP_MARGIN
        bottom = max(pos[1] + size[1] for pos, size in chosen) + GROUP_MARGIN
        saved.append(
            {
                "id": number,
                "title": group.title,
                "bounding": [left, top, right - left, bottom - top],
                "color": group.color,
                "font_size": 24,
                "flags": {},
            }
        )
    for frame in saved:
        row = [other["bounding"] for other in saved if other["bounding"][1] == frame["bounding"][1]]
        frame["bounding"][3] = max(bounding[3] for bounding in row)
    return saved


def main() -> None:
    """Write every workflow file anew."""
    from ..comfyui.client import Client
    from ..comfyui.links import prepare_base
    from ..comfyui.server import ComfyServer
    from .shipped import WORKFLOWS

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to ask for its nodes")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    arguments = parser.parse_args()

    root, base = Path(__file__).resolve().parents[2], arguments.base.resolve()
    prepare_base(base, root)
    log = base / "author-server.log"
    with ComfyServer(arguments.comfyui.resolve(), base, log=log) as server, Client(server.url) as client:
        info = client.object_info()
    for name, (nodes, notes, groups) in WORKFLOWS.items():
        write_workflow(root / "workflows" / f"{name}.json", nodes, notes, groups, info)
        print(f"workflows/{name}.json: {len(nodes)} nodes")


if __name__ == "__main__":
    main()
