"""What a MODEL, CLIP or VAE of the graph is: recognised, described, and refused by name if it cannot learn."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.model_sampling
import comfy.sdxl_clip
import comfy.supported_models
import torch

from ...crossinit_core.backbone import PredictionType
from ...crossinit_core.families import TIMESTEPS, UNCLIP, describe_widths, other_family, shown_widths, special_version

ENCODERS = {"clip_h": "sd2", "clip_l": "sd1"}
"""The text encoder's attribute on ComfyUI's CLIP -> our name of the base."""

FAMILY = {
    "sd1": comfy.supported_models.SD15,
    "sd2": comfy.supported_models.SD20,
    "sdxl": comfy.supported_models.SDXL,
}

ORIGIN = "crossinit_origin"
"""The attachment of a ModelPatcher that holds its `Origin`."""

_USE_INSTEAD = "Load a Stable Diffusion 2.x or 1.x checkpoint (for example v2-1_512-ema-pruned.safetensors)."
_PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Origin:
    """Where a model is from that no core loader read: the checkpoint's name, and the size of its pictures in pixels."""

    checkpoint: str
    resolution: int


def encoder_name(clip: Any) -> str:
    """`clip_h` (SD 2.x) or `clip_l` (SD 1.x). Raises ValueError that names any other CLIP."""
    if clip is None:
        raise ValueError("CLIP is empty: the checkpoint has no text encoder. Load it with a CLIP loader.")
    stage = clip.cond_stage_model
    found = [name for name in ("clip_h", "clip_l", "clip_g") if hasattr(stage, name)]
    name = getattr(stage, "clip_name", None)
    if len(found) == 1 and found[0] in ENCODERS and name in ("h", "l"):
        encoder = getattr(stage, found[0])
        if isinstance(getattr(encoder, "transformer", None), comfy.clip_model.CLIPTextModel):
            return found[0]
    kind = "SDXL" if "clip_g" in found else type(stage).__name__
    raise ValueError(f"CLIP is of {kind}, but this needs the single CLIP of SD 2.x or SD 1.x. {_USE_INSTEAD}")


def encoder_names(clip: Any) -> tuple[str, ...]:
    """The attributes of the text encoders on ComfyUI's CLIP: SDXL has two."""
    stage = getattr(clip, "cond_stage_model", None)
    if type(stage) is comfy.sdxl_clip.SDXLClipModel:
        return ("clip_l", "clip_g")
    return (encoder_name(clip),)


def clip_widths(clip: Any) -> tuple[int, ...]:
    """The widths of a CLIP's text encoders: (768,) on SD 1.x, (1024,) on SD 2.x."""
    encoders = [getattr(clip.cond_stage_model, name) for name in encoder_names(clip)]
    return tuple(encoder.transformer.get_input_embeddings().weight.shape[1] for encoder in encoders)


def describe_model(model: Any) -> str:
    """What a MODEL is, for people: `SDXL`, `SD 2.x for inpainting`, `Flux` .."""
    config, unet = model.model.model_config, getattr(model.model, "diffusion_model", None)
    name = type(config).__name__
    family = {"SD15": "SD 1.x", "SD20": "SD 2.x"}.get(name, name)
    if "Unclip" in name:
        return UNCLIP
    return f"{family} for inpainting" if getattr(unet, "in_channels", 4) == 9 else family


def check_layer(clip: Any) -> None:
    """Raises ValueError if CLIP Set Last Layer chose another layer than the model was trained with."""
    own = -1 if encoder_names(clip) == ("clip_l",) else -2
    if clip.layer_idx not in (None, own):
        raise ValueError(
            f"CLIP stops at layer {clip.layer_idx}, but {describe_widths(clip_widths(clip))} was trained with layer {own}. "
            "Remove the CLIP Set Last Layer node before this one."
        )


