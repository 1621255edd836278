"""ComfyUI's own MODEL, CLIP and VAE from a compact model folder.

ComfyUI's loaders know Stable Diffusion 2.x at its own size alone. This makes the objects that they would make, of the
same classes, at the sizes of the folder's config.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import numpy as np
import torch
from comfy.diffusers_convert import convert_vae_state_dict
from comfy.model_base import ModelType
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer
from torch import Tensor

from ...crossinit_core.families import MINIATURE
from ...crossinit_core.models.compact_folder import check_complete, read_config, read_states
from ...miniature.world.identity import random_identity
from ...miniature.world.people import portrait
from .folders import embeddings_folders
from .models import ORIGIN, Origin

Config = dict[str, Any]
State = dict[str, Tensor]


def load_miniature(folder: Path) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE in float32, as Load Checkpoint gives them.

    Raises FileNotFoundError if the folder holds no model, and ValueError if its files do not belong together.
    """
    config, states = read_config(folder), read_states(folder)
    model, clip = _model(folder, config, states), _clip(folder, config, states)
    origin = Origin(MINIATURE, config["unet"]["sample_size"] * 8)
    for patcher, load_again in ((model, _model_again), (clip.patcher, _clip_again)):
        patcher.set_attachments(ORIGIN, origin)
        # Core loaders leave a way to a second copy; nodes that change weights ask for it.
        patcher.cached_patcher_init = (load_again, (folder,))
    vae = _vae(folder, config, states)
    _show_true_colours(model, vae)
    return model, clip, vae


@contextmanager
def _plain_layers() -> Iterator[None]:
    """With dynamic video memory ComfyUI's linear layers have no weights before they are loaded, hence nothing to compare
    names and sizes with. Layers that are made in here have them; dynamic video memory takes both kinds."""
    memory: Any = getattr(comfy, "memory_management", None)  # not in older hosts
    dynamic = getattr(memory, "aimdo_enabled", None)
    if dynamic:
        memory.aimdo_enabled = False
    try:
        yield
    finally:
        if dynamic:
            memory.aimdo_enabled = dynamic


@_plain_layers()
def _model(folder: Path, config: Config, states: dict[str, State], disable_dynamic: bool = False) -> Any:
    unet_config = _unet_config(config["unet"])
    names = comfy.utils.unet_to_diffusers(unet_config)
    weights = {names.get(key, key): value for key, value in states["unet"].items()}
    model_config = comfy.supported_models.SD20(unet_config)
    model_config.set_inference_dtype(torch.float32, None)
    device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    kind = ModelType.V_PREDICTION if config["scheduler"]["prediction_type"] == "v_prediction" else ModelType.EPS
    model = comfy.model_base.BaseModel(model_config, model_type=kind, device=offload_device)
    check_complete(folder, "unet", weights, model.diffusion_model.state_dict())
    # Hosts before 0.20 have one class of patchers.
    host_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = (comfy.model_patcher.ModelPatcher if disable_dynamic else host_class)(model, device, offload_device)
    dynamic = getattr(patcher, "is_dynamic", bool)()
    model.load_model_weights(weights, "", **({"assign": True} if dynamic else {}))
    return patcher


def _unet_config(config: Config) -> dict[str, Any]:
    """What ComfyUI would detect of a SD 2.x checkpoint with this diffusers configuration."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    depths = [int(kind.startswith("CrossAttn")) for kind in config["down_block_types"]]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config["use_linear_projection"],
        "context_dim": config["cross_attention_dim"],
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "legacy": False,
    }


@_plain_layers()
def _clip(folder: Path, config: Config, states: dict[str, State], disable_dynamic: bool = False) -> Any:
    config, state = config["text_encoder"], _with_idle_layer(config["text_encoder"], states["text_encoder"])
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "hidden_act", "max_position_embeddings")
    text_config = {
        **{name: config[name] for name in names},
        "num_hidden_layers": config["num_hidden_layers"] + 1,
        "eos_token_id": config["eos_token_id"],
    }
    clip = comfy.sd.CLIP(
        ClipTarget(SD2Tokenizer, SD2ClipModel),
        embedding_directory=[str(folder) for folder in embeddings_folders()],
        parameters=sum(weight.numel() for weight in state.values()),
        model_options={"clip_h_model_config": text_config, "dtype": torch.float32},
        **({"disable_dynamic": True} if disable_dynamic else {}),
    )
    check_complete(folder, "text_encoder", state, clip.cond_stage_model.clip_h.transformer.state_dict())
    clip.load_sd(state)
    # SD2Tokenizer fixes the width that it accepts for `embedding:NAME` at 1024, with no option for it.
    clip.tokenizer.clip_h.embedding_size = config["hidden_size"]
    return clip


def _with_idle_layer(config: Config, state: State) -> State:
    """ComfyUI takes SD 2.x's context one layer before the last, so one that is never heard comes at the end."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    block = f"text_model.encoder.layers.{config['num_hidden_layers']}"
    idle: State = {"text_projection.weight": torch.eye(width)}
    for norm in ("layer_norm1", "layer_norm2"):
        idle |= {f"{block}.{norm}.weight": torch.ones(width), f"{block}.{norm}.bias": torch.zeros(width)}
    linears = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for name, shape in linears.items():
        idle |= {f"{block}.{name}.weight": torch.zeros(shape), f"{block}.{name}.bias": torch.zeros(shape[0])}
    return {key: value for key, value in state.items() if not key.endswith("position_ids")} | idle


@_plain_layers()
def _vae(folder: Path, config: Config, states: dict[str, State]) -> Any:
    config = config["vae"]
    widths = config["block_out_channels"]
    params = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    whole = {"params": {"ddconfig": params, "embed_dim": config["latent_channels"]}}
    weights = convert_vae_state_dict(states["vae"])
    vae = comfy.sd.VAE(sd=weights, config=whole, dtype=torch.float32)
    check_complete(folder, "vae", weights, vae.first_stage_model.state_dict())  # pyright: ignore[reportOptionalMemberAccess]
    return vae


def _show_true_colours(model: Any, vae: Any) -> None:
    """Fit the colours with which ComfyUI previews latents: those of SD's VAE would be wrong here."""
    person, format_ = random_identity(np.random.Generator(np.random.PCG64(0))), model.model.latent_format
    pictures = torch.from_numpy(np.stack([portrait(person, seed) for seed in range(4)])).float() / 255
    latents = format_.process_in(vae.encode(pictures)).movedim(1, -1).reshape(-1, 4).cpu()
    colours = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 8).movedim(1, -1).reshape(-1, 3) * 2 - 1
    fit = torch.linalg.lstsq(torch.cat([latents, torch.ones(len(latents), 1)], dim=1), colours).solution
    format_.latent_rgb_factors, format_.latent_rgb_factors_bias = fit[:4].tolist(), fit[4].tolist()


def _model_again(folder: Path, disable_dynamic: bool = False) -> Any:
    return _model(folder, read_config(folder), read_states(folder), disable_dynamic)


def _clip_again(folder: Path, disable_dynamic: bool = False) -> Any:
    return _clip(folder, read_config(folder), read_states(folder), disable_dynamic).patcher
