"""What ComfyUI's page is told while a graph runs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from server import PromptServer


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """A line of text on the node."""
    if node.hidden is not None:  # None: called by a program, not by a graph
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)


def send_event(name: str, detail: dict[str, Any]) -> None:
    """An event for the scripts in web/."""
    PromptServer.instance.send_sync(name, detail)
