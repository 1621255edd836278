"""Workflows as ComfyUI's page saves them, turned into the prompt that the page would send.

The rules are those of the page (ComfyUI_frontend 1.47.12: graphToPrompt, ExecutableNodeDTO, the
widget constructors). Two things of the page are left out: subgraphs, and the replacement of
`%date:...%` and `%Node.widget%` in file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .widgets import Json, Widget, as_sent, check_value, chosen_inputs, default_of, ordered_specs, widgets_of

_MUTED, _BYPASSED = 2, 4
# Nodes that live in the page only.
_REROUTE, _PRIMITIVE = "Reroute", "PrimitiveNode"
_NOTES = ("Note", "MarkdownNote")


def to_api(workflow: Json, object_info: Json) -> Json:
    """The prompt (API form) of a saved workflow. `object_info` is the server's `/object_info`.

    Raises ValueError, naming node and key, where the workflow does not fit the server's nodes.
    """
    graph = _Graph(workflow, object_info)
    return {
        node_id: {
            "inputs": graph.inputs_of(node),
            "class_type": node["type"],
            "_meta": {"title": graph.title_of(node)},
        }
        for node_id, node in graph.nodes.items()
        if graph.runs(node)
    }


def set_widget(workflow: Json, node: str | int, name: str, value: Any, object_info: Json) -> None:
    """Set the widget `name` of one node in `workflow`, in place.

    `node` is a node's title, type or id. Raises ValueError where it fits no node or several, where
    the node has no such widget, or where a link feeds the widget so that its value is not used.
    """
    graph = _Graph(workflow, object_info)
    found = _find_node(graph, node)
    where = _describe(found)
    for slot in found.get("inputs") or []:
        if slot.get("link") is not None and slot["name"] == name:
            raise ValueError(f"{where}, '{name}': a link feeds this input, so its widget has no effect.")

    in_use = graph.widget_values(found)
    positions = {widget.name: index for index, (widget, _) in enumerate(in_use) if widget.sent}
    if name not in positions:
        raise ValueError(f"{where} has no widget '{name}'. It has: {', '.join(positions) or 'none'}.")
    check_value(where, in_use[positions[name]][0], value)

    saved = found.get("widgets_values") or []
    if isinstance(saved, dict):
        saved[name] = value
    else:  # written anew from the values in use, because a workflow of an older version has fewer
        values = [used for _, used in in_use]
        values[positions[name]] = value
        found["widgets_values"] = values + saved[len(values) :]


class _Graph:
    def __init__(self, workflow: Json, object_info: Json) -> None:
        if not isinstance(workflow.get("nodes"), list):
            raise ValueError(
                "This is no workflow as ComfyUI's page saves it: it has no list 'nodes'. "
                "A prompt in API form (Export API) needs no conversion."
            )
        self.object_info = object_info
        self.nodes: dict[str, Json] = {str(node["id"]): node for node in workflow["nodes"]}
        self.links = dict(_read_link(link) for link in workflow.get("links") or [])
        subgraphs = {entry["id"] for entry in (workflow.get("definitions") or {}).get("subgraphs") or []}
        for node in self.nodes.values():
            if node["type"] in subgraphs:
                raise ValueError(f"{_describe(node)} is a subgraph. Unpack it on the page and save again.")

    def runs(self, node: Json) -> bool:
        """Whether the node is part of the prompt."""
        return not self._is_virtual(node) and node.get("mode", 0) not in (_MUTED, _BYPASSED)

    def title_of(self, node: Json) -> str:
        return str(node.get("title") or self._definition(node).get("display_name") or node["type"])

    def inputs_of(self, node: Json) -> Json:
        where = _describe(node)
        inputs: Json = {}
        for widget, value in self.widget_values(node):
            if widget.sent:
                check_value(where, widget, value)
                inputs[widget.name] = as_sent(where, widget, value)

        known = self._input_names(node)
        for index, slot in enumerate(node.get("inputs") or []):
            if slot.get("link") is None:
                continue
            name = slot["name"]
            if name not in known and name.split(".")[0] not in known:
                raise ValueError(
                    f"{where}: a link leads to '{name}', but the node has no such input. "
                    f"It has: {', '.join(known) or 'none'}."
                )
            origin = self._resolve_input(node, index, set())
            if origin is None:
                continue  # muted, or bypassed with nothing behind it: a widget keeps its own value
            inputs[name] = origin.value if isinstance(origin, _Value) else list(origin)
        return inputs

    def widget_values(self, node: Json) -> list[tuple[Widget, Any]]:
        """Each widget with its saved value, or its default where the workflow is older than the widget."""
        where = _describe(node)
        saved = node.get("widgets_values")
        by_name = saved if isinstance(saved, dict) else None
        in_order = iter(saved or [] if by_name is None else [])
        result: list[tuple[Widget, Any]] = []

        def read(specs: Iterator[tuple[str, Any]], prefix: str = "") -> None:
            for name, spec in specs:
                for widget in widgets_of(prefix + name, spec):
                    if by_name is not None:
                        value = by_name.get(widget.name, default_of(widget))
                    else:
                        value = next(in_order, _MISSING)
                        value = default_of(widget) if value is _MISSING else value
                    result.append((widget, value))
                    if widget.type == "COMFY_DYNAMICCOMBO_V3":
                        read(chosen_inputs(where, widget, value), f"{widget.name}.")

        read(ordered_specs(self._definition(node)))
        # The page also saves what its upload buttons and text previews hold, behind all others: never a number.
        if any(isinstance(value, int | float) and not isinstance(value, bool) for value in in_order):
            raise ValueError(
                f"{where}: 'widgets_values' holds {len(saved or [])} values, but the node has "
                f"{len(result)} widgets ({', '.join(widget.name for widget, _ in result) or 'none'}). "
                "The node has changed since the workflow was saved: load it on the page and save it again."
            )
        return result

    def _definition(self, node: Json) -> Json:
        definition: Json | None = self.object_info.get(node["type"])
        if definition is None:
            raise ValueError(
                f"{_describe(node)}: the server has no node of type '{node['type']}'. "
                "Is the pack that brings it installed, and did it load without an error?"
            )
        return definition

    def _input_names(self, node: Json) -> list[str]:
        return [name for name, _ in ordered_specs(self._definition(node))]

    def _is_virtual(self, node: Json) -> bool:
        return node["type"] in (_REROUTE, _PRIMITIVE, *_NOTES)

    # Links, followed back through reroutes, primitives and bypassed nodes

    def _resolve_input(
        self, node: Json, index: int, visited: set[tuple[str, int]], wanted: str | None = None
    ) -> tuple[str, int] | _Value | None:
        slot = node["inputs"][index]
        if slot.get("link") is None:
            return None
        link = self.links.get(slot["link"])
        if link is None:
            raise ValueError(f"{_describe(node)}, '{slot['name']}': link {slot['link']} is not in the workflow.")
        origin = self.nodes.get(link[0])
        if origin is None:
            raise ValueError(f"{_describe(node)}, '{slot['name']}': it is linked to node {link[0]}, which is missing.")
        return self._resolve_output(origin, link[1], wanted or str(slot.get("type", "*")), visited)

    def _resolve_output(
        self, node: Json, index: int, wanted: str, visited: set[tuple[str, int]]
    ) -> tuple[str, int] | _Value | None:
        place = (str(node["id"]), index)
        if place in visited:
            raise ValueError(f"{_describe(node)}: its output {index} leads back to itself.")
        visited.add(place)

        if node["type"] == _PRIMITIVE:
            return _Value(_primitive_value(node))
        if node.get("mode", 0) == _MUTED:
            return None
        if node.get("mode", 0) == _BYPASSED:
            through = _bypass_input(node, index, wanted)
            return None if through is None else self._resolve_input(node, through, visited)
        if node["type"] == _REROUTE:
            return self._resolve_input(node, 0, visited, wanted) if node.get("inputs") else None
        if self._is_virtual(node):
            return None
        return str(node["id"]), index


@dataclass(frozen=True)
class _Value:
    """What a PrimitiveNode gives: a value, not a link."""

    value: Any


_MISSING = object()


def _read_link(link: Any) -> tuple[int, tuple[str, int]]:
    """Link id -> (origin node, origin slot). Format 0.4 saves links as lists, format 1 as objects."""
    if isinstance(link, dict):
        return link["id"], (str(link["origin_id"]), int(link["origin_slot"]))
    return link[0], (str(link[1]), int(link[2]))


def _primitive_value(node: Json) -> Any:
    values = node.get("widgets_values") or []
    if not values:
        raise ValueError(f"{_describe(node)} has no value in 'widgets_values'.")
    return values[0]


def _bypass_input(node: Json, output: int, wanted: str) -> int | None:
    """The input that stands in for an output of a bypassed node: same position, else first of its type."""
    inputs = node.get("inputs") or []
    outputs = node.get("outputs") or []
    if output >= len(outputs):
        raise ValueError(f"{_describe(node)} has no output {output}, but a link starts there.")
    offered = str(outputs[output].get("type", "*"))
    if wanted in ("*", ""):
        if not inputs:
            return None
        return output if output < len(inputs) else 0

    def fits(slot: Json) -> bool:
        return _connects(str(slot.get("type")), offered) and _connects(str(slot.get("type")), wanted)

    if output < len(inputs) and fits(inputs[output]):
        return output
    exact = (index for index, slot in enumerate(inputs) if slot.get("type") == wanted)
    fitting = (index for index, slot in enumerate(inputs) if fits(slot))
    return next(exact, next(fitting, None))


def _connects(one: str, other: str) -> bool:
    if one in ("*", "", "0") or other in ("*", "", "0"):
        return True
    return bool(set(one.lower().split(",")) & set(other.lower().split(",")))


def _find_node(graph: _Graph, wanted: str | int) -> Json:
    nodes = list(graph.nodes.values())
    for key in ("title", "type", "id"):
        found = [node for node in nodes if str(node.get(key)) == str(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(str(node["id"]) for node in found)
            raise ValueError(f"{len(found)} nodes have the {key} '{wanted}': name one by its id ({ids}).")
    raise ValueError(f"The workflow has no node '{wanted}'. It has: {'; '.join(_describe(node) for node in nodes)}.")


def _describe(node: Json) -> str:
    title = node.get("title")
    return f"node {node['id']} ({node['type']}{f', {title!r}' if title and title != node['type'] else ''})"
