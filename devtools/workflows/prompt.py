"""A workflow as ComfyUI's page sends it to the server: the prompt, in API form."""

from __future__ import annotations

from .graph import Node, Workflow, numbers_of
from .widgets import Json, definition_of, ordered_specs, refuse_dynamic_prompt, values_of


def to_prompt(workflow: Workflow, info: Json) -> Json:
    """The prompt of a workflow; `info` is the server's /object_info.

    Raises ValueError if a value or a link names something that its node does not have.
    """
    numbers = numbers_of(workflow)
    return {
        str(numbers[node.key]): {
            "inputs": _inputs(node, numbers, info),
            "class_type": node.type,
            "_meta": {"title": node.title or info[node.type].get("display_name") or node.type},
        }
        for node in workflow[0]
    }


def _inputs(node: Node, numbers: dict[str, int], info: Json) -> Json:
    definition = definition_of(node.type, info)
    inputs: Json = {}
    for widget, value in values_of(node, definition):
        if widget.sent:
            refuse_dynamic_prompt(node.name, widget, value)
            # A plain list would read as a link.
            inputs[widget.name] = {"__value__": value} if isinstance(value, list) else value
    known = [name for name, _ in ordered_specs(definition)]
    for name, (source, output) in node.links.items():
        if name.split(".")[0] not in known:  # a socket that grows is called tokens.token0
            raise ValueError(f"{node.name} has no input '{name}'. It has: {', '.join(known)}.")
        inputs[name] = [str(numbers[source]), output]
    return inputs
