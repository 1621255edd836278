"""Another copy of this pack in the same ComfyUI."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path


def other_copies(node_ids: Iterable[str], own: Path) -> list[Path]:
    """Folders of packs that gave ComfyUI nodes of these ids before: two clones in custom_nodes, for instance.

    `own` is this pack's folder, which counts however it is reached.
    """
    registered = importlib.import_module("nodes").NODE_CLASS_MAPPINGS  # ComfyUI's module, not this pack's folder
    found = set()
    for node_id in node_ids:
        node = registered.get(node_id)
        module = sys.modules.get(node.__module__) if node else None
        file = getattr(module, "__file__", None)
        folder = Path(file).parent if file else None
        while folder and folder != folder.parent:
            if (folder / "nodes" / "host").is_dir() and (folder / "crossinit_core").is_dir():
                if not folder.samefile(own):
                    found.add(folder)
                break
            folder = folder.parent
    return sorted(found)
