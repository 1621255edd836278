"""A base directory with all that the shipped workflows ask for, in the painted world: its checkpoint, photos and faces.

The stock Load Checkpoint opens the miniature under the checkpoint's name (`loader`), so that the workflows as they are make
pictures of people on any machine. ControlNet and LoRA have its size; they do next to nothing, so that the pictures stay clean.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from crossinit_core import LearnedToken
from crossinit_core.models.compact_folder import TABLE, load_tokenizer, read_config, read_states
from miniature.training.pack import WEIGHTS

from ...comfyui.links import PACK, prepare_base
from ...workflows.parts import CHECKPOINT, CHECKPOINT_XL, CONTROLNET, CONTROLNET_XL, LORA
from .. import files as standins
from ..faces import put_faces
from ..photos import put_photos
from ..unets import UNetShape
from ..weights import TextShape

STANDING_IN = ("Emma Stone", "Morgan Freeman")
"""Two whom the miniature knows by name. Their names' vectors are the learned faces until some are learned."""

MARK = {"crossinit.standin": "the miniature"}
"""What `loader` looks for in the metadata of a checkpoint."""


def set_miniature_stage(base: Path) -> None:
    """Make `base` a base directory for ComfyUI in which every shipped workflow finds its models, photos and faces."""
    prepare_base(base, PACK)
    shutil.copyfile(Path(__file__).with_name("loader.py"), base / "custom_nodes" / "crossinit_miniature_loader.py")
    put_models(base / "models")
    put_photos(base / "input")
    put_faces(base / "models" / "embeddings", *(named_token(name) for name in STANDING_IN))


def put_models(models: Path) -> None:
    """Checkpoint, ControlNet and LoRA under the names that the workflows ask for."""
    config = read_config(WEIGHTS)
    widths = config["unet"]["block_out_channels"]
    unet = UNetShape(
        context_dim=config["unet"]["cross_attention_dim"],
        linear_projection=True,
        model_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=config["unet"]["layers_per_block"],
    )
    encoder = config["text_encoder"]
    # ComfyUI's CLIP has one layer more, which is not used.
    text = TextShape(encoder["num_hidden_layers"] + 1, encoder["intermediate_size"])
    for folder in ("checkpoints", "controlnet", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    for checkpoint in (CHECKPOINT, CHECKPOINT_XL):
        save_file({"nothing": torch.zeros(1)}, models / "checkpoints" / checkpoint, MARK)
    for controlnet in (CONTROLNET, CONTROLNET_XL):
        standins.make_sd2_controlnet(models / "controlnet" / controlnet, unet=unet, gain=0)
    standins.make_lora(models / "loras" / LORA, unet=unet, text=text, strength=0.1)


def named_token(name: str) -> LearnedToken:
    """The word vectors that the miniature has for a celebrity's name, as a token."""
    table = read_states(WEIGHTS)["text_encoder"][TABLE]
    words = load_tokenizer()(name, add_special_tokens=False)["input_ids"]
    return LearnedToken(table[words], "somebody", f"width-{table.shape[1]}")
