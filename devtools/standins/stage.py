"""A base directory with all that the shipped workflows ask for, under the names that they ask for, made of stand-ins.

So a workflow runs on a machine without model weights as it is, but for its sizes: `SMALL` in workflows/settings.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from crossinit_core import LearnedToken

from ..comfyui.links import PACK, prepare_base
from ..workflows.parts import CHECKPOINT, CHECKPOINT_XL, CONTROLNET, CONTROLNET_XL, LORA, PHOTO
from . import files as standins
from . import sdxl
from .faces import put_faces
from .photos import put_astronaut, put_photos

SD1_CHECKPOINT = "standin-sd15.safetensors"

Cached = Callable[[str, Callable[[Path], Any]], Path]
"""Returns the path of a file by name, and makes it with the function if it is not there yet."""


def set_stage(base: Path, cached: Cached) -> None:
    """Make `base` a base directory for ComfyUI in which every shipped workflow finds its models, photos and faces."""
    prepare_base(base, PACK)
    models = base / "models"
    for source, target in (
        (cached("sd21.safetensors", standins.make_sd2_checkpoint), models / "checkpoints" / CHECKPOINT),
        (cached("sd15.safetensors", standins.make_sd1_checkpoint), models / "checkpoints" / SD1_CHECKPOINT),
        (cached("sd21-controlnet.safetensors", standins.make_sd2_controlnet), models / "controlnet" / CONTROLNET),
        (cached("sdxl.safetensors", sdxl.make_sdxl_checkpoint), models / "checkpoints" / CHECKPOINT_XL),
        (cached("sdxl-controlnet.safetensors", sdxl.make_sdxl_controlnet), models / "controlnet" / CONTROLNET_XL),
        (cached("sd21-lora.safetensors", standins.make_lora), models / "loras" / LORA),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        _put(source, target)
    put_photos(base / "input")
    put_astronaut(base / "input" / PHOTO)
    generator = torch.Generator().manual_seed(0)
    first, second = (LearnedToken(torch.randn(2, 1024, generator=generator), "somebody", "sd2") for _ in range(2))
    on_sdxl = LearnedToken(torch.randn(2, 768 + 1280, generator=generator), "somebody", "sdxl")
    put_faces(models / "embeddings", first, second, on_sdxl)


def _put(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # the checkpoint alone is over a gigabyte
    except OSError:
        shutil.copyfile(source, target)
