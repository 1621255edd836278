"""ComfyUI's front door."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The pack's nodes. The import waits until ComfyUI asks, so that tools can import this file without a host."""
    from .nodes import CrossInitExtension

    return CrossInitExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
