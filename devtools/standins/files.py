"""Stand-in models: files with random weights that ComfyUI's stock loaders recognise.

The demo and the tests need a checkpoint, a ControlNet and a LoRA on machines that have no model weights.
Text encoder and VAE have their real sizes; the UNet has every block of the real one, the three downsamplings
included, but each level is 320 channels wide. So block numbers, latent sizes and key names mean what they
mean in a real file, and a training step at 128 px takes a second or two on two CPU cores.

Which weights they have is in unets.py and weights.py. Files of the SDXL family are in sdxl.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from .unets import SD1_UNET, SD2_UNET, V_PREDICTION_KEY, UNetShape, controlnet_entries, lora_entries, unet_entries
from .weights import SD2_TEXT, Entry, TextShape, clip_l_entries, openclip_h_entries, prefixed, vae_entries


def _sampled(entry: Entry, seed: int, dtype: torch.dtype) -> torch.Tensor:
    weight = torch.zeros(entry.shape)
    if entry.std:
        # A generator for each key, so that a weight depends on nothing but its key, shape and the seed.
        digest = hashlib.sha256(f"{seed}:{entry.key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        weight.normal_(0.0, entry.std, generator=generator)
    return (weight + entry.mean).to(dtype)


def write_standin(path: Path | str, entries: Iterable[Entry], seed: int, dtype: torch.dtype) -> Path:
    """Write these weights, drawn with the seed, as a file; return its path.

    Raises ValueError for a path that does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {entry.key: _sampled(entry, seed, dtype) for entry in entries}
    # An interrupted run must not leave half a checkpoint where ComfyUI lists it.
    partial = path.with_suffix(".partial")
    try:
        # One entry of metadata at most: with two, their order, and so the file's hash, differs between runs.
        save_file(state, partial, {"crossinit.standin": f"random weights, seed {seed}"})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def make_sd2_checkpoint(
    path: Path | str,
    *,
    seed: int = 0,
    prediction: Literal["epsilon", "v"] = "epsilon",
    unet: UNetShape = SD2_UNET,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a SD 2.1 checkpoint with random weights: 552 M parameters, 1.1 GB in float16; return its path.

    float16 halves the file and loses nothing: ComfyUI keeps text encoders in float16 anyway and widens
    UNet and VAE to float32 on the CPU.

    Raises ValueError for an unknown `prediction`, for "v" with a `unet` in which ComfyUI could not see it,
    and for a path that does not end in .safetensors.
    """
    if prediction not in ("epsilon", "v"):
        raise ValueError(f'prediction is {prediction!r}; expected "epsilon" or "v"')
    unet_table = list(unet_entries(unet))
    if prediction == "v":
        keys = [entry.key for entry in unet_table]
        if V_PREDICTION_KEY not in keys:
            raise ValueError(
                f"this UNet has no {V_PREDICTION_KEY}, by which ComfyUI tells v-prediction; "
                "choose channel_mult and num_res_blocks so that there are twelve output blocks"
            )
        index = keys.index(V_PREDICTION_KEY)
        unet_table[index] = unet_table[index]._replace(std=0.2)
    entries = [
        *prefixed("model.diffusion_model.", unet_table),
        *prefixed("first_stage_model.", vae_entries()),
        *prefixed("cond_stage_model.model.", openclip_h_entries()),
    ]
    return write_standin(path, entries, seed, dtype)


def make_sd1_checkpoint(
    path: Path | str, *, seed: int = 0, unet: UNetShape = SD1_UNET, dtype: torch.dtype = torch.float16
) -> Path:
    """Write a SD 1.5 checkpoint with random weights: 318 M parameters, 0.6 GB in float16; return its path.

    Raises ValueError for a path that does not end in .safetensors.
    """
    entries = [
        *prefixed("model.diffusion_model.", unet_entries(unet)),
        *prefixed("first_stage_model.", vae_entries()),
        *prefixed("cond_stage_model.transformer.text_model.", clip_l_entries()),
    ]
    return write_standin(path, entries, seed, dtype)


def make_sd2_controlnet(
    path: Path | str,
    *,
    seed: int = 0,
    unet: UNetShape = SD2_UNET,
    gain: float = 0.25,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a SD 2.1 ControlNet whose random weights visibly steer the stand-in checkpoint; return its path.

    With `gain` 0 it is one at the start of its training, which steers nothing. ComfyUI only warns about control outputs
    that do not fit the UNet, and samples without them: use the same `unet` as for the checkpoint.

    Raises ValueError for a path that does not end in .safetensors.
    """
    return write_standin(path, prefixed("control_model.", controlnet_entries(unet, gain)), seed, dtype)


def make_lora(
    path: Path | str,
    *,
    seed: int = 0,
    rank: int = 4,
    unet: UNetShape = SD2_UNET,
    text: TextShape = SD2_TEXT,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a SD 2.x LoRA with random weights that visibly change text and picture; return its path.

    Raises ValueError for a path that does not end in .safetensors.
    """
    return write_standin(path, lora_entries(unet, rank, text, strength), seed, dtype)
