"""ComfyUI's front door."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036
    # The oldest that ComfyUI allows. A fork of it that runs on an older one would log a syntax error of ours.
    raise ImportError(
        f"CrossInit needs Python 3.10 or newer, but this ComfyUI runs on {sys.version.split()[0]}. "
        "Install ComfyUI anew with a newer Python; its portable build has one."
    )

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The pack's nodes. The import waits until ComfyUI asks, so that tools can import this file without a host."""
    from .nodes import CrossInitExtension

    return CrossInitExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
