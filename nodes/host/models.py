"""What a MODEL, CLIP or VAE of the graph is: recognised, described, and refused by name if it cannot learn."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.model_base
import comfy.model_sampling
import comfy.sdxl_clip
import comfy.supported_models
import torch

from ...crossinit_core.backbone import PredictionType
from ...crossinit_core.families import (
    TIMESTEPS,
    UNCLIP,
    describe_widths,
    for_inpainting,
    other_family,
    shown_widths,
    special_version,
)
from ...crossinit_core.models.added_conditions import SIZES
from ...crossinit_core.models.distilled import distilled_kind, distilled_warning
from ...crossinit_core.text import quoted

ENCODERS = {("clip_h",): "sd2", ("clip_l",): "sd1", ("clip_l", "clip_g"): "sdxl"}
"""The text encoders' attributes on ComfyUI's CLIP, in the order of a vector's columns -> our name of the base."""

FAMILY = {
    "sd1": comfy.supported_models.SD15,
    "sd2": comfy.supported_models.SD20,
    "sdxl": comfy.supported_models.SDXL,
}

SIZE_CHANNELS = 256
"""Channels of sinusoids for each of the sizes that SDXL's UNet gets beside the pooled output (`SDXL.embedder` and `encode_adm` in
comfy/model_base.py)."""

ORIGIN = "crossinit_origin"
"""The attachment of a ModelPatcher that holds its `Origin`."""

_NAMES = {
    "SD15": "SD 1.x",
    "SD20": "SD 2.x",
    "SD15_instructpix2pix": "SD 1.x",
    "SD_X4Upscaler": "the SD 2.x upscaler",
    "SDXL_instructpix2pix": "SDXL",
    "SDXLRefiner": "the SDXL refiner",
    "SSD1B": "SSD-1B",
    "Segmind_Vega": "Segmind-Vega",
    "KOALA_700M": "KOALA-700M",
    "KOALA_1B": "KOALA-1B",
}
"""ComfyUI's classes of models (comfy/supported_models.py) under the names that people know."""

_FAMILIES = "SDXL, SD 2.x or SD 1.x"
_USE_INSTEAD = f"Load a checkpoint of {_FAMILIES} (for example sd_xl_base_1.0.safetensors)."
_BOTH_ENCODERS = (
    "SDXL needs both, clip_l and clip_g. Connect CLIP of an SDXL base checkpoint, or of a DualCLIPLoader of type sdxl."
)
_PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Origin:
    """Where a model is from that no core loader read: the checkpoint's name, and the size of its pictures in pixels."""

    checkpoint: str
    resolution: int


def encoder_names(clip: Any) -> tuple[str, ...]:
    """The attributes of CLIP's text encoders: `clip_h` (SD 2.x), `clip_l` (SD 1.x), `clip_l` and `clip_g` (SDXL).

    They are in the order of a vector's columns. Raises ValueError that names any other CLIP.
    """
    if clip is None:
        raise ValueError("CLIP is empty: the checkpoint has no text encoder. Load it with a CLIP loader.")
    stage = clip.cond_stage_model
    # Some families keep a place for an encoder that they were loaded without.
    names = tuple(name for name in ("clip_h", "clip_l", "clip_g") if getattr(stage, name, None) is not None)
    alone = names == (f"clip_{getattr(stage, 'clip_name', None)}",)
    if names in ENCODERS and (alone or isinstance(stage, comfy.sdxl_clip.SDXLClipModel)):
        encoders = [getattr(getattr(stage, name), "transformer", None) for name in names]
        if all(isinstance(encoder, comfy.clip_model.CLIPTextModel) for encoder in encoders):
            return names
    if isinstance(stage, comfy.sdxl_clip.SDXLRefinerClipModel):
        raise ValueError(f"CLIP has clip_g alone, as the SDXL refiner has. {_BOTH_ENCODERS}")
    kind = re.sub(r"(Clip|TE)?Model_?$", "", type(stage).__name__)
    raise ValueError(f"CLIP is of {quoted(kind, 60)}, but this needs one of {_FAMILIES}. {_USE_INSTEAD}")


def clip_widths(clip: Any) -> tuple[int, ...]:
    """The widths of a CLIP's text encoders: (768,) on SD 1.x, (1024,) on SD 2.x, (768, 1280) on SDXL."""
    encoders = [getattr(clip.cond_stage_model, name).transformer for name in encoder_names(clip)]
    return tuple(encoder.get_input_embeddings().weight.shape[1] for encoder in encoders)


