"""MODELs of the SDXL family as ComfyUI's own loader makes them: the layouts of real checkpoints, with narrow UNets.

The layouts are those of `unet_config_from_diffusers_unet` in comfy/model_detection.py, but every level has as many channels
as the first one, by which the loader does not go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_DEPTHS: dict[str, tuple[int, list[int], list[int], int]] = {
    "SDXL": (2, [0, 0, 2, 2, 10, 10], [0, 0, 0, 2, 2, 2, 10, 10, 10], 10),
    "SSD-1B": (2, [0, 0, 2, 2, 4, 4], [0, 0, 0, 1, 1, 2, 10, 4, 4], -1),
    "Segmind-Vega": (2, [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2], -1),
    "KOALA-700M": (1, [0, 2, 5], [0, 0, 2, 2, 5, 5], -2),
    "KOALA-1B": (1, [0, 2, 6], [0, 0, 2, 2, 6, 6], 6),
    "refiner": (2, [0, 0, 4, 4, 4, 4, 0, 0], [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0], 4),
}
"""Residual blocks of a level, transformer blocks on the way down, on the way up, and in the middle."""


def unet_state(layout: str, channels: int = 4, seed: int | None = None) -> dict[str, Tensor]:
    """The weights of a UNet: random float32 ones, or, without a seed, float16 zeros that take no memory."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    blocks, down, up, middle = _DEPTHS[layout]
    refiner = layout == "refiner"
    unet = UNetModel(
        image_size=32,
        in_channels=channels,
        out_channels=4,
        model_channels=384 if refiner else 320,
        num_res_blocks=[blocks] * (len(down) // blocks),
        channel_mult=[1] * (len(down) // blocks),
        transformer_depth=list(down),
        transformer_depth_output=list(up),
        transformer_depth_middle=middle,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        context_dim=1280 if refiner else 2048,
        num_classes="sequential",
        adm_in_channels=2560 if refiner else 2816,
        num_head_channels=64,
        num_heads=-1,
        legacy=False,
        dtype=torch.float32,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    shapes = {name: weight.shape for name, weight in unet.state_dict().items()}
    if seed is None:
        return {name: torch.zeros(1, dtype=torch.float16).expand(shape) for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.02 + float(len(shape) == 1 and name.endswith("weight"))
        for name, shape in shapes.items()
    }


def load_model(state: dict[str, Tensor], keys: Sequence[str] = (), **options: Any) -> Any:
    """MODEL, as Load Checkpoint gives it. `keys` are further ones of the file, by which ComfyUI knows what it predicts."""
    import comfy.sd

    checkpoint = {f"model.diffusion_model.{name}": weight for name, weight in state.items()}
    checkpoint |= {key: torch.ones(1) for key in keys}
    return comfy.sd.load_state_dict_guess_config(checkpoint, output_vae=False, output_clip=False, **options)[0]


def full_width_clip() -> Any:
    """CLIP of SDXL at its own widths, 768 and 1280, with three layers of random weights each."""
    import comfy.sd
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    options = {f"{name}_model_config": {"num_hidden_layers": 3} for name in ("clip_l", "clip_g")}
    target = ClipTarget(SDXLTokenizer, SDXLClipModel)
    clip = comfy.sd.CLIP(target, embedding_directory=[], model_options={**options, "dtype": torch.float32})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in clip.cond_stage_model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            weight.data = torch.randn(weight.shape, generator=generator).mul_(0.02).add_(float(is_norm))
    return clip
