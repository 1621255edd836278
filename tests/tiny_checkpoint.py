"""A diffusers folder of SDXL's structure as one checkpoint file, as Stability AI, ComfyUI and AUTOMATIC1111 lay it out."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]

_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE = {
    r"(en|de)coder\.mid_block\.attentions\.0": r"\1coder.mid.attn_1",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"down_blocks\.(\d)\.resnets\.": r"down.\1.block.",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.(\d)\.resnets\.": r"up.\1.block.",
    r"up_blocks\.(\d)\.upsamplers\.0": r"up.\1.upsample",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
    r"group_norm": "norm",
    r"to_out\.0": "proj_out",
    r"to_([qkv])\.": r"\1.",
}
_CLIP_G = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def sdxl_state(folder: Path, layers: int = 2) -> State:
    """The tensors of a checkpoint file; `layers` are the UNet's residual blocks in a level."""
    unet = _weights(folder / "unet")
    state = {f"model.diffusion_model.{_unet_key(key, layers, unet)}": value for key, value in unet.items()}
    for key, value in _weights(folder / "vae").items():
        state[f"first_stage_model.{_vae_key(key)}"] = _as_convolution(key, value)
    for key, value in _weights(folder / "text_encoder").items():
        state[f"conditioner.embedders.0.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    second = {key.removeprefix("text_model."): value for key, value in _weights(folder / "text_encoder_2").items()}
    for key, value in _open_clip(second).items():
        state[f"conditioner.embedders.1.model.{key}"] = value
    return {key: value.contiguous() for key, value in state.items()}


def _weights(folder: Path) -> State:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def _unet_key(key: str, layers: int, unet: State) -> str:
    side = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    if side:
        where, level, kind, layer, rest = side[1], int(side[2]), side[3], int(side[4]), side[5]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            behind = 2 if any(name.startswith(f"up_blocks.{level}.attentions.") for name in unet) else 1
            return f"output_blocks.{(level + 1) * (layers + 1) - 1}.{behind}.{rest}"
        number = level * (layers + 1) + layer
        place = f"input_blocks.{number + 1}" if where == "down" else f"output_blocks.{number}"
        return f"{place}.0.{_residual(rest)}" if kind == "resnets" else f"{place}.1.{rest}"
    for ours, theirs in _UNET.items():
        if key.startswith(f"{ours}."):
            rest = key.removeprefix(f"{ours}.")
            return f"{theirs}.{_residual(rest) if 'resnets' in ours else rest}"
    raise KeyError(key)


def _residual(rest: str) -> str:
    name, _, kind = rest.rpartition(".")
    return f"{_RESIDUAL[name]}.{kind}"


def _vae_key(key: str) -> str:
    # The decoder's levels are counted from the other end.
    key = re.sub(r"up_blocks\.(\d)", lambda match: f"up_blocks.{3 - int(match[1])}", key)
    for ours, theirs in _VAE.items():
        key = re.sub(ours, theirs, key)
    return key


def _as_convolution(key: str, value: Tensor) -> Tensor:
    """Attention in a checkpoint's VAE is made of convolutions of one pixel."""
    return value[:, :, None, None] if "attentions" in key and value.dim() == 2 else value


def _open_clip(weights: State) -> State:
    found: State = {}
    for key, value in weights.items():
        if key == "text_projection.weight":
            found["text_projection"] = value.t()
            continue
        layer, joined, rest = key.partition(".self_attn.")
        if joined and not rest.startswith("out_proj"):
            kind = rest.rpartition(".")[2]
            parts = [weights[f"{layer}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            key, value = f"{layer}.attn.in_proj_{kind}", torch.cat(parts)
        for ours, theirs in _CLIP_G.items():
            key = key.replace(ours, theirs)
        found[key] = value
    return found
