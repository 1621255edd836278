"""A checkpoint of SDXL's full size with random weights, which are made on the GPU if there is one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTHS, LAYERS = (768, 1280), (12, 32)
"""Of the two text encoders."""


def make_sdxl_checkpoint(path: Path, small: bool = False, uneven: bool = False) -> None:
    """Write it where `path` says; 3.5 G parameters, 6.9 GB in float16. If `small`, no level of the UNet is wider than the first.

    If `uneven`, one channel in a hundred of what flows in the UNet's transformer blocks is 300 times as large, while the whole
    computes the same: what makes a number large is undone by the layer behind it, as in trained models. Needs ComfyUI started, see `host.start`: the UNet's layers are those of its class.
    """
    import torch
    from safetensors.torch import save_file

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = {key: _drawn(entry, device) for key, entry in _entries(small)}
    if uneven:
        make_uneven(state)
    save_file(state, path)


LARGE, ONE_IN = 300.0, 100
NORMS_AND_READERS = {
    "norm1": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "norm2": ("attn2.to_q",),
    "norm3": ("ff.net.0.proj",),
}
VALUES_AND_OUTPUTS = {"attn1.to_v": "attn1.to_out.0", "attn2.to_v": "attn2.to_out.0", "ff.net.0.proj": "ff.net.2"}


def make_uneven(state: dict[str, Any]) -> None:
    """Rescale a UNet's weights in place, in ComfyUI's names: norms and values of some channels up, the next layers down."""
    blocks = {
        key[: -len("norm1.weight")] for key in state if key.endswith("norm1.weight") and "transformer_blocks" in key
    }
    for block in blocks:
        width = len(state[f"{block}norm1.weight"])
        for place, (norm, readers) in enumerate(NORMS_AND_READERS.items()):
            channels = slice(7 * place, width, ONE_IN)
            for part in ("weight", "bias"):
                state[f"{block}{norm}.{part}"][channels] *= LARGE
            for reader in readers:
                state[f"{block}{reader}.weight"][:, channels] /= LARGE
        for values, output in VALUES_AND_OUTPUTS.items():
            # Of the feed-forward part the first half is what is gated, and as wide as what `output` reads.
            channels = slice(3, state[f"{block}{output}.weight"].shape[1], ONE_IN)
            for part in ("weight", "bias"):
                if f"{block}{values}.{part}" in state:
                    state[f"{block}{values}.{part}"][channels] *= LARGE
            state[f"{block}{output}.weight"][:, channels] /= LARGE


def _entries(small: bool) -> Iterator[tuple[str, Any]]:
    from devtools.standins.weights import Entry, clip_l_entries, prefixed, vae_entries

    for key, shape in _unet_layout(small):
        yield key, Entry(key, shape, *_scales(key, shape))
    others = [
        *prefixed("first_stage_model.", vae_entries()),
        *prefixed("conditioner.embedders.0.transformer.text_model.", clip_l_entries()),
        *prefixed("conditioner.embedders.1.model.", _openclip_g_entries()),
    ]
    yield from ((entry.key, entry) for entry in others)


def _unet_layout(small: bool) -> list[tuple[str, tuple[int, ...]]]:
    import comfy.memory_management
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    # With dynamic video memory layers have no weights until they are loaded.
    dynamic = getattr(comfy.memory_management, "aimdo_enabled", False)
    comfy.memory_management.aimdo_enabled = False
    try:
        unet = UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            channel_mult=(1, 1, 1) if small else (1, 2, 4),
            num_res_blocks=[2, 2, 2],
            transformer_depth=[0, 0, 2, 2, 10, 10],
            transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
            transformer_depth_middle=10,
            num_head_channels=64,
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            context_dim=2048,
            num_classes="sequential",
            adm_in_channels=2816,
            dtype=torch.float32,
            device="meta",
            operations=comfy.ops.disable_weight_init,
        )
    finally:
        comfy.memory_management.aimdo_enabled = dynamic
    return [(f"model.diffusion_model.{key}", tuple(weight.shape)) for key, weight in unet.state_dict().items()]


def _scales(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation, as in devtools.standins: a layer keeps the size of its input, a norm has weights of 1."""
    if len(shape) == 1:
        return (1.0 if key.endswith("weight") else 0.0), 0.0
    sharp = "attn2.to_q" in key or "attn2.to_out" in key
    return 0.0, (1.5 if sharp else 1.0) / math.sqrt(math.prod(shape[1:]))


def _openclip_g_entries() -> Iterator[Any]:
    from devtools.standins.weights import VOCABULARY, Entry, layer_entries, norm_entries, text_scales

    width, layers = WIDTHS[1], LAYERS[1]
    token_std, attention, mlp = text_scales(width, layers)
    yield Entry("positional_embedding", (77, width), std=token_std / 2)
    yield Entry("text_projection", (width, width), std=1 / math.sqrt(width))
    yield Entry("logit_scale", (), mean=math.log(100))
    yield Entry("token_embedding.weight", (VOCABULARY, width), std=token_std)
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}"
        yield from norm_entries(f"{block}.ln_1", width)
        yield Entry(f"{block}.attn.in_proj_weight", (3 * width, width), std=1 / math.sqrt(width))
        yield Entry(f"{block}.attn.in_proj_bias", (3 * width,))
        yield from layer_entries(f"{block}.attn.out_proj", width, width, gain=attention)
        yield from norm_entries(f"{block}.ln_2", width)
        yield from layer_entries(f"{block}.mlp.c_fc", 4 * width, width)
        yield from layer_entries(f"{block}.mlp.c_proj", width, 4 * width, gain=mlp)
    yield from norm_entries("ln_final", width)


def _drawn(entry: Any, device: Any) -> Any:
    import torch

    weight = torch.zeros(entry.shape, device=device)
    if entry.std:
        seed = int.from_bytes(hashlib.sha256(entry.key.encode()).digest()[:7], "big")
        weight.normal_(0.0, entry.std, generator=torch.Generator(device).manual_seed(seed))
    mean = entry.mean.to(device) if isinstance(entry.mean, torch.Tensor) else entry.mean
    return (weight + mean).half().cpu()
