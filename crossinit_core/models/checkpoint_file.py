"""A checkpoint file of SD 1.x or 2.x, as ComfyUI and AUTOMATIC1111 load it, without a network.

diffusers would download a configuration for it; here it follows from the shapes in the file. `data/merges.txt` is CLIP's
(openai/CLIP, MIT licence): a checkpoint holds no tokenizer.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..families import CONTEXT_LENGTH, UNCLIP, USE_KNOWN_FAMILY, for_inpainting, other_family, special_version
from ..text import quoted
from .compact_folder import BOS, EOS, PAD, load_tokenizer

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP, _OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_V_PREDICTION = _UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_LEVELS = 4
_OPEN_CLIP_NAMES = {
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
}
_OPEN_CLIP_LAYER_NAMES = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""As in the published folders of SD 1.5 and 2.1."""


def is_checkpoint(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name; nothing else in it is opened.

    Raises ValueError if it cannot be read, or if it is not SD 1.x or 2.x.
    """
    shown = quoted(path, 200)
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start[8:9] == b"{":
            with safe_open(path, "pt") as tensors:
                state: Any = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=start[:2] == b"PK")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The checkpoint file '{shown}' is damaged, or holds more than tensors, so that opening it could run foreign code. Use a "
            ".safetensors file of it."
        ) from error
    except Exception as error:  # torch raises a dozen kinds, depending on where the file is damaged
        reason = quoted(error, 200)
        raise ValueError(
            f"The checkpoint file '{shown}' cannot be read ({reason}). Copy or download it again."
        ) from error
    while isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found = {}
    if isinstance(state, Mapping):
        found = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    _check(found, shown)
    return found


def resolution_of_checkpoint(state: Mapping[str, Tensor]) -> int:
    """768 for a model of SD 2.x that predicts v, else 512."""
    return 768 if _predicts_v(state) else 512


def load_checkpoint(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The networks, tokenizer and `scheduler_config` of a checkpoint file, as `DiffusersBackbone` takes them.

    Raises ValueError as `read_checkpoint` does, and if weights are missing.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    state = read_checkpoint(path)
    open_clip = any(key.startswith(_OPEN_CLIP) for key in state)
    try:
        with TemporaryDirectory() as folder:
            for part, config in (("unet", _unet_config(state, open_clip)), ("vae", _vae_config(state))):
                (Path(folder) / part).mkdir()
                (Path(folder) / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
            options: dict[str, Any] = {"config": folder, "local_files_only": True, "torch_dtype": dtype}
            unet = UNet2DConditionModel.from_single_file(dict(state), subfolder="unet", **options)  # pyright: ignore[reportArgumentType]
            vae = AutoencoderKL.from_single_file(dict(state), subfolder="vae", **options)  # pyright: ignore[reportArgumentType]
        weights = _open_clip_weights(state) if open_clip else _clip_weights(state)
        text_encoder = CLIPTextModel(CLIPTextConfig(**_text_config(weights, open_clip)))
        own = text_encoder.state_dict()
        level = "text_model." if any(key.startswith("text_model.") for key in own) else ""
        text_encoder.load_state_dict(
            {level + key: value for key, value in weights.items() if level + key in own}, strict=True
        )
        lost = [key for part in (unet, vae) for key, value in part.named_parameters() if value.is_meta]
        if lost:
            raise KeyError(lost[0])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # shapes and keys, in whatever way diffusers finds them wrong
        raise ValueError(
            f"'{quoted(path, 200)}' cannot be loaded: its weights are not all there, or of other shapes than those of SD 1.x "
            f"and 2.x ({quoted(error, 160)}). Download it again, or use another checkpoint."
        ) from error
    return {
        "tokenizer": load_tokenizer(pad=PAD if open_clip else EOS),
        "text_encoder": text_encoder.to(dtype),  # pyright: ignore[reportArgumentType]
        "unet": unet,
        "vae": vae,
        "scheduler_config": {
            **_SCHEDULER,
            "prediction_type": "v_prediction" if _predicts_v(state) else "epsilon",
        },
    }


def _check(state: Mapping[str, Tensor], shown: str) -> None:
    """Raises ValueError with the reason if these are not the tensors of a whole SD 1.x or 2.x."""
    first = state.get(f"{_UNET}input_blocks.0.0.weight")
    if any(key.startswith("conditioner.embedders.") for key in state):
        raise ValueError(f"'{shown}' {other_family('SDXL')}. {USE_KNOWN_FAMILY}")
    if any("lora_" in key or ".lora" in key for key in state):
        raise ValueError(f"'{shown}' is a LoRA, not a checkpoint. {USE_KNOWN_FAMILY}")
    if first is None or first.dim() != 4:
        raise ValueError(f"'{shown}' is not a checkpoint of SD 1.x or 2.x. {USE_KNOWN_FAMILY}")
    if first.shape[1] != 4:
        raise ValueError(f"'{shown}' {special_version(for_inpainting(first.shape[1]))}.")
    if any(key.startswith(f"{_UNET}label_emb.") for key in state):
        raise ValueError(f"'{shown}' {special_version(UNCLIP)}.")
    for part, prefixes in (("text encoder", (_CLIP, _OPEN_CLIP)), ("VAE", (_VAE,))):
        if not any(key.startswith(prefixes) for key in state):
            raise ValueError(f"'{shown}' holds no {part}. Use a whole checkpoint, or a folder in diffusers' layout.")


def _predicts_v(state: Mapping[str, Tensor]) -> bool:
    """The rule by which ComfyUI tells the models of SD 2.x apart (comfy/supported_models.py, `SD20.model_type`)."""
    weight = state.get(_V_PREDICTION)
    open_clip = any(key.startswith(_OPEN_CLIP) for key in state)
    return open_clip and weight is not None and float(weight.float().std(unbiased=False)) > 0.09


def _unet_config(state: Mapping[str, Tensor], open_clip: bool) -> dict[str, Any]:
    blocks = [f"{_UNET}input_blocks.{1 + 3 * level}." for level in range(_LEVELS)]
    widths = [state[f"{block}0.out_layers.3.weight"].shape[0] for block in blocks]
    attends = [f"{block}1.norm.weight" in state for block in blocks]
    place = f"{_UNET}middle_block.1."
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": resolution_of_checkpoint(state) // 8,
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "layers_per_block": 2,
        "cross_attention_dim": state[f"{place}transformer_blocks.0.attn2.to_k.weight"].shape[1],
        # diffusers' name for the number of heads: 8 in SD 1.x; in SD 2.x each is 64 wide.
        "attention_head_dim": [width // 64 for width in widths] if open_clip else 8,
        "use_linear_projection": state[f"{place}proj_in.weight"].dim() == 2,
    }


def _vae_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    widths = [state[f"{_VAE}encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(_LEVELS)]
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * _LEVELS,
        "up_block_types": ["UpDecoderBlock2D"] * _LEVELS,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": resolution_of_checkpoint(state),
        "scaling_factor": 0.18215,
    }


def _text_config(weights: Mapping[str, Tensor], open_clip: bool) -> dict[str, Any]:
    vocabulary, width = weights["embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len({key.split(".")[2] for key in weights if key.startswith("encoder.layers.")}),
        "num_attention_heads": width // 64,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD if open_clip else EOS,
    }


def _clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of SD 1.x. Older files have no level `text_model`."""
    return {
        key.removeprefix(_CLIP).removeprefix("text_model."): value
        for key, value in state.items()
        if key.startswith(_CLIP)
    }


def _open_clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of SD 2.x, without the last layer, which it does not use."""
    own = {key.removeprefix(_OPEN_CLIP): value for key, value in state.items() if key.startswith(_OPEN_CLIP)}
    last = max(int(key.split(".")[2]) for key in own if key.startswith("transformer.resblocks."))
    weights: dict[str, Tensor] = {}
    for old, value in own.items():
        start = next((start for start in _OPEN_CLIP_NAMES if old.startswith(start)), None)
        if start is None or old.startswith(f"transformer.resblocks.{last}."):
            continue
        key = _OPEN_CLIP_NAMES[start] + old.removeprefix(start)
        for before, after in _OPEN_CLIP_LAYER_NAMES.items():
            key = key.replace(before, after)
        layer, joined, kind = key.partition(".attn.in_proj_")
        if joined:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                weights[f"{layer}.self_attn.{name}_proj.{kind}"] = part
        else:
            weights[key] = value
    return weights
