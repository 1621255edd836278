"""A workflow as a person thinks of it: nodes, their values, what feeds them, notes beside them, frames around them.

`layout` places the nodes, `saved_workflow` makes the file that ComfyUI's page opens, `prompt` what the page sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Link = tuple[str, int]
"""A node's key and the index of its output."""

Pair = tuple[int, int]
"""Left and top, or width and height, in pixels of the graph."""

GROUP_COLORS = {"load": "#3f789e", "learn": "#8A8", "use": "#b58b2a", "look": "#a1309b"}


@dataclass(frozen=True)
class Node:
    """One node: `values` by widget name, `links` by input name. `layout` sets its place and width.

    A node that grows takes the height that its column has left over.
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

    @property
    def name(self) -> str:
        """The title, if it has one of its own, else the type."""
        return self.title or self.type


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


@dataclass(frozen=True)
class App:
    """What the page's App mode shows of a workflow: inputs as node's key and widget, and the nodes whose results it shows."""

    inputs: Sequence[tuple[str, str]]
    outputs: Sequence[str]


Workflow = tuple[Sequence[Node], Mapping[str, Note], Sequence[Group]]
"""Nodes, notes by key, and frames, as `layout` gives them."""

Change = tuple[str, str, Any]
"""Node title or type, widget, value."""


def numbers_of(workflow: Workflow) -> dict[str, int]:
    """The number of each node by its key: what the page calls its id.

    Raises ValueError if two nodes have one key, or if a link comes from a node that is not there.
    """
    numbers: dict[str, int] = {}
    for number, node in enumerate(workflow[0], start=1):
        if numbers.setdefault(node.key, number) != number:
            raise ValueError(f"Two nodes have the key '{node.key}'.")
    for node in workflow[0]:
        for name, (source, _) in node.links.items():
            if source not in numbers:
                raise ValueError(f"{node.name}, '{name}': it is linked to '{source}'. There are: {', '.join(numbers)}.")
    return numbers


def ids_of(workflow: Workflow) -> dict[str, str]:
    """The id of each node in a prompt, by its title or, if it has none, its type: of several with one name, the last's."""
    return {node.name: str(number) for number, node in enumerate(workflow[0], start=1)}


def with_values(workflow: Workflow, *changes: Change) -> Workflow:
    """The workflow with widgets changed. Making a file or a prompt of it checks that the nodes have these widgets.

    Raises ValueError if no node or several nodes have the title or type, or if a link feeds the widget, so that its value
    would have no effect.
    """
    nodes, notes, groups = workflow
    changed = list(nodes)
    for wanted, widget, value in changes:
        index = _index_of(nodes, wanted)
        if widget in changed[index].links:
            raise ValueError(f"{wanted}, '{widget}': a link feeds this input, so its widget has no effect.")
        changed[index] = replace(changed[index], values={**changed[index].values, widget: value})
    return changed, notes, groups


def _index_of(nodes: Sequence[Node], wanted: str) -> int:
    for kind in ("title", "type"):
        found = [index for index, node in enumerate(nodes) if getattr(node, kind) == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(nodes[index].key for index in found)
            raise ValueError(f"{len(found)} nodes have the {kind} '{wanted}' ({keys}). Name one by its title.")
    raise ValueError(f"The workflow has no node '{wanted}'. It has: {', '.join(node.name for node in nodes)}.")
