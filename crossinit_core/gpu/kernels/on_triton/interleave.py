"""The four pictures of a folded enlargement put into one, as Triton kernels; see `crossinit_core.gpu.kernels.enlargement`."""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .launch import launch
from .layout import BY_PIXELS, CHANNELS, by_pixels

_MOVED = 32
"""Pixels of a tile, which is only moved."""


def interleave(x: Tensor, bias: Tensor) -> Tensor:
    """See `plain.interleave`."""
    return _Interleave.apply(x, bias)


class _Interleave(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous(memory_format=BY_PIXELS)
        batch, channels, height, width = x.shape[0], x.shape[1] // 4, x.shape[2] - 1, x.shape[3] - 1
        y = torch.empty(
            (batch, channels, 2 * height, 2 * width), device=x.device, dtype=x.dtype, memory_format=BY_PIXELS
        )
        pixels = batch * 4 * height * width
        launch(
            interleave_places,
            (triton.cdiv(pixels, _MOVED), triton.cdiv(channels, CHANNELS)),
            x,
            bias,
            y,
            pixels,
            height,
            width,
            channels,
            BN=_MOVED,
            BC=CHANNELS,
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        dy = by_pixels(dy)
        batch, channels, height, width = dy.shape[0], dy.shape[1], dy.shape[2] // 2, dy.shape[3] // 2
        dx = torch.empty(
            (batch, 4 * channels, height + 1, width + 1), device=dy.device, dtype=dy.dtype, memory_format=BY_PIXELS
        )
        pixels = batch * (height + 1) * (width + 1)
        launch(
            interleave_places_gradient,
            (triton.cdiv(pixels, _MOVED), triton.cdiv(channels, CHANNELS), 4),
            dy,
            dx,
            dy.stride(0),
            dy.stride(3),
            pixels,
            height,
            width,
            channels,
            BN=_MOVED,
            BC=CHANNELS,
        )
        return dx, None


@triton.jit(do_not_specialize=["N", "H", "W"])
def interleave_places(x_ptr, bias_ptr, y_ptr, N, H, W, C, BN: tl.constexpr, BC: tl.constexpr):
    """y (B, 2 H, 2 W, C) from x (B, H + 1, W + 1, 4 C) and a bias; N is the number of pixels of y."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    in_c = c < C
    mask = (n < N)[:, None] & in_c[None, :]
    column = n % (2 * W)
    row = (n // (2 * W)) % (2 * H)
    b = n // (4 * H * W)
    right, lower = column % 2, row % 2
    pixel = (b * (H + 1) + row // 2 + lower) * (W + 1) + column // 2 + right
    at = pixel.to(tl.int64) * (4 * C) + (2 * lower + right) * C
    x = tl.load(x_ptr + at[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + n.to(tl.int64)[:, None] * C + c[None, :], x.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "H", "W"])
def interleave_places_gradient(dy_ptr, dx_ptr, dy_batch, dy_pixel, N, H, W, C, BN: tl.constexpr, BC: tl.constexpr):
    """The gradient of x, zero where y does not come from it; N is the number of pixels of x, program 2 the place in a square."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    lower, right = tl.program_id(2) // 2, tl.program_id(2) % 2
    column = n % (W + 1) - right
    row = (n // (W + 1)) % (H + 1) - lower
    b = n // ((H + 1) * (W + 1))
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H) & (n < N)
    pixel = (2 * row + lower) * (2 * W) + 2 * column + right
    at = (b.to(tl.int64) * dy_batch + pixel * dy_pixel)[:, None] + c[None, :]
    dy = tl.load(dy_ptr + at, mask=inside[:, None] & (c < C)[None, :], other=0.0)
    to = n.to(tl.int64)[:, None] * (4 * C) + (tl.program_id(2) * C + c)[None, :]
    tl.store(dx_ptr + to, dy, mask=(n < N)[:, None] & (c < C)[None, :])
