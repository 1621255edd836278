"""The mathematics of a Stable Diffusion UNet's blocks, over the layers of any host, with fused operations.

A step of learning needs no gradients of weights, and half of a host's time goes to copies between memory layouts and to
kernels that do one addition. Each function takes a block's layers, frozen, and returns a function of tensors that computes
what the block computes. Biases ride on what is added anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..gpu.kernels import Kernels
from ..gpu.kernels.enlargement import can_be_folded, folded, unfolded
from ..gpu.kernels.frozen_layers import convolve, pack, project
from .computed_again import checkpointed, feed_forward_again

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class ResidualLayers:
    """norm_in, SiLU, conv_in; + embed of the time embedding's SiLU; norm_out, SiLU, conv_out; + skip of the input."""

    norm_in: nn.GroupNorm
    conv_in: nn.Conv2d
    embed: nn.Linear
    norm_out: nn.GroupNorm
    conv_out: nn.Conv2d
    skip: nn.Conv2d | None
    """None if the input is added as it is."""

    @property
    def feels_embedding(self) -> bool:
        """Whether the time embedding changes anything: groups of a single channel normalize it away."""
        return self.norm_out.num_groups < self.norm_out.num_channels


@dataclass(frozen=True)
class AttentionLayers:
    """to_q, to_k and to_v have no bias."""

    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear
    heads: int


@dataclass(frozen=True)
class TransformerLayers:
    """Pre-norm attention to the picture itself and to the prompt, and a feed-forward part `outer(geglu(inner))`."""

    norm_own: nn.LayerNorm
    own: AttentionLayers
    norm_cross: nn.LayerNorm
    cross: AttentionLayers
    norm_forward: nn.LayerNorm
    inner: nn.Linear
    outer: nn.Linear


@dataclass(frozen=True)
class SpatialLayers:
    """Transformer blocks over the pixels of a picture; projections are linear layers or convolutions of one pixel."""

    norm: nn.GroupNorm
    proj_in: Any
    blocks: Sequence[TransformerLayers]
    proj_out: Any


def transformer_layers(block: Any) -> TransformerLayers:
    """Of a transformer block, whose layers ComfyUI and diffusers name alike."""
    return TransformerLayers(
        norm_own=block.norm1,
        own=_attention_layers(block.attn1),
        norm_cross=block.norm2,
        cross=_attention_layers(block.attn2),
        norm_forward=block.norm3,
        inner=block.ff.net[0].proj,
        outer=block.ff.net[-1],
    )


def _attention_layers(attention: Any) -> AttentionLayers:
    return AttentionLayers(attention.to_q, attention.to_k, attention.to_v, attention.to_out[0], attention.heads)


def norm_silu(norm: nn.GroupNorm, kernels: Kernels) -> Forward:
    """(B, C, H, W) -> (B, C, H, W)."""
    return lambda x: _norm(kernels, norm, x, silu=True)[1]


def norm_silu_conv(norm: nn.GroupNorm, conv: nn.Conv2d, kernels: Kernels) -> Forward:
    """(B, C, H, W) -> (B, C', H', W')."""
    return lambda x: convolve(_norm(kernels, norm, x, silu=True)[1], conv)


def residual_block(layers: ResidualLayers, kernels: Kernels) -> Forward:
    """x (B, C, H, W) and the time embedding (B, E), before its SiLU -> (B, C', H, W)."""
    norm_in, conv_in, conv_out, skip = layers.norm_in, layers.conv_in, layers.conv_out, layers.skip
    # The first convolution's bias rides on the time embedding, the others' on the residual.
    shift_bias = _bias(layers.embed) + _bias(conv_in)
    bias = _bias(conv_out) if skip is None else _bias(conv_out) + _bias(skip)

    def forward(x: Tensor, emb: Tensor) -> Tensor:
        x, h = _norm(kernels, norm_in, x, silu=True)
        h = convolve(h, conv_in, bias=False)
        shift = F.linear(F.silu(emb), layers.embed.weight, shift_bias)
        _, h = _norm(kernels, layers.norm_out, h, silu=True, shift=shift)
        h = convolve(h, conv_out, bias=False)
        return kernels.add_bias(h, bias, x if skip is None else convolve(x, skip, bias=False))

    return forward


