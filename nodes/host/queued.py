"""The graph that was queued, as ComfyUI gives it to a node that asks for it: node ids, classes, values and links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def saved_names(graph: Mapping[str, Any] | None, node_id: object, name: str, *, saver: str, socket: str) -> list[str]:
    """The names under which nodes of class `saver` save what is connected to input `name` of a node.

    `socket` is the saver's input that takes it; its `name` is the name. Names that come by a link are not known.
    """
    if not graph:
        return []
    origin = _inputs(graph.get(str(node_id))).get(name)
    if not isinstance(origin, list):
        return []
    found = (
        _inputs(node).get("name")
        for node in graph.values()
        if isinstance(node, Mapping) and node.get("class_type") == saver and _inputs(node).get(socket) == origin
    )
    return [saved for saved in found if isinstance(saved, str)]


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}
