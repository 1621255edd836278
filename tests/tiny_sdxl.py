"""A tiny model with SDXL's structure in ComfyUI's own classes, from a diffusers folder such as the reference's `tiny-xl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]


def _config(folder: Path, part: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    return config


def _state(folder: Path, part: str) -> State:
    (path,) = (folder / part).glob("*.safetensors")
    return {key: value.float() for key, value in load_file(path).items() if not key.endswith("position_ids")}


def tiny_sdxl_model(
    folder: Path, dtype: torch.dtype = torch.float32, settings: dict[str, Any] | None = None, kind: str = "EPS"
) -> Any:
    """MODEL; `settings` are ComfyUI's sampling settings, such as `{"zsnr": True}`, and `kind` is one of its `ModelType`s."""
    import comfy.model_base
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    unet_config = unet_config_of(_config(folder, "unet"))
    names = comfy.utils.unet_to_diffusers(unet_config)
    weights = {names.get(key, key): value for key, value in _state(folder, "unet").items()}
    model_config = comfy.supported_models.SDXL(unet_config)
    model_config.unet_config["num_head_channels"] = unet_config_of(_config(folder, "unet"))["num_head_channels"]
    model_config.sampling_settings.update(settings or {})
    model_config.set_inference_dtype(dtype, None)
    model = comfy.model_base.SDXL(
        model_config, model_type=comfy.model_base.ModelType[kind], device=mm.unet_offload_device()
    )
    patcher = comfy.model_patcher.ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device())
    missing, unknown = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing and not unknown, (missing, unknown)
    return patcher


def unet_config_of(config: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI would detect of a checkpoint of the SDXL family with this diffusers configuration."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    attends = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    depths = [depth * attend for depth, attend in zip(config["transformer_layers_per_block"], attends, strict=True)]
    heads = [width // count for width, count in zip(widths, config["attention_head_dim"], strict=True)]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": depths[-1],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config["use_linear_projection"],
        "context_dim": config["cross_attention_dim"],
        "num_classes": "sequential",
        "adm_in_channels": config["projection_class_embeddings_input_dim"],
        "num_head_channels": heads[-1],
        "num_heads": -1,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "legacy": False,
    }


def tiny_sdxl_clip(folder: Path) -> Any:
    """CLIP with both text encoders."""
    import comfy.sd
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    names = (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "hidden_act"),
        *("max_position_embeddings", "eos_token_id"),
    )
    configs, states = {}, {}
    for encoder, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        config = _config(folder, part)
        configs[encoder] = {name: config[name] for name in names}
        state = _state(folder, part)
        if not any(key.startswith("text_model.") for key in state):
            state = {
                key if key.startswith("text_projection") else f"text_model.{key}": value for key, value in state.items()
            }
        state.setdefault("text_projection.weight", torch.eye(config["hidden_size"]))
        states[encoder] = state
    options = {f"{encoder}_model_config": config for encoder, config in configs.items()}
    clip = comfy.sd.CLIP(
        ClipTarget(SDXLTokenizer, SDXLClipModel),
        embedding_directory=[],
        parameters=sum(weight.numel() for state in states.values() for weight in state.values()),
        model_options={**options, "dtype": torch.float32},
    )
    for encoder, state in states.items():
        transformer = getattr(clip.cond_stage_model, encoder).transformer
        missing, unknown = transformer.load_state_dict(state, strict=False)
        assert not missing and not unknown, (encoder, missing, unknown)
        getattr(clip.tokenizer, encoder).embedding_size = configs[encoder]["hidden_size"]
    return clip
