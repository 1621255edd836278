"""Group normalization and interleaving of pictures as Triton kernels; see `on_triton`."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import norm_kernels, pointwise_kernels
from .launch import launch

memory_format = torch.channels_last

_PIXELS = 64
_MOVED = 32
"""Pixels of a tile that is only moved."""
_CHANNELS = 64
_PIECES = 32
# Pixels of a tile that is added up, and enough programs to keep the largest GPUs busy: the fastest of a dozen each on an H200.
SUMS = (16, 1056)
GRADIENT_SUMS = (32, 528)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, groups: int = 32, silu: bool, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `library.group_norm`."""
    return _GroupNorm.apply(x, weight, bias, shift, groups, eps, silu)


def interleave(x: Tensor, bias: Tensor) -> Tensor:
    """See `enlargement.interleave`."""
    return _Interleave.apply(x, bias)


class _GroupNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int, eps: float, silu: bool
    ) -> tuple[Tensor, Tensor]:
        given = x
        x = x.contiguous(memory_format=memory_format)
        batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        tile, programs = SUMS
        blocks, pieces, rows = _pieces(batch, pixels, channels, tile, programs)
        sums, squares = floats(x, 2, batch, pieces, channels)
        a, d, mean = floats(x, 3, batch, channels)
        (rstd,) = floats(x, 1, batch, groups)
        y = torch.empty_like(x)
        shifted = x if shift is None else shift.contiguous()
        launch(
            norm_kernels.group_sums,
            (pieces, blocks, batch),
            x,
            sums,
            squares,
            pixels,
            channels,
            rows,
            pieces,
            BP=tile,
            BC=_CHANNELS,
        )
        launch(
            norm_kernels.group_coefficients,
            (groups, batch),
            x,
            shifted,
            sums,
            squares,
            weight,
            bias,
            a,
            d,
            mean,
            rstd,
            pixels,
            channels,
            pieces,
            eps,
            G=groups,
            SHIFT=shift is not None,
            PIECES=_PIECES,
            BG=max(128, triton.next_power_of_2(channels // groups)),
        )
        launch(
            norm_kernels.group_apply,
            (triton.cdiv(pixels, _PIXELS), blocks, batch),
            x,
            a,
            d,
            y,
            pixels,
            channels,
            SILU=silu,
            BP=_PIXELS,
            BC=_CHANNELS,
        )
        ctx.save_for_backward(x, weight, a, d, mean, rstd)
        ctx.groups, ctx.silu = groups, silu
        ctx.set_materialize_grads(False)
        return given.view_as(given), y

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dsame: Tensor | None, dy: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None, None, None]:
        if dy is None:
            return dsame, None, None, None, None, None, None
        x, weight, a, d, mean, rstd = ctx.saved_tensors
        dy = dy.contiguous(memory_format=memory_format)
        batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        tile, programs = GRADIENT_SUMS
        blocks, pieces, rows = _pieces(batch, pixels, channels, tile, programs)
        sums, products = floats(x, 2, batch, pieces, channels)
        p, q = floats(x, 2, batch, channels)
        dx = torch.empty_like(x)
        same = dy if dsame is None else _by_pixels(dsame)
        launch(
            norm_kernels.group_gradient_sums,
            (pieces, blocks, batch),
            x,
            dy,
            a,
            d,
            mean,
            sums,
            products,
            pixels,
            channels,
            rows,
            pieces,
            SILU=ctx.silu,
            BP=tile,
            BC=_CHANNELS,
        )
        launch(
            norm_kernels.group_gradient_coefficients,
            (ctx.groups, batch),
            sums,
            products,
            weight,
            mean,
            rstd,
            p,
            q,
            pixels,
            channels,
            pieces,
            G=ctx.groups,
            PIECES=_PIECES,
            BG=max(128, triton.next_power_of_2(channels // ctx.groups)),
        )
        launch(
            norm_kernels.group_gradient_apply,
            (triton.cdiv(pixels, _PIXELS), blocks, batch),
            x,
            dy,
            a,
            d,
            p,
            q,
            same,
            dx,
            pixels,
            channels,
            same.stride(0),
            same.stride(3),
            SILU=ctx.silu,
            ADD=dsame is not None,
            BP=_PIXELS,
            BC=_CHANNELS,
        )
        return dx, None, None, None, None, None, None


def _pieces(batch: int, pixels: int, channels: int, tile: int, programs: int) -> tuple[int, int, int]:
    """Blocks of channels, pieces of pixels and the pixels of a piece."""
    blocks = triton.cdiv(channels, _CHANNELS)
    pieces = min(_PIECES, triton.cdiv(pixels, tile), triton.cdiv(programs, batch * blocks))
    rows = triton.cdiv(triton.cdiv(pixels, pieces), tile) * tile
    return blocks, triton.cdiv(pixels, rows), rows


def _by_pixels(x: Tensor) -> Tensor:
    """x (B, C, H, W) with a pixel's channels beside each other and pixels at equal distances, as in a part of some channels."""
    row = x.stride(3)
    even = x.stride(1) == 1 and x.stride(2) == row * x.shape[3]
    return x if even else x.contiguous(memory_format=memory_format)


def floats(like: Tensor, count: int, *shape: int) -> tuple[Tensor, ...]:
    """`count` tensors of a shape beside each other, uninitialized, where `like` is."""
    return torch.empty((count, *shape), device=like.device, dtype=torch.float32).unbind()


class _Interleave(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous(memory_format=memory_format)
        batch, channels, height, width = x.shape[0], x.shape[1] // 4, x.shape[2] - 1, x.shape[3] - 1
        y = torch.empty(
            (batch, channels, 2 * height, 2 * width), device=x.device, dtype=x.dtype, memory_format=memory_format
        )
        pixels = batch * 4 * height * width
        launch(
            pointwise_kernels.interleave,
            (triton.cdiv(pixels, _MOVED), triton.cdiv(channels, _CHANNELS)),
            x,
            bias,
            y,
            pixels,
            height,
            width,
            channels,
            BN=_MOVED,
            BC=_CHANNELS,
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        dy = _by_pixels(dy)
        batch, channels, height, width = dy.shape[0], dy.shape[1], dy.shape[2] // 2, dy.shape[3] // 2
        dx = torch.empty(
            (batch, 4 * channels, height + 1, width + 1), device=dy.device, dtype=dy.dtype, memory_format=memory_format
        )
        pixels = batch * (height + 1) * (width + 1)
        launch(
            pointwise_kernels.interleave_gradient,
            (triton.cdiv(pixels, _MOVED), triton.cdiv(channels, _CHANNELS), 4),
            dy,
            dx,
            dy.stride(0),
            dy.stride(3),
            pixels,
            height,
            width,
            channels,
            BN=_MOVED,
            BC=_CHANNELS,
        )
        return dx, None
