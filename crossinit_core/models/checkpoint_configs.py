"""Configurations of diffusers and transformers that follow from the shapes in a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..families import CONTEXT_LENGTH
from .compact_folder import BOS, EOS, PAD

State = Mapping[str, Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_HEAD = 64
"""Width of an attention head of OpenCLIP's and OpenAI's text encoders, and of the UNets of SD 2.x and SDXL."""
_SIZE_CHANNELS = 256
"""Channels for each of the six sizes that SDXL's UNet gets (Podell et al., "SDXL", 2023, section 2.2)."""


@dataclass(frozen=True)
class _Level:
    """A level of a UNet: its width, and how many transformer blocks follow each of its residual blocks."""

    width: int
    depths: tuple[int, ...]


def unet_config(state: State, *, resolution: int, heads_of_64: bool) -> dict[str, Any]:
    """Of `UNet2DConditionModel`, for a UNet of SD 1.x, SD 2.x, SDXL, or of SDXL's smaller children (SSD-1B, Segmind-Vega).

    `heads_of_64` is False for SD 1.x, which has 8 heads everywhere. Raises KeyError for a weight that is missing, and ValueError for a layout that diffusers
    does not have.
    """
    down = _down_levels(state)
    layers = len(down[0].depths)
    # Output blocks go from the last level to the first, and have one more in each level.
    up_depths = [_depth(state, f"{UNET}output_blocks.{number}.1.") for number in range(len(down) * (layers + 1))]
    up = [tuple(up_depths[start : start + layers + 1]) for start in range(0, len(up_depths), layers + 1)]
    widths = [level.width for level in down]
    attends = [any(level.depths) for level in down]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": resolution // 8,
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if any(depths) else "UpBlock2D" for depths in up],
        "layers_per_block": layers,
        "mid_block_type": _middle(state),
        "transformer_layers_per_block": [max(level.depths) or 1 for level in down],
        "cross_attention_dim": _first_attention(state, down, "attn2.to_k.weight").shape[1],
        # diffusers' name for the number of heads.
        "attention_head_dim": [width // _HEAD for width in widths] if heads_of_64 else 8,
        "use_linear_projection": _first_projection(state, down).dim() == 2,
    }
    each_alike = all(len({*level.depths, *depths}) == 1 for level, depths in zip(down, reversed(up), strict=True))
    if not each_alike:
        config["transformer_layers_per_block"] = [list(level.depths) if any(level.depths) else 1 for level in down]
        config["reverse_transformer_layers_per_block"] = [list(depths) if any(depths) else 1 for depths in up]
    last = config["transformer_layers_per_block"][-1]
    middle = _depth(state, f"{UNET}middle_block.1.")
    if middle and middle != (last[0] if isinstance(last, list) else last):
        raise ValueError(f"the middle block has {middle} transformer blocks, but the level before it has not")
    label = state.get(f"{UNET}label_emb.0.0.weight")
    if label is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _SIZE_CHANNELS,
            "projection_class_embeddings_input_dim": label.shape[1],
        }
    return config


def vae_config(state: State, *, resolution: int, scaling_factor: float) -> dict[str, Any]:
    """Of `AutoencoderKL`. Raises KeyError for a weight that is missing."""
    widths: list[int] = []
    while (weight := state.get(f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight")) is not None:
        widths.append(weight.shape[0])
    layers = 0
    while f"{VAE}encoder.down.0.block.{layers}.conv1.weight" in state:
        layers += 1
    if not widths:
        raise KeyError(f"{VAE}encoder.down.0.block.0.conv1.weight")
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": layers,
        "latent_channels": 4,
        "sample_size": resolution,
        "scaling_factor": scaling_factor,
    }


def text_config(weights: State, *, open_clip: bool) -> dict[str, Any]:
    """Of `CLIPTextModel`, from its weights under transformers' names. Raises KeyError for a weight that is missing."""
    vocabulary, width = weights["embeddings.token_embedding.weight"].shape
    projection = weights.get("text_projection.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len({key.split(".")[2] for key in weights if key.startswith("encoder.layers.")}),
        "num_attention_heads": width // _HEAD,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "max_position_embeddings": CONTEXT_LENGTH,
        "projection_dim": width if projection is None else projection.shape[0],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD if open_clip else EOS,
    }


def context_width(state: State) -> int | None:
    """The width that the UNet attends to; None if it does not attend to anything."""
    ending = ".1.transformer_blocks.0.attn2.to_k.weight"
    return next((w.shape[1] for key, w in state.items() if key.startswith(UNET) and key.endswith(ending)), None)


def _down_levels(state: State) -> list[_Level]:
    """The levels of the input blocks; a block that halves the size ends one."""
    levels: list[_Level] = []
    depths: list[int] = []
    number, width = 1, 0
    while True:
        place = f"{UNET}input_blocks.{number}."
        residual = state.get(f"{place}0.out_layers.3.weight")
        if residual is not None:
            width = residual.shape[0]
            depths.append(_depth(state, f"{place}1."))
        elif depths:
            levels.append(_Level(width, tuple(depths)))
            depths = []
        if residual is None and f"{place}0.op.weight" not in state:
            break
        number += 1
    if not levels or len({len(level.depths) for level in levels}) > 1:
        raise KeyError(f"{UNET}input_blocks.{number}.0.out_layers.3.weight")
    return levels


def _depth(state: State, place: str) -> int:
    """Transformer blocks at a place."""
    depth = 0
    while f"{place}transformer_blocks.{depth}.norm1.weight" in state:
        depth += 1
    return depth


def _middle(state: State) -> str | None:
    """diffusers' type of the middle block: SSD-1B's has no transformer, and Segmind-Vega has none at all."""
    if f"{UNET}middle_block.1.proj_in.weight" in state:
        return "UNetMidBlock2DCrossAttn"
    return "UNetMidBlock2D" if f"{UNET}middle_block.0.in_layers.0.weight" in state else None


def _first_place(state: State, levels: list[_Level]) -> str:
    """A spatial transformer of the input blocks; there is always one."""
    layers = len(levels[0].depths)
    for number, level in enumerate(levels):
        for layer, depth in enumerate(level.depths):
            if depth:
                return f"{UNET}input_blocks.{1 + number * (layers + 1) + layer}.1."
    raise KeyError(f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")


def _first_attention(state: State, levels: list[_Level], name: str) -> Tensor:
    return state[f"{_first_place(state, levels)}transformer_blocks.0.{name}"]


def _first_projection(state: State, levels: list[_Level]) -> Tensor:
    return state[f"{_first_place(state, levels)}proj_in.weight"]
