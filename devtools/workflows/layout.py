"""Where the nodes of a workflow stand: below one another in columns, which stand in frames, which stand in rows.

So no description needs a coordinate, wires run from left to right, and what stands side by side begins and ends together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .graph import Group, Node, Note, Workflow

TITLE_HEIGHT = 30
BADGE_HEIGHT = 20
"""The page writes a node's pack above its title."""
GROUP_TITLE_HEIGHT = 36
GROUP_MARGIN = 20

LEFT, TOP = 40, 80
BETWEEN_COLUMNS = 60
"""Between frames as well: their margins leave 20."""
BETWEEN_NODES = TITLE_HEIGHT + BADGE_HEIGHT + 10
BETWEEN_ROWS = 2 * GROUP_MARGIN + TITLE_HEIGHT + BADGE_HEIGHT + GROUP_TITLE_HEIGHT

NOTE_LINE, NOTE_GAP, NOTE_MARGIN = 16, 8, 36
"""Pixels of a note: a line of its text, what lies between paragraphs, and what lies around them all."""
NOTE_CHARACTER = 4.8
"""Width of a character of a note's text, on the average."""


@dataclass(frozen=True)
class Column:
    """Nodes and notes of one width, from top to bottom."""

    width: int
    items: Sequence[Node | Note]

    def heights(self, whole: int = 0) -> list[int]:
        """The height of each item in a column as high as `whole`; the nodes that grow share what is left over."""
        heights = [item.height if isinstance(item, Node) else note_height(item, self.width) for item in self.items]
        growing = [index for index, item in enumerate(self.items) if isinstance(item, Node) and item.grows]
        left_over = whole - _total(heights)
        for number, index in enumerate(growing):
            share = left_over // (len(growing) - number)
            heights[index] += max(0, share)
            left_over -= share
        return heights


@dataclass(frozen=True)
class Frame:
    """Columns with a title around them."""

    title: str
    color: str
    columns: Sequence[Column]


def lay_out(*rows: Sequence[Frame]) -> Workflow:
    """Rows of frames, from top to bottom."""
    nodes: list[Node] = []
    notes: dict[str, Note] = {}
    groups: list[Group] = []
    top = TOP
    for row in rows:
        height = max(_total(column.heights()) for frame in row for column in frame.columns)
        left = LEFT
        for frame in row:
            keys: list[str] = []
            for column in frame.columns:
                for item in _placed(column, left, top, height):
                    if isinstance(item, Node):
                        nodes.append(item)
                        keys.append(item.key)
                    else:
                        keys.append(f"note {len(notes) + 1}")
                        notes[keys[-1]] = item
                left += column.width + BETWEEN_COLUMNS
            groups.append(Group(frame.title, keys, frame.color))
        top += height + BETWEEN_ROWS
    return nodes, notes, groups


def note_height(note: Note, width: int) -> int:
    """The height in which the page shows all of a note's text."""
    height = NOTE_MARGIN
    for paragraph in note.text.splitlines():
        if paragraph:
            indent = 30 if paragraph.startswith("- ") else 0
            lines = math.ceil(len(paragraph.replace("*", "")) * NOTE_CHARACTER / (width - 40 - indent))
            height += lines * NOTE_LINE + NOTE_GAP
    return 10 * math.ceil(height / 10)


def _placed(column: Column, left: int, top: int, height: int) -> list[Node | Note]:
    placed: list[Node | Note] = []
    for item, own in zip(column.items, column.heights(height), strict=True):
        placed.append(replace(item, pos=(left, top), size=(column.width, own)))
        top += own + BETWEEN_NODES
    return placed


def _total(heights: Sequence[int]) -> int:
    return sum(heights) + BETWEEN_NODES * (len(heights) - 1)