def describe_model(model: Any) -> str:
    """What a MODEL is, for people: `SDXL`, `SSD-1B`, `SD 2.x for inpainting or editing (..)`, `Flux` .."""
    config, unet = model.model.model_config, getattr(model.model, "diffusion_model", None)
    name = type(config).__name__
    if "Unclip" in name:
        return UNCLIP
    family, channels = _NAMES.get(name, name), getattr(unet, "in_channels", 4)
    known = isinstance(config, tuple(FAMILY.values())) and "pscaler" not in name
    return f"{family} {for_inpainting(channels)}" if known and channels != 4 else family


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
    names, widths = encoder_names(clip), clip_widths(clip)
    if not isinstance(inner.model_config, tuple(FAMILY.values())):
        raise ValueError(f"MODEL {other_family(found)}. {_USE_INSTEAD}")
    is_sdxl = isinstance(inner.model_config, FAMILY["sdxl"])
    if inner.diffusion_model.in_channels != 4 or not (_gets_sizes(inner) if is_sdxl else _gets_text_alone(inner)):
        raise ValueError(f"MODEL {special_version(found)}. {_USE_INSTEAD}")
    context = inner.model_config.unet_config["context_dim"]
    if context != sum(widths) or not isinstance(inner.model_config, FAMILY[ENCODERS[names]]):
        if is_sdxl and names == ("clip_l",):
            raise ValueError(f"MODEL is {found}, but CLIP has clip_l alone. {_BOTH_ENCODERS}")
        raise ValueError(
            f"MODEL is {found} and attends to width {context}, but CLIP has width {shown_widths(widths)} "
            f"({describe_widths(widths)}). Connect MODEL and CLIP of the same checkpoint."
        )
    if is_sdxl and inner.adm_channels != widths[-1] + SIZES * SIZE_CHANNELS:
        raise ValueError(f"MODEL {special_version(found)}. {_USE_INSTEAD}")
    _check_plain_weights(model, "diffusion_model.", "MODEL")
    for name in names:
        _check_plain_weights(clip.patcher, f"{name}.", "CLIP")
    for patcher, socket in ((model, "MODEL"), (clip.patcher, "CLIP")):
        if any("lora" in key for key in getattr(patcher, "injections", {})):
            raise ValueError(
                f"{socket} carries a LoRA in bypass mode. Use the ordinary Load LoRA node before learning."
            )


def _gets_text_alone(inner: Any) -> bool:
    """Whether the UNet gets nothing beside the context, as those of SD 1.x and 2.x."""
    return not inner.adm_channels and getattr(inner.diffusion_model, "num_classes", None) is None


def _gets_sizes(inner: Any) -> bool:
    """Whether the UNet gets the pooled output and sizes, as SDXL's."""
    return (
        isinstance(inner, comfy.model_base.SDXL) and getattr(inner.diffusion_model, "num_classes", None) == "sequential"
    )


def warnings_about(model: Any) -> list[str]:
    """What to expect of a MODEL that can learn, a line each. Nothing is said of most.

    The weights of a model that was distilled to few steps (Turbo, Lightning, LCM, Hyper, DMD2) have the shapes of the base
    model's: only the checkpoint's name tells.
    """
    name = checkpoint_name(model)
    kind = distilled_kind(name)
    return [distilled_warning(f"MODEL '{quoted(name, 60)}'", kind, "its name")] if kind else []


def check_vae(vae: Any) -> None:
    """Raises ValueError if a VAE does not make latents of the kind that SD 1.x, SD 2.x and SDXL share."""
    channels, factor = vae.latent_channels, vae.downscale_ratio
    if channels != 4 or factor != 8 or vae.latent_dim != 2:
        raise ValueError(
            f"VAE makes {channels} latent channels at 1/{factor} of the size, but {_FAMILIES} needs 4 at 1/8. "
            "Connect the VAE of the same checkpoint."
        )


def ignored_patches(model: Any) -> list[str]:
    """Patches of MODEL that learning does not see: attention patches, wrappers and the like, but never LoRAs."""
    options = model.model_options
    found = [name for name in ("patches", "patches_replace") if options.get("transformer_options", {}).get(name)]
    return found + [name for name in ("model_function_wrapper",) if options.get(name)]


def prediction_type(model: Any) -> PredictionType:
    """What the MODEL's sampling says that its UNet predicts; it may have zero terminal SNR.

    Raises ValueError that names any sampling but that over 1000 timesteps, which learning draws from.
    """
    sampling = model.get_model_object("model_sampling")
    how = type(sampling).calculate_denoised
    if _goes_by_timesteps(sampling):
        if how is comfy.model_sampling.V_PREDICTION.calculate_denoised:
            return "v_prediction"
        if how is comfy.model_sampling.EPS.calculate_denoised:
            return "epsilon"
    way_out = (
        "Remove the ModelSampling node before this one."
        if "model_sampling" in getattr(model, "object_patches", {})
        else f"Use a checkpoint that predicts noise or v. {_USE_INSTEAD}"
    )
    raise ValueError(f"MODEL samples in a way that learning does not know: {_kind_of_sampling(sampling)}. {way_out}")


def _goes_by_timesteps(sampling: Any) -> bool:
    """Whether level t of the noise has timestep t, for t = 0 .. 999. EDM has as many levels, and names them otherwise."""
    sigmas = getattr(sampling, "sigmas", ())
    if len(sigmas) != TIMESTEPS or getattr(sampling, "sigma_data", 1.0) != 1.0:
        return False
    return torch.equal(sampling.timestep(sigmas).long().cpu(), torch.arange(TIMESTEPS))


def _kind_of_sampling(sampling: Any) -> str:
    known = comfy.model_sampling
    if isinstance(sampling, (known.EDM, known.ModelSamplingContinuousEDM)):
        return "by EDM, as Playground 2.5 and CosXL"
    if isinstance(sampling, known.CONST):
        return "by flow matching, as SD3 and Flux"
    if len(getattr(sampling, "sigmas", ())) < TIMESTEPS:
        return "in few steps, as LCM"
    return f"by {quoted(type(sampling).calculate_denoised.__qualname__.partition('.')[0], 40)}"


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
            packed = type(weight.data) is not torch.Tensor  # which has the dtype that it stands for
            kind = type(weight.data).__name__ if packed else str(weight.dtype).removeprefix("torch.")
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
