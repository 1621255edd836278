"""Stand-in models of the SDXL family: checkpoints of each kind that ComfyUI tells apart, a ControlNet and a LoRA.

As in files.py, text encoders and VAE have their real sizes, and the UNet has every block of the real one, the ten
transformer blocks of its deepest level included, but each level is 320 channels wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from .files import write_standin
from .unets import UNetShape, controlnet_entries, lora_pair, lora_text_entries, unet_entries
from .weights import (
    CLIP_G_TEXT,
    CLIP_L_TEXT,
    SDXL_LATENT_SCALE,
    Entry,
    clip_l_entries,
    openclip_g_entries,
    prefixed,
    vae_entries,
)

CONTEXT_DIM = 768 + 1280
EXTRA_DIM = 1280 + 6 * 256
"""Pooled output, and six numbers about sizes, as 256 sinusoidal channels each."""


def _narrow(
    depths: tuple[int, ...], middle_depth: int, output_depths: tuple[int, ...] = (), in_channels: int = 4
) -> UNetShape:
    return UNetShape(
        context_dim=CONTEXT_DIM,
        linear_projection=True,
        channel_mult=(1, 1, 1),
        depths=depths,
        output_depths=output_depths,
        middle_depth=middle_depth,
        in_channels=in_channels,
        extra_dim=EXTRA_DIM,
    )


# ComfyUI tells the members of the family apart by the depths of the input half (comfy/supported_models.py). The other depths
# are those of the real models (unet_config_from_diffusers_unet in comfy/model_detection.py).
SDXL_UNET = _narrow((0, 2, 10), 10)
SDXL_INPAINT_UNET = _narrow((0, 2, 10), 10, in_channels=9)
SSD1B_UNET = _narrow((0, 2, 4), -1, (0, 0, 0, 1, 1, 2, 10, 4, 4))
VEGA_UNET = _narrow((0, 1, 2), -1, (0, 0, 0, 1, 1, 1, 2, 2, 2))
SHALLOW_SDXL_UNET = _narrow((0, 2, 10), 1, (0, 0, 0, 1, 1, 1, 1, 1, 1))
"""The least that ComfyUI takes for SDXL; for tests of the layout."""

REFINER_UNET = UNetShape(
    context_dim=1280,
    linear_projection=True,
    model_channels=384,
    depths=(0, 4, 4, 0),
    middle_depth=4,
    extra_dim=1280 + 5 * 256,
)


def make_sdxl_checkpoint(
    path: Path | str,
    *,
    seed: int = 0,
    prediction: Literal["epsilon", "v"] = "epsilon",
    zero_terminal_snr: bool = False,
    unet: UNetShape = SDXL_UNET,
    text: bool = True,
    vae: bool = True,
    vae_gain: float = 1.0,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a SDXL checkpoint with random weights: 2.3 GB in float16; return its path.

    `unet` makes it another member of the family: SDXL_INPAINT_UNET, SSD1B_UNET, VEGA_UNET. Without `text` and `vae` the file
    is the UNet alone: 0.6 GB, or 0.3 GB with SHALLOW_SDXL_UNET. At a `vae_gain` of 5e4 the VAE's encoder overflows in float16.

    Raises ValueError for an unknown `prediction`, for zero terminal SNR without "v", which ComfyUI does not read, and for a
    path that does not end in .safetensors.
    """
    if prediction not in ("epsilon", "v"):
        raise ValueError(f'prediction is {prediction!r}; expected "epsilon" or "v"')
    if zero_terminal_snr and prediction != "v":
        raise ValueError('zero_terminal_snr needs prediction "v"; ComfyUI reads it from no other file')
    entries = list(prefixed("model.diffusion_model.", unet_entries(unet)))
    if prediction == "v":
        # ComfyUI tells both by these keys alone (SDXL.model_type in comfy/supported_models.py).
        entries += [Entry("v_pred", (0,))] + [Entry("ztsnr", (0,))] * zero_terminal_snr
    if vae:
        entries += prefixed("first_stage_model.", vae_entries(SDXL_LATENT_SCALE, vae_gain))
    if text:
        entries += prefixed("conditioner.embedders.0.transformer.text_model.", clip_l_entries())
        entries += prefixed("conditioner.embedders.1.model.", openclip_g_entries())
    return write_standin(path, entries, seed, dtype)


def make_sdxl_refiner(
    path: Path | str, *, seed: int = 0, text: bool = True, vae: bool = True, dtype: torch.dtype = torch.float16
) -> Path:
    """Write a SDXL refiner with random weights: 2.1 GB in float16, or 0.6 GB without `text` and `vae`; return its path.

    Raises ValueError for a path that does not end in .safetensors.
    """
    entries = list(prefixed("model.diffusion_model.", unet_entries(REFINER_UNET)))
    if vae:
        entries += prefixed("first_stage_model.", vae_entries(SDXL_LATENT_SCALE))
    if text:
        entries += prefixed("conditioner.embedders.0.model.", openclip_g_entries())
    return write_standin(path, entries, seed, dtype)


def make_sdxl_controlnet(
    path: Path | str, *, seed: int = 0, gain: float = 0.25, dtype: torch.dtype = torch.float16
) -> Path:
    """Write a SDXL ControlNet whose random weights visibly steer the stand-in checkpoint; return its path.

    With `gain` 0 it is one at the start of its training, which steers nothing.

    Raises ValueError for a path that does not end in .safetensors.
    """
    return write_standin(path, prefixed("control_model.", controlnet_entries(SDXL_UNET, gain)), seed, dtype)


def make_sdxl_lora(
    path: Path | str,
    *,
    seed: int = 0,
    rank: int = 4,
    unet: UNetShape = SDXL_UNET,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a SDXL LoRA, over the UNet's attention and both text encoders, that visibly changes the picture; return its path.

    Raises ValueError for a path that does not end in .safetensors.
    """
    return write_standin(path, _lora_entries(unet, rank, strength), seed, dtype)


def _lora_entries(unet: UNetShape, rank: int, strength: float) -> Iterator[Entry]:
    """Layout in kohya's key names, which for SDXL's UNet are those of the checkpoint with underscores."""
    for entry in unet_entries(unet):
        layer = entry.key.removesuffix(".weight")
        if ".attn" in layer and layer != entry.key:
            outer, inner = entry.shape
            yield from lora_pair(f"lora_unet_{layer.replace('.', '_')}", outer, inner, rank, 0.5 * strength)
    yield from lora_text_entries("lora_te1", 768, CLIP_L_TEXT, rank, strength)
    yield from lora_text_entries("lora_te2", 1280, CLIP_G_TEXT, rank, strength)
