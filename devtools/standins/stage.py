"""What the shipped workflows ask for, under the very names that they ask for it, made from stand-ins.

So a workflow file runs on a machine without model weights as it is, but for its sizes: `SMALL`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from crossinit_core import LearnedToken, save_learned_token

from ..comfyui.links import prepare_base
from ..demo.photo import portrait
from ..workflows.miniature import DRESSED_SAMPLER, PLAIN_SAMPLER
from ..workflows.parts import CHECKPOINT, CONTROLNET, LORA, OTHER_FILES, PHOTO, SECOND_TOKEN_FILE, TOKEN_FILE
from . import files as standins
from .drawn.photos import put_photos

PACK = Path(__file__).resolve().parents[2]
SD1_CHECKPOINT = "standin-sd15.safetensors"

SMALL: Sequence[tuple[str, str, Any]] = (
    ("CrossInitLearn", "preset", "custom"),
    ("CrossInitLearn", "steps", 3),
    ("CrossInitLearn", "batch_size", 1),
    ("CrossInitLearn", "resolution", 64),
    ("EmptyLatentImage", "width", 64),
    ("EmptyLatentImage", "height", 64),
    ("KSampler", "steps", 2),
)
"""The least work with which a workflow still does everything: node type, widget, value."""

SMALL_MINIATURE: Sequence[tuple[str, str, Any]] = (
    ("CrossInitLearn", "steps", 2),
    ("CrossInitLearn", "batch_size", 1),
    ("EmptyLatentImage", "batch_size", 1),
    (PLAIN_SAMPLER, "steps", 2),
    (DRESSED_SAMPLER, "steps", 2),
)
"""The same for the workflow on the miniature, which needs no stand-ins."""

Cached = Callable[[str, Callable[[Path], Any]], Path]
"""Returns the path of a file by name, and makes it with the function where it is not there yet."""


def set_stage(base: Path, cached: Cached) -> None:
    """Make `base` a base directory for ComfyUI in which every shipped workflow finds its models, photo and face."""
    prepare_base(base, PACK)
    models = base / "models"
    for source, target in (
        (cached("sd21.safetensors", standins.make_sd2_checkpoint), models / "checkpoints" / CHECKPOINT),
        (cached("sd15.safetensors", standins.make_sd1_checkpoint), models / "checkpoints" / SD1_CHECKPOINT),
        (cached("sd21-controlnet.safetensors", standins.make_sd2_controlnet), models / "controlnet" / CONTROLNET),
        (cached("sd21-lora.safetensors", standins.make_lora), models / "loras" / LORA),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        _put(source, target)
    put_photos(base / "input")
    portrait(None, base / "input").replace(base / "input" / PHOTO)
    generator = torch.Generator().manual_seed(0)
    first, second = (LearnedToken(torch.randn(2, 1024, generator=generator), "somebody", "sd2") for _ in range(2))
    put_faces(models / "embeddings", first, second)


def put_faces(folder: Path, first: LearnedToken, second: LearnedToken) -> None:
    """Two faces under every name that a workflow loads, in the formats that other tools write."""
    save_learned_token(first.renamed(Path(TOKEN_FILE).stem), folder / TOKEN_FILE)
    save_learned_token(second.renamed(Path(SECOND_TOKEN_FILE).stem), folder / SECOND_TOKEN_FILE)
    published, a1111, kohya = (folder / file for file, _ in OTHER_FILES)
    torch.save({f"<face>_v{number}": vector.clone() for number, vector in enumerate(first.vectors)}, published)
    save_learned_token(second.renamed(a1111.stem), a1111)
    between = (first.vectors + second.vectors) / 2 if first.vectors.shape == second.vectors.shape else first.vectors
    save_file({"emb_params": between.clone()}, kohya)


def _put(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # the checkpoint alone is over a gigabyte
    except OSError:
        shutil.copyfile(source, target)
