"""The widgets that ComfyUI's page makes for a node's inputs, and the values that they have in a workflow.

The rules are those of the page (ComfyUI_frontend 1.47 and 1.58), as far as the shipped workflows need them. A test asks the
page for what it makes of every one of these, and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .graph import Node

Json = dict[str, Any]

# Socket types for which the page makes a widget. Every other type is a socket.
_WIDGET_TYPES = frozenset(
    {"INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "MARKDOWN", "TEXTAREA"}
    | {"COLOR", "COLORS", "CURVE", "RANGE", "BOUNDING_BOX", "BOUNDING_BOXES", "CHART", "GALLERIA", "PAINTER"}
)
_CHANGED_BY_THE_PAGE = re.compile(r"//|/\*|\{|\\[{}|]")


@dataclass(frozen=True)
class Widget:
    """A widget in the order of `widgets_values`. `sent` is False for the page's own control widgets."""

    name: str
    type: str
    options: Json
    sent: bool = True


def ordered_specs(definition: Json) -> Iterator[tuple[str, Any]]:
    """Required inputs, then optional ones, in the order of `input_order` if the server gives one."""
    for group in ("required", "optional"):
        specs = (definition.get("input") or {}).get(group) or {}
        order = (definition.get("input_order") or {}).get(group) or specs
        for name in order:
            if name in specs:
                yield name, specs[name]


def options_of(spec: Any) -> Json:
    """What a node says of an input beside its type."""
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def widgets_of(name: str, spec: Any) -> Iterator[Widget]:
    """The widgets that the page makes for one input: none for a socket, two or three for one that changes after a run.

    Raises ValueError for a combo that shows inputs of its own.
    """
    options = options_of(spec)
    kind = "COMBO" if isinstance(spec[0], list) else str(options.get("widgetType", spec[0]))
    if kind == "COMFY_DYNAMICCOMBO_V3":
        raise ValueError(
            f"'{name}' is a combo that shows inputs of its own, which descriptions of workflows do not know."
        )
    if options.get("forceInput") or kind not in _WIDGET_TYPES:
        return
    if isinstance(spec[0], list):
        options = {**options, "options": spec[0]}
    yield Widget(name, kind, options)
    # The page's rule: a seed is controlled unless its node says no; others only if their node says so.
    controlled = options.get("control_after_generate")
    if controlled is None and kind == "INT":
        controlled = name in ("seed", "noise_seed")
    if controlled and kind in ("INT", "FLOAT", "COMBO"):
        yield Widget("control_after_generate", "CONTROL", {"default": "fixed"}, sent=False)
        if kind == "COMBO":
            yield Widget("control_filter_list", "CONTROL", {"default": ""}, sent=False)


def definition_of(node_type: str, info: Json) -> Json:
    """What the server's /object_info says of a node type. Raises ValueError if it does not know the type."""
    if node_type not in info:
        raise ValueError(
            f"The server has no node of type '{node_type}'. "
            "Is the pack that brings it installed, and did it load without an error?"
        )
    found: Json = info[node_type]
    return found


def values_of(node: Node, definition: Json) -> list[tuple[Widget, Any]]:
    """Every widget of a node, in the page's order, with the node's value or, if it gives none, the widget's default.

    Raises ValueError if the node gives a value to a widget that it does not have, or a value of the wrong type.
    """
    widgets = [widget for name, spec in ordered_specs(definition) for widget in widgets_of(name, spec)]
    unknown = set(node.values) - {widget.name for widget in widgets}
    if unknown:
        has = ", ".join(widget.name for widget in widgets) or "none"
        raise ValueError(f"{node.name} has no widget '{', '.join(sorted(unknown))}'. It has: {has}.")
    found = [(widget, node.values.get(widget.name, default_of(widget))) for widget in widgets]
    for widget, value in found:
        check_value(node.name, widget, value)
    return found


def default_of(widget: Widget) -> Any:
    """The value of a widget that nobody has touched."""
    if "default" in widget.options:
        return widget.options["default"]
    if widget.type == "COMBO":
        choices = widget.options.get("options") or [None]
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": ""}.get(widget.type)


def check_value(where: str, widget: Widget, value: Any) -> None:
    """Raise ValueError if the value is not of the widget's type.

    Whether a name is in a combo's list is the server's to say: lists of files differ by machine.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "INT": number and float(value) == int(value),
        "FLOAT": number,
        "BOOLEAN": isinstance(value, bool),
        "STRING": isinstance(value, str),
    }.get(widget.type, True)
    if not fits:
        raise ValueError(f"{where}, '{widget.name}': expected {widget.type}, but the value is {value!r}.")


def refuse_dynamic_prompt(where: str, widget: Widget, value: Any) -> None:
    """Raise ValueError for a text that the page changes before it sends it: a random choice {a|b}, an escape, a comment."""
    if widget.type == "STRING" and widget.options.get("dynamicPrompts") and _CHANGED_BY_THE_PAGE.search(value):
        raise ValueError(
            f"{where}, '{widget.name}': the page replaces {{a|b}} by a random choice, drops comments and reads \\{{ as a "
            f"brace, so it would not send {value!r} as it stands. Write a text without braces and comments."
        )
