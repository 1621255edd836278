"""Nodes that take any number of tokens, each by a socket of its own."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..crossinit_core import LearnedToken
from .errors import tells_errors
from .host.wires import fits
from .sockets import LearnedTokenSocket


def tokens_input(tooltip: str) -> io.Autogrow.Input:
    """The sockets `token0`, `token1` .., at most ten; the page shows one more than are connected."""
    template = io.Autogrow.TemplatePrefix(
        LearnedTokenSocket.Input("token", tooltip=tooltip),
        prefix="token",
        # None is required: if the node that the first one comes from is muted, the others are still used.
        min=0,
        max=10,
    )
    return io.Autogrow.Input("tokens", template=template)


def connected(tokens: dict[str, LearnedToken | None]) -> list[LearnedToken]:
    """The tokens that came, in the order of their sockets."""
    return [token for token in tokens.values() if token is not None]


def objection_to_wires(node: type[io.ComfyNode], input_types: dict[str, str]) -> str | None:
    """What is wrong with the wires of a node with `tokens_input`, which needs at least one token; None: nothing.

    input_types: the type at the other end of each wire; ComfyUI leaves it to a node that asks for them to compare them.
    """
    expected = {entry.id: entry.get_io_type() for entry in node.define_schema().inputs}
    for name, given in input_types.items():
        wanted = expected.get(name, LearnedTokenSocket.io_type)
        if not fits(given, wanted):
            return f"{name} is connected to {given}, but takes {wanted}."
    if not input_types.keys() - expected.keys():
        return "No learned token is connected. Connect at least one, from Learn Face or Load Learned Token."
    return None


@tells_errors
class TakesTokens(io.ComfyNode):
    """A node with `tokens_input` that needs at least one token."""

    @classmethod
    def validate_inputs(cls, input_types: dict[str, str], tokens: Any = None) -> bool | str:
        """Finds a missing wire when the graph is queued, not after half a minute of learning.

        tokens: not known before the graph runs; ComfyUI gives it all the same.
        """
        return objection_to_wires(cls, input_types) or True
