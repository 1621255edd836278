"""Which blocks of ComfyUI's UNet the core's fused ones can take the place of, and which layers they have.

Only blocks of the Stable Diffusion 1.x, 2.x and XL kind are replaced; `crossinit_core.models.unet_blocks` has their mathematics.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from comfy.ldm.modules.attention import GEGLU, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, Upsample
from torch import Tensor, nn

from ...crossinit_core.gpu.kernels import Kernels
from ...crossinit_core.gpu.kernels.enlargement import can_be_folded
from ...crossinit_core.gpu.kernels.frozen_layers import can_convolve
from ...crossinit_core.models.fusing import FusedBlock, fuse
from ...crossinit_core.models.unet_blocks import (
    ResidualLayers,
    SpatialLayers,
    norm_silu_conv,
    residual_block,
    spatial_transformer,
    transformer_layers,
    upsample,
)


def fuse_blocks(
    unet: Any, kernels: Kernels, options: dict[str, Any], *, checkpointing: bool = False
) -> list[nn.Module]:
    """Replace the forward of what can be fused in a private UNet; the modules that were changed, see `fuse`.

    `options` are the transformer options of ComfyUI's own blocks, for the comparison; `checkpointing` is that of
    `spatial_transformer`.
    """
    return fuse(unet, _blocks(unet, kernels, options, checkpointing), kernels, host="ComfyUI")


def _blocks(unet: Any, kernels: Kernels, options: dict[str, Any], checkpointing: bool = False) -> Iterator[FusedBlock]:
    learns_embedding = getattr(unet, "num_classes", None) is not None
    for module in unet.modules():
        if module is unet.out and _is_norm_silu_conv(module):
            yield _norm_silu_conv(module, kernels)
        elif isinstance(module, Upsample) and can_convolve(getattr(module, "conv", None)):
            yield _upsample(module, kernels)
        elif isinstance(module, ResBlock) and _is_plain_residual(module):
            yield _residual(module, kernels, learns_embedding)
        elif isinstance(module, SpatialTransformer) and all(map(_is_plain_transformer, module.transformer_blocks)):
            yield _spatial(module, kernels, options, checkpointing)


def _norm_silu_conv(layers: Any, kernels: Kernels) -> FusedBlock:
    norm, _, conv = layers
    fused = norm_silu_conv(norm, conv, kernels)
    return FusedBlock(_kind(layers), conv.weight, layers.forward, fused, [(layers, fused)], conv.in_channels)


def _upsample(block: Any, kernels: Kernels) -> FusedBlock:
    conv = block.conv
    fused = upsample(conv, kernels)

    def forward(x: Tensor, output_shape: Any = None) -> Tensor:
        return fused(x, None if output_shape is None else output_shape[2:])

    return FusedBlock(
        kind=_kind(block),
        weight=conv.weight,
        own=block.forward,
        fused=fused,
        forwards=[(block, forward)],
        channels=block.channels,
        folded=conv if can_be_folded(conv) else None,
    )


def _residual(block: Any, kernels: Kernels, learns_embedding: bool) -> FusedBlock:
    layers = ResidualLayers(
        norm_in=block.in_layers[0],
        conv_in=block.in_layers[-1],
        embed=block.emb_layers[1],
        norm_out=block.out_layers[0],
        conv_out=block.out_layers[-1],
        skip=block.skip_connection if isinstance(block.skip_connection, nn.Conv2d) else None,
    )
    fused = residual_block(layers, kernels)
    return FusedBlock(
        kind=_kind(block),
        weight=layers.conv_in.weight,
        own=block.forward,
        fused=fused,
        forwards=[(block, fused)],
        channels=block.channels,
        embedding=block.emb_channels,
        learns_embedding=learns_embedding and layers.feels_embedding,
    )


def _spatial(block: Any, kernels: Kernels, options: dict[str, Any], checkpointing: bool) -> FusedBlock:
    own = block.forward
    layers = SpatialLayers(
        block.norm, block.proj_in, [*map(transformer_layers, block.transformer_blocks)], block.proj_out
    )
    fused = spatial_transformer(layers, kernels, checkpointing=checkpointing)

    def forward(x: Tensor, context: Tensor, transformer_options: Any = None) -> Tensor:
        return fused(x, context)

    return FusedBlock(
        kind=(len(layers.blocks) > 1, *_kind(block)),
        weight=block.norm.weight,
        own=lambda x, context: own(x, context, dict(options)),
        fused=fused,
        forwards=[(block, forward)],
        channels=block.in_channels,
        odd=len(layers.blocks) > 1,
        context=layers.blocks[0].cross.to_k.weight.shape[1],
    )


def _kind(module: Any) -> tuple[Hashable, ...]:
    parameter, own = next(module.parameters()), type(module)
    parts = (module, getattr(module, "skip_connection", None), getattr(module, "proj_in", None))
    return (*map(type, parts), own.forward, getattr(own, "_forward", None), parameter.dtype, parameter.device)


def _is_plain_residual(block: Any) -> bool:
    return (
        not (block.updown or block.use_scale_shift_norm or block.exchange_temb_dims or block.skip_t_emb)
        and _is_norm_silu_conv(block.in_layers)
        and _is_norm_silu_conv(nn.Sequential(*block.out_layers[:2], block.out_layers[-1]))
        and [type(part) for part in block.emb_layers][:1] == [nn.SiLU]
        and (isinstance(block.skip_connection, nn.Identity) or can_convolve(block.skip_connection))
    )


def _is_norm_silu_conv(layers: Any) -> bool:
    return (
        len(layers) == 3
        and isinstance(layers[0], nn.GroupNorm)
        and isinstance(layers[1], nn.SiLU)
        and can_convolve(layers[2])
    )


def _is_plain_transformer(block: Any) -> bool:
    return (
        not (block.ff_in or block.disable_self_attn or block.switch_temporal_ca_to_sa)
        and block.attn2 is not None
        and block.is_res
        and isinstance(block.ff.net[0], GEGLU)
    )
