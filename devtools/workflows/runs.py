"""How the shipped workflows are run in the world that the miniature draws: unchanged but for sizes and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..page.comfy_page import ComfyPage
from .miniature import BATCH_SIZE, LEARNING_RATE, SAMPLING, STEPS

Change = tuple[str, str, Any]
"""Node type or title, widget, value: for every such node."""

SIDE = 128
"""What the miniature draws, in pixels."""

DRAWN: Sequence[Change] = (
    ("CrossInitPrepareFace", "resolution", SIDE),
    ("CrossInitLearn", "preset", "custom"),
    ("CrossInitLearn", "learning_rate", LEARNING_RATE),
    ("EmptyLatentImage", "width", SIDE),
    ("EmptyLatentImage", "height", SIDE),
    ("ImageScaleToTotalPixels", "megapixels", 0.02),
    ("ImageGrid", "cell_width", SIDE),
    ("ImageGrid", "cell_height", SIDE),
    ("KSampler", "cfg", SAMPLING["cfg"]),
)
"""What the miniature needs in the place of a full-size checkpoint."""

GOOD: Sequence[Change] = (
    ("CrossInitLearn", "steps", STEPS),
    ("CrossInitLearn", "batch_size", BATCH_SIZE),
    ("KSampler", "steps", SAMPLING["steps"]),
)
"""Enough for pictures that are worth a look."""

QUICK: Sequence[Change] = (
    ("CrossInitLearn", "steps", 3),
    ("CrossInitLearn", "batch_size", 1),
    ("KSampler", "steps", 2),
)
"""The least work with which a workflow still does everything."""


def change(page: ComfyPage, *changes: Change) -> None:
    """Set widgets of all nodes of a type or title, where the open workflow has such nodes."""
    page.page.evaluate(
        """changes => {
            for (const [wanted, name, value] of changes)
                for (const node of app.graph.nodes.filter(n => n.type === wanted || n.title === wanted)) {
                    const widget = node.widgets.find(w => w.name === name)
                    if (!widget) throw new Error(`${wanted} has no widget ${name}`)
                    widget.value = value
                    widget.callback?.(value, app.canvas, node)
                }
        }""",
        [list(one) for one in changes],
    )


def bring_into_view(page: ComfyPage) -> None:
    """Move the view so that the whole graph is in the window: classic nodes load their pictures when they are drawn."""
    boxes = page.groups()
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right, bottom = max(box.right for box in boxes), max(box.bottom for box in boxes)
    page.page.evaluate(
        """([x, y, width, height]) => {
            const { clientWidth, clientHeight } = app.canvas.canvas
            const [side, bar] = [80, 110]
            const scale = Math.min((clientWidth - 2 * side) / width, (clientHeight - 2 * bar) / height)
            app.canvas.ds.scale = scale
            app.canvas.ds.offset = [side / scale - x, bar / scale - y]
            app.canvas.setDirty(true, true)
        }""",
        [left, top, right - left, bottom - top],
    )
    page.settle()
