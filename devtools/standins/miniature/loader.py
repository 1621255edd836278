"""A custom node file for a stand-in ComfyUI: the stock Load Checkpoint opens the miniature.

`stage` copies it into custom_nodes, and puts a file of a few bytes under a checkpoint's name. For such a file the loader
returns the miniature that the pack carries; all other files are loaded as usual. No user's ComfyUI has this: it lets the
shipped workflows make pictures of people, not of noise, on machines without a checkpoint.
"""

from __future__ import annotations

import sys
from typing import Any

import comfy.sd
from safetensors import safe_open

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

_load = comfy.sd.load_checkpoint_guess_config


def _is_miniature(path: str) -> bool:
    if not str(path).endswith(".safetensors"):
        return False
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("crossinit.standin") == "the miniature"


def _pack(name: str) -> Any:
    """A module of the pack, which ComfyUI imports under its path."""
    (found,) = {
        module for key, module in sys.modules.items() if key.endswith(f".{name}") and "comfyui-crossinit" in key
    }
    return found


def load_checkpoint_guess_config(ckpt_path: str, *arguments: Any, **more: Any) -> Any:
    """MODEL, CLIP, VAE and no CLIP vision, as the host's own function of this name."""
    if not _is_miniature(ckpt_path):
        return _load(ckpt_path, *arguments, **more)
    weights = _pack("nodes.miniature").WEIGHTS
    return (*_pack("nodes.host.miniature").load_miniature(weights), None)


comfy.sd.load_checkpoint_guess_config = load_checkpoint_guess_config