def check_model(model: Any, clip: Any) -> None:
    """Raises ValueError that names a MODEL which cannot learn a face, or which does not belong to the CLIP."""
    inner, found = model.model, describe_model(model)
    encoders, widths = encoder_names(clip), clip_widths(clip)
    sdxl = len(encoders) > 1
    if not isinstance(inner.model_config, tuple(FAMILY.values())):
        raise ValueError(f"MODEL {other_family(found)}. {_USE_INSTEAD}")
    unet = inner.diffusion_model
    if unet.in_channels != 4 or (not sdxl and (inner.adm_channels or getattr(unet, "num_classes", None) is not None)):
        raise ValueError(f"MODEL {special_version(found)}. {_USE_INSTEAD}")
    context = inner.model_config.unet_config["context_dim"]
    if context != sum(widths) or not isinstance(inner.model_config, FAMILY["sdxl" if sdxl else ENCODERS[encoders[0]]]):
        raise ValueError(
            f"MODEL is {found} and attends to width {context}, but CLIP has width {shown_widths(widths)} ({describe_widths(widths)}). "
            "Connect MODEL and CLIP of the same checkpoint."
        )
    _check_plain_weights(model, "diffusion_model.", "MODEL")
    for encoder in encoders:
        _check_plain_weights(clip.patcher, f"{encoder}.", "CLIP")
    for patcher, socket in ((model, "MODEL"), (clip.patcher, "CLIP")):
        if any("lora" in key for key in getattr(patcher, "injections", {})):
            raise ValueError(
                f"{socket} carries a LoRA in bypass mode. Use the ordinary Load LoRA node before learning."
            )


def check_vae(vae: Any) -> None:
    """Raises ValueError if a VAE does not make the latents of SD 1.x and 2.x."""
    channels, factor = vae.latent_channels, vae.downscale_ratio
    if channels != 4 or factor != 8 or vae.latent_dim != 2:
        raise ValueError(
            f"VAE makes {channels} latent channels at 1/{factor} of the size, but SD 1.x and 2.x need 4 at 1/8. "
            "Connect the VAE of the same checkpoint."
        )


def ignored_patches(model: Any) -> list[str]:
    """Patches of MODEL that learning does not see: attention patches, wrappers and the like, but never LoRAs."""
    options = model.model_options
    found = [name for name in ("patches", "patches_replace") if options.get("transformer_options", {}).get(name)]
    return found + [name for name in ("model_function_wrapper",) if options.get(name)]


def prediction_type(model: Any) -> PredictionType:
    sampling = model.get_model_object("model_sampling")
    how = type(sampling).calculate_denoised
    if len(getattr(sampling, "sigmas", ())) == TIMESTEPS:
        if how is comfy.model_sampling.V_PREDICTION.calculate_denoised:
            return "v_prediction"
        if how is comfy.model_sampling.EPS.calculate_denoised:
            return "epsilon"
    raise ValueError(
        "MODEL samples in a way that learning does not know (a distilled, LCM, EDM or flow model, or a ModelSampling "
        "node). Connect the MODEL straight from the checkpoint loader."
    )


def own_resolution(patcher: Any, base: str, prediction: PredictionType) -> int:
    """The size in pixels of the pictures that a model was trained on. Of SD 2.x, the 768 px one predicts v."""
    if origin := patcher.get_attachment(ORIGIN):
        return origin.resolution
    if base == "sdxl":
        return 1024
    return 768 if (base, prediction) == ("sd2", "v_prediction") else 512


def _check_plain_weights(patcher: Any, prefix: str, socket: str) -> None:
    for key, weight in patcher.model.named_parameters():
        if key.startswith(prefix) and (
            type(weight.data) is not torch.Tensor
            or (weight.is_floating_point() and weight.dtype not in _PLAIN_DTYPES)
            or not weight.is_floating_point()
        ):
            kind = str(weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"{socket} is quantized ({kind} weights), and gradients through it would be wrong. Load the checkpoint "
                "in fp16, bf16 or fp32: weight_dtype 'default', and no --fp8 start option."
            )


def checkpoint_name(patcher: Any) -> str:
    """The file stem of the checkpoint that a core loader read, or an empty string."""
    if origin := patcher.get_attachment(ORIGIN):
        return origin.checkpoint
    loaded = getattr(patcher, "cached_patcher_init", None)
    if not loaded or not inspect.isroutine(loaded[0]) or not loaded[1]:
        return ""
    path = loaded[1][0]
    if isinstance(path, (list, tuple)) and path:
        path = path[0]
    return Path(path).stem if isinstance(path, (str, Path)) else ""
