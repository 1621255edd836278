"""A workflow as ComfyUI's page saves it (version 0.4), which repeats every socket and every widget of every node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .graph import App, Group, Node, Note, Pair, Workflow, numbers_of
from .layout import BADGE_HEIGHT, GROUP_MARGIN, GROUP_TITLE_HEIGHT, TITLE_HEIGHT
from .widgets import Json, definition_of, options_of, ordered_specs, values_of

NOTE_COLORS = {"color": "#222", "bgcolor": "#000"}
VIEW = {"scale": 0.8, "offset": [100, 170]}
"""Where the page looks when it opens a workflow: the top left corner, clear of the page's bars."""


def saved_workflow(workflow: Workflow, info: Json, app: App | None = None) -> Json:
    """The workflow as the page would save it; `info` is the server's /object_info, `app` what its app shows.

    The page keeps the latter as `extra.linearData`, with the ids of nodes (ComfyUI_frontend 1.43 and 1.58).

    Raises ValueError if a value or a link names something that its node does not have.
    """
    nodes, notes, groups = workflow
    numbers = numbers_of(workflow)
    saved = [_saved_node(node, numbers[node.key], order, info) for order, node in enumerate(nodes)]
    links: list[list[Any]] = []
    for node, target in zip(nodes, saved, strict=True):
        for name, (source_key, output) in node.links.items():
            source = saved[numbers[source_key] - 1]
            slot = _input_slot(target, name, node)
            number = len(links) + 1
            type_ = source["outputs"][output]["type"]
            links.append([number, source["id"], output, target["id"], target["inputs"].index(slot), type_])
            slot["link"] = number
            source["outputs"][output]["links"].append(number)
    saved += [_saved_note(note, number, len(nodes)) for number, note in enumerate(notes.values(), len(nodes) + 1)]
    boxes = {node.key: (node.pos, node.size) for node in nodes} | {key: (n.pos, n.size) for key, n in notes.items()}
    return {
        "last_node_id": len(saved),
        "last_link_id": len(links),
        "nodes": saved,
        "links": links,
        "groups": _saved_groups(groups, boxes),
        "config": {},
        "extra": {"ds": VIEW} | ({} if app is None else {"linearData": _app_data(numbers, app)}),
        "version": 0.4,
    }


def _app_data(numbers: Mapping[str, int], app: App) -> Json:
    for key in [*(key for key, _ in app.inputs), *app.outputs]:
        if key not in numbers:
            raise ValueError(f"The app names a node '{key}'. There are: {', '.join(numbers)}.")
    return {
        "inputs": [[numbers[key], widget] for key, widget in app.inputs],
        "outputs": [numbers[key] for key in app.outputs],
    }


def _saved_node(node: Node, number: int, order: int, info: Json) -> Json:
    definition = definition_of(node.type, info)
    widgets = values_of(node, definition)
    inputs: list[Json] = []
    for name, spec in ordered_specs(definition):
        optional = {"shape": 7} if name in (definition["input"].get("optional") or {}) else {}
        own = next((widget for widget, _ in widgets if widget.name == name), None)
        if own is None:
            inputs += _sockets(name, spec, optional, node)
        else:
            inputs.append({"name": name, "type": own.type, "widget": {"name": name}, "link": None} | optional)
    values = [value for _, value in widgets]
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


def _sockets(name: str, spec: Any, optional: Json, node: Node) -> list[Json]:
    if spec[0] != "COMFY_AUTOGROW_V3":
        return [{"name": name, "type": spec[0], "link": None, **optional}]
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
            found: Json = slot
            return found
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
