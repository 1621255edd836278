"""How ComfyUI's page looks: places of nodes and groups, the part that the window shows, and pictures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

BARE: Mapping[str, Any] = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # text stays text, however small
}
"""Nothing but the graph."""


@dataclass(frozen=True)
class Box:
    """Where a node or group stands, in units of the graph; a node's box includes its title."""

    title: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box, tolerance: float = 0.0) -> bool:
        return (
            min(self.right, other.right) - max(self.left, other.left) > tolerance
            and min(self.bottom, other.bottom) - max(self.top, other.top) > tolerance
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


class PageView:
    """What is seen of one open page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def command(self, name: str) -> None:
        """Run one of the page's own commands."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def nodes(self) -> list[Box]:
        """The nodes and notes as they are shown."""
        return [
            Box(*box)
            for box in self.page.evaluate(
                """() => app.graph.nodes.map(n => {
                    const shown = document.querySelector(`.lg-node[data-node-id="${n.id}"]`)
                    if (!shown) {
                        const [x, y, w, h] = n.boundingRect
                        return [n.title, x, y, x + w, y + h]
                    }
                    const box = shown.getBoundingClientRect()
                    const canvas = app.canvas.canvas.getBoundingClientRect()
                    const { scale, offset } = app.canvas.ds
                    const x = client => (client - canvas.left) / scale - offset[0]
                    const y = client => (client - canvas.top) / scale - offset[1]
                    return [n.title, x(box.left), y(box.top), x(box.right), y(box.bottom)]
                })"""
            )
        ]

    def groups(self) -> list[Box]:
        """The frames around nodes."""
        return [
            Box(*box)
            for box in self.page.evaluate(
                "() => app.graph.groups.map(g => { const [x, y, w, h] = g.boundingRect; return [g.title, x, y, x + w, y + h] })"
            )
        ]

    def hide_everything_else(self) -> None:
        """Leave nothing but the graph in the window."""
        self.command("Workspace.ToggleFocusMode")
        self.page.add_style_tag(
            content=".graph-canvas-container ~ *, [aria-label='Show Menu'] { display: none !important }"
        )

    def frame(self, width: int, groups: Sequence[str] = (), margin: float = 20) -> None:
        """Resize the window and move the view so that the graph, or these groups of it, fill it."""
        boxes = [group for group in self.groups() if group.title in groups] or [*self.nodes(), *self.groups()]
        left, top = min(box.left for box in boxes) - margin, min(box.top for box in boxes) - margin
        right, bottom = max(box.right for box in boxes) + margin, max(box.bottom for box in boxes) + margin
        scale = width / (right - left)
        self.page.set_viewport_size({"width": width, "height": round((bottom - top) * scale)})
        self.page.evaluate(
            """([x, y, scale]) => {
                app.canvas.ds.scale = scale
                app.canvas.ds.offset = [-x, -y]
                app.canvas.setDirty(true, true)
            }""",
            [left, top, scale],
        )
        self.settle()

    def show_whole_graph(self) -> None:
        """Move the view so that the whole graph is in the window: classic nodes load their pictures once they are visible."""
        boxes = self.groups()
        left, top = min(box.left for box in boxes), min(box.top for box in boxes)
        right, bottom = max(box.right for box in boxes), max(box.bottom for box in boxes)
        self.page.evaluate(
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
        self.settle()

    def settle(self) -> None:
        """Wait until the page shows what it was told, pictures and fonts included."""
        self.page.evaluate("() => document.fonts.ready")
        for _ in range(3):
            self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def picture(self) -> bytes:
        """The window as PNG."""
        self.settle()
        return self.page.screenshot()

    def screenshot(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.picture())
        return path
