"""Which sockets of ComfyUI fit each other."""

from __future__ import annotations

from comfy_execution.validation import validate_node_input


def fits(given: str, wanted: str) -> bool:
    """Whether an output of type `given` may be connected to an input of type `wanted`; both may be a union such as `A,B`."""
    return validate_node_input(given, wanted)
