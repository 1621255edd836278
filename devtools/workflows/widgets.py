"""The widgets that ComfyUI's page makes for a node's inputs, and what it sends of their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

# Socket types for which the page draws a widget. Every other type is a socket.
_WIDGET_TYPES = frozenset(
    {"INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "COMFY_DYNAMICCOMBO_V3", "MARKDOWN", "TEXTAREA"}
    | {"COLOR", "COLORS", "CURVE", "RANGE", "BOUNDING_BOX", "BOUNDING_BOXES", "CHART", "GALLERIA", "PAINTER"}
)
_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//.*")


@dataclass(frozen=True)
class Widget:
    """A widget in the order of `widgets_values`. `sent` is False for the page's own control widgets."""

    name: str
    type: str
    options: Json
    sent: bool = True


def ordered_specs(definition: Json) -> Iterator[tuple[str, Any]]:
    """Required inputs, then optional ones, in the order of `input_order` where the server gives one."""
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
    """The widgets the page makes for one input: none for a socket, more than one for a seed."""
    options = options_of(spec)
    kind = "COMBO" if isinstance(spec[0], list) else str(options.get("widgetType", spec[0]))
    if options.get("forceInput") or kind not in _WIDGET_TYPES:
        return
    if isinstance(spec[0], list):
        options = {**options, "options": spec[0]}
    yield Widget(name, kind, options)
    # The page's rule: a seed is controlled unless its node says no; others only where their node says so.
    controlled = options.get("control_after_generate")
    if controlled is None and kind == "INT":
        controlled = name in ("seed", "noise_seed")
    if controlled and kind in ("INT", "FLOAT", "COMBO"):
        yield Widget("control_after_generate", "CONTROL", {"default": "randomize"}, sent=False)
        if kind == "COMBO":
            yield Widget("control_filter_list", "CONTROL", {"default": ""}, sent=False)


def chosen_inputs(where: str, widget: Widget, value: Any) -> Iterator[tuple[str, Any]]:
    """The inputs that a dynamic combo shows for its chosen option."""
    for option in widget.options.get("options") or []:
        if option["key"] == value:
            yield from ordered_specs({"input": option.get("inputs") or {}})
            return
    keys = [option["key"] for option in widget.options.get("options") or []]
    raise ValueError(f"{where}, '{widget.name}': {value!r} is not one of {keys}.")


def default_of(widget: Widget) -> Any:
    """The value of a widget that nobody has touched."""
    if "default" in widget.options:
        return widget.options["default"]
    choices = widget.options.get("options") or []
    if widget.type == "COMFY_DYNAMICCOMBO_V3":
        return choices[0]["key"] if choices else None
    if widget.type == "COMBO":
        return choices[0] if choices else None
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": ""}.get(widget.type)


def check_value(where: str, widget: Widget, value: Any) -> None:
    """Values out of step with their widgets are the usual fault of a workflow; types show it.

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
        raise ValueError(
            f"{where}, '{widget.name}': expected {widget.type}, the workflow has {value!r}. "
            "Either the value is wrong or 'widgets_values' is out of step with the node's widgets."
        )


def as_sent(where: str, widget: Widget, value: Any) -> Any:
    """A value as the page puts it into the prompt."""
    if isinstance(value, list):  # a plain list would read as a link
        curve = {"__type__": "CURVE"} if widget.type == "CURVE" else {}
        return {**curve, "__value__": value}
    if widget.type == "STRING" and widget.options.get("dynamicPrompts") and isinstance(value, str):
        return _static_prompt(where, widget.name, value)
    return value


def _static_prompt(where: str, name: str, text: str) -> str:
    """A prompt text without comments and escapes, as the page sends it."""
    text = _COMMENT.sub("", text)
    if "{" in re.sub(r"\\.", "", text, flags=re.DOTALL):
        raise ValueError(
            f"{where}, '{name}': the page replaces {{a|b}} by a random choice at every run, "
            "so this text has no single prompt. Write \\{ for a brace."
        )
    return re.sub(r"\\([{}|])", r"\1", text)
