"""A private copy of a diffusers UNet whose blocks are fused, if they compute what diffusers computes.

Which blocks those are and which layers they have is said here; `unet_blocks` has their mathematics.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ..backbone import Encoded
from ..gpu.kernels import Kernels
from ..gpu.kernels.enlargement import can_be_folded
from ..gpu.kernels.frozen_layers import can_convolve, convolve
from .added_conditions import added_conditions
from .fusing import FusedBlock, checkpoint_blocks, fuse, restore
from .private_copy import private_copy
from .unet_blocks import (
    ResidualLayers,
    SpatialLayers,
    norm_silu,
    residual_block,
    spatial_transformer,
    transformer_layers,
    upsample,
)


class FusedUNet:
    """The noise prediction of a UNet2DConditionModel in one precision; nothing of the given UNet is changed or shared."""

    def __init__(self, unet: Any, dtype: torch.dtype, kernels: Kernels, gradient_checkpointing: bool) -> None:
        self._dtype = dtype
        self._unet: Any = private_copy(unet, lambda name: dtype)
        self._unet.disable_gradient_checkpointing()
        fused = fuse_blocks(self._unet, kernels, checkpointing=gradient_checkpointing)
        self._memory_format = kernels.memory_format if fused else torch.contiguous_format
        blocks = [part for part in self._unet.modules() if isinstance(part, (ResnetBlock2D, Transformer2DModel))]
        self._changed = [*fused, *(checkpoint_blocks(blocks) if gradient_checkpointing else [])]
        self.signature = (kernels.name if fused else "diffusers", gradient_checkpointing)
        """See `FrozenModel.signature`."""

    def __call__(
        self, noisy_latents: Tensor, timesteps: Tensor, encoded: Encoded, sizes: Tensor | None = None
    ) -> Tensor:
        """(B, 4, h, w), (B,), prompts -> (B, 4, h, w) float32, differentiable; SDXL needs `sizes` (B, 6) too."""
        noisy = noisy_latents.to(self._dtype).contiguous(memory_format=self._memory_format)
        (out,) = self._unet(
            noisy,
            timesteps,
            encoder_hidden_states=encoded.context.to(self._dtype),
            added_cond_kwargs=added_conditions(encoded, sizes, self._dtype),
            return_dict=False,
        )
        return out.float()

    def close(self) -> None:
        """Break reference cycles, so that the memory goes at once and not at some collection."""
        restore(self._changed)


def fuse_blocks(unet: Any, kernels: Kernels, *, checkpointing: bool = False) -> list[nn.Module]:
    """Replace the forward of what can be fused in a private, frozen UNet; the modules that were changed, see `fuse`.

    `checkpointing` is that of `spatial_transformer`.
    """
    return fuse(unet, _blocks(unet, kernels, checkpointing), kernels, host="diffusers")


def _blocks(unet: Any, kernels: Kernels, checkpointing: bool = False) -> Iterator[FusedBlock]:
    learns_embedding = getattr(unet.config, "addition_embed_type", None) is not None
    if _is_plain_output(unet):
        yield _output(unet, kernels)
    for module in unet.modules():
        if isinstance(module, Upsample2D) and _is_plain_upsample(module):
            yield _upsample(module, kernels)
        elif isinstance(module, ResnetBlock2D) and _is_plain_residual(module):
            yield _residual(module, kernels, learns_embedding)
        elif isinstance(module, Transformer2DModel) and _is_plain_spatial(module):
            yield _spatial(module, kernels, checkpointing)


def _output(unet: Any, kernels: Kernels) -> FusedBlock:
    # diffusers up to 0.31 has one SiLU for all places.
    unet.conv_act = nn.SiLU()
    norm, silu, conv = unet.conv_norm_out, unet.conv_act, unet.conv_out
    own = (norm.forward, silu.forward, conv.forward)
    fused_norm = norm_silu(norm, kernels)

    def fused_conv(x: Tensor) -> Tensor:
        return convolve(x, conv)

    return FusedBlock(
        kind=_kind(norm, conv),
        weight=conv.weight,
        own=lambda x: own[2](own[1](own[0](x))),
        fused=lambda x: fused_conv(fused_norm(x)),
        forwards=[(norm, fused_norm), (silu, lambda x: x), (conv, fused_conv)],
        channels=conv.in_channels,
    )


def _upsample(block: Any, kernels: Kernels) -> FusedBlock:
    conv = block.conv
    fused = upsample(conv, kernels)

    def forward(hidden_states: Tensor, output_size: Any = None, *_unused: Any, **_also: Any) -> Tensor:
        return fused(hidden_states, output_size)

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
        norm_in=block.norm1,
        conv_in=block.conv1,
        embed=block.time_emb_proj,
        norm_out=block.norm2,
        conv_out=block.conv2,
        skip=block.conv_shortcut,
    )
    fused = residual_block(layers, kernels)

    def forward(input_tensor: Tensor, temb: Tensor, *_unused: Any, **_also: Any) -> Tensor:
        return fused(input_tensor, temb)

    return FusedBlock(
        kind=_kind(block, block.conv_shortcut),
        weight=block.conv1.weight,
        own=block.forward,
        fused=fused,
        forwards=[(block, forward)],
        channels=block.in_channels,
        embedding=block.time_emb_proj.in_features,
        learns_embedding=learns_embedding and layers.feels_embedding,
    )


def _spatial(block: Any, kernels: Kernels, checkpointing: bool) -> FusedBlock:
    own = block.forward
    layers = SpatialLayers(
        block.norm, block.proj_in, [*map(transformer_layers, block.transformer_blocks)], block.proj_out
    )
    fused = spatial_transformer(layers, kernels, checkpointing=checkpointing)

    def forward(
        hidden_states: Tensor, encoder_hidden_states: Tensor, *_unused: Any, return_dict: bool = True, **_also: Any
    ) -> Any:
        # `FusedUNet` gives no masks and no other conditions.
        out = fused(hidden_states, encoder_hidden_states)
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)

    first = block.transformer_blocks[0]
    return FusedBlock(
        kind=(len(layers.blocks) > 1, *_kind(block, block.proj_in, first, first.attn1, first.attn1.processor)),
        weight=block.norm.weight,
        own=lambda x, context: own(x, encoder_hidden_states=context, return_dict=False)[0],
        fused=fused,
        forwards=[(block, forward)],
        channels=block.in_channels,
        odd=len(layers.blocks) > 1,
        context=layers.blocks[0].cross.to_k.in_features,
    )


def _kind(module: Any, *parts: Any) -> tuple[Hashable, ...]:
    parameter = next(module.parameters())
    code = [getattr(type(part), "forward", type(part).__call__) for part in (module, *parts)]
    return (*map(type, (module, *parts)), *code, parameter.dtype, parameter.device)


def _is_plain_output(unet: Any) -> bool:
    return (
        isinstance(unet.conv_norm_out, nn.GroupNorm) and type(unet.conv_act) is nn.SiLU and can_convolve(unet.conv_out)
    )


def _is_plain_upsample(block: Any) -> bool:
    return (
        block.use_conv
        and block.interpolate
        and not block.use_conv_transpose
        and block.norm is None
        and can_convolve(getattr(block, "conv", None))
    )


def _is_plain_residual(block: Any) -> bool:
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and block.output_scale_factor == 1
        and not block.skip_time_act
        and type(block.nonlinearity) is nn.SiLU
        and type(block.time_emb_proj) is nn.Linear
        and isinstance(block.norm1, nn.GroupNorm)
        and isinstance(block.norm2, nn.GroupNorm)
        and can_convolve(block.conv1)
        and can_convolve(block.conv2)
        and (block.conv_shortcut is None or can_convolve(block.conv_shortcut))
    )


def _is_plain_spatial(block: Any) -> bool:
    return (
        block.is_input_continuous
        and block.out_channels == block.in_channels
        and type(block.proj_in) is type(block.proj_out)
        and type(block.proj_in) in (nn.Linear, nn.Conv2d)
        and all(
            type(part) is BasicTransformerBlock and _is_plain_transformer(part) for part in block.transformer_blocks
        )
    )


def _is_plain_transformer(block: Any) -> bool:
    return (
        block.norm_type == "layer_norm"
        and not block.only_cross_attention
        and not hasattr(block, "fuser")
        and block.pos_embed is None
        and all(type(norm) is nn.LayerNorm for norm in (block.norm1, block.norm2, block.norm3))
        and _is_plain_attention(block.attn1)
        and _is_plain_attention(block.attn2)
        and type(block.ff.net[0]) is GEGLU
        and type(block.ff.net[0].proj) is type(block.ff.net[-1]) is nn.Linear
    )


def _is_plain_attention(attention: Any) -> bool:
    """Not one to which an adapter or another processor was added."""
    return (
        type(attention) is Attention
        and type(attention.processor) in (AttnProcessor, AttnProcessor2_0)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and attention.scale_qk
        and not (attention.group_norm or attention.spatial_norm or attention.norm_cross or attention.norm_q)
        and all(
            type(layer) is nn.Linear and layer.bias is None
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        and attention.to_out is not None
        and type(attention.to_out[0]) is nn.Linear
    )