def spatial_transformer(layers: SpatialLayers, kernels: Kernels, *, checkpointing: bool = False) -> Forward:
    """x (B, C, H, W) and the prompt's context (B, L, d) -> (B, C, H, W).

    Several blocks in a row compute the insides of their feed-forward parts a second time, or with `checkpointing` all of
    their insides, one block after the other. For a single one the caller decides, see `fusing.checkpoint_blocks`.
    """
    norm, proj_in = layers.norm, layers.proj_in
    several = len(layers.blocks) > 1
    blocks = [_transformer(block, kernels, several=several, kept=checkpointing) for block in layers.blocks]
    prompt_weights = pack(*(layer for block in layers.blocks for layer in (block.cross.to_k, block.cross.to_v)))
    if checkpointing and several:
        blocks = [checkpointed(block) for block in blocks]
    # A block leaves its last bias out, since the next norm or product can bring it along.
    biases = [_bias(block.outer) for block in layers.blocks]
    out = layers.proj_out.weight.flatten(1)
    out_bias = torch.addmv(layers.proj_out.bias.float(), out.float(), biases.pop().float()).to(out.dtype)

    def forward(x: Tensor, context: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x, n = _norm(kernels, norm, x, silu=False)
        tokens = _linear(proj_in, n.permute(0, 2, 3, 1).reshape(batch, height * width, channels))
        prompt = project(context, prompt_weights, 2 * len(blocks), at_once=several)
        for block, bias, k, v in zip(blocks, [None, *biases], prompt[::2], prompt[1::2], strict=True):
            tokens = block(tokens, k, v, bias)
        tokens = F.linear(tokens, out, out_bias)
        image = tokens.view(batch, height, width, -1).permute(0, 3, 1, 2)
        return image.contiguous(memory_format=kernels.memory_format) + x

    return forward


def upsample(conv: nn.Conv2d, kernels: Kernels) -> Forward:
    """x (B, C, H, W) and a size, twice its own if None -> the convolution of the enlarged x, (B, C', *size).

    A foldable convolution's own weights are not needed any more.
    """
    if not can_be_folded(conv):
        return lambda x, size=None: convolve(_enlarged(x, size), conv)
    small = folded(conv).to(memory_format=kernels.memory_format)  # type: ignore[call-overload]
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias

    def forward(x: Tensor, size: Any = None) -> Tensor:
        if size is None or list(size) == _doubled(x):
            return kernels.interleave(convolve(x, small), bias)
        whole = unfolded(small).to(memory_format=kernels.memory_format)  # type: ignore[call-overload]
        return convolve(_enlarged(x, size), whole) + bias[:, None, None]

    return forward


def _doubled(x: Tensor) -> list[int]:
    return [2 * side for side in x.shape[2:]]


def _enlarged(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, size=_doubled(x) if size is None else list(size), mode="nearest")


def _bias(layer: Any) -> Tensor:
    """Every layer that this is asked of has one in the blocks of Stable Diffusion."""
    return layer.bias


def _norm(
    kernels: Kernels, norm: nn.GroupNorm, x: Tensor, *, silu: bool, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return kernels.group_norm(x, norm.weight, norm.bias, norm.eps, groups=norm.num_groups, silu=silu, shift=shift)


def _linear(layer: Any, tokens: Tensor) -> Tensor:
    """A linear layer, or the convolution of one pixel that older models have in its place."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)


def _transformer(layers: TransformerLayers, kernels: Kernels, *, several: bool, kept: bool) -> Forward:
    """All of a block but the bias of its last layer: (B, L, C) + bias (C,), and the prompt's keys and values (B, L', C)
    -> (B, L, C).

    `several` in a row keep `several` times as much, half of it inside their feed-forward parts. These are computed a second
    time, 8 of 16 C numbers a token less, unless they are to be `kept`.
    """
    own, cross, inner, outer = layers.own, layers.cross, layers.inner, layers.outer
    own_weights = pack(own.to_q, own.to_k, own.to_v)
    attention = kernels.attention_of_any_length if several else kernels.attention

    def add_norm(x: Tensor, residual: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return kernels.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps, x.dtype)

    def feed_forward_once(x: Tensor, residual: Tensor) -> Tensor:
        x, n = add_norm(x, residual, layers.norm_forward)
        return kernels.feed_forward(x, n, inner.weight, inner.bias, outer.weight)

    feed_forward: Callable[[Tensor, Tensor], Tensor] = feed_forward_once
    if several and not kept:
        feed_forward = feed_forward_again(layers.norm_forward, inner, outer, kernels)

    def forward(x: Tensor, prompt_k: Tensor, prompt_v: Tensor, bias: Tensor | None = None) -> Tensor:
        x, n = add_norm(x, bias, layers.norm_own)
        q, k, v = project(n, own_weights, 3, at_once=several)
        n = own.to_out(attention(q, k, v, own.heads))
        x, n = add_norm(x, n, layers.norm_cross)
        n = cross.to_out(kernels.attention(cross.to_q(n), prompt_k, prompt_v, cross.heads))
        return feed_forward(x, n)

    return forward
