"""The feed-forward part of a transformer block, whose GEGLU is a Triton kernel; computed in float32."""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..plain import product_of_geglu
from .launch import launch

VARYING = ["N"]
"""Numbers whose special values are not worth a kernel of their own: compiling takes longer than it saves."""
SQRT_HALF = tl.constexpr(0.7071067811865476)
DENSITY_AT_0 = tl.constexpr(0.3989422804014327)


def feed_forward(x: Tensor, n: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """See `plain.feed_forward`."""
    return product_of_geglu(x, _Geglu.apply(F.linear(n, weight, bias)), out)


def gradient_of_geglu(h: Tensor, dy: Tensor) -> Tensor:
    """See `plain.gradient_of_geglu`."""
    h = h.contiguous()
    width = h.shape[-1] // 2
    rows = h.numel() // h.shape[-1]
    dh = torch.empty_like(h)
    launch(geglu_gradient, _tiles(rows, width), h, dy.contiguous(), dh, rows, width, BN=8, BF=256)
    return dh


class _Geglu(Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        h = h.contiguous()
        width = h.shape[-1] // 2
        rows = h.numel() // h.shape[-1]
        y = torch.empty((*h.shape[:-1], width), device=h.device, dtype=h.dtype)
        launch(geglu, _tiles(rows, width), h, y, rows, width, BN=8, BF=256)
        ctx.save_for_backward(h)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return gradient_of_geglu(h, dy)


def _tiles(rows: int, width: int) -> tuple[int, int]:
    return triton.cdiv(rows, 8), triton.cdiv(width, 256)


@triton.jit
def gelu_and_slope(g):
    """The part of a normal distribution below g, with which gelu(g) = g * below, and the slope of gelu."""
    below = 0.5 * (1.0 + tl.erf(g * SQRT_HALF))
    return below, below + g * DENSITY_AT_0 * tl.exp(-0.5 * g * g)


@triton.jit(do_not_specialize=VARYING)
def geglu(h_ptr, y_ptr, N, F, BN: tl.constexpr, BF: tl.constexpr):
    """y = a * gelu(g) for rows h = [a, g] of 2 F numbers."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    mask = (n < N)[:, None] & (f < F)[None, :]
    rows = n.to(tl.int64)[:, None]
    a = tl.load(h_ptr + rows * (2 * F) + f[None, :], mask=mask, other=0.0).to(tl.float32)
    g = tl.load(h_ptr + rows * (2 * F) + F + f[None, :], mask=mask, other=0.0).to(tl.float32)
    below, _ = gelu_and_slope(g)
    y = a * g * below
    tl.store(y_ptr + rows * F + f[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
def geglu_gradient(h_ptr, dy_ptr, dh_ptr, N, F, BN: tl.constexpr, BF: tl.constexpr):
    """The gradient of h = [a, g]."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    mask = (n < N)[:, None] & (f < F)[None, :]
    rows = n.to(tl.int64)[:, None]
    at = rows * (2 * F) + f[None, :]
    a = tl.load(h_ptr + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(h_ptr + at + F, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + rows * F + f[None, :], mask=mask, other=0.0).to(tl.float32)
    below, slope = gelu_and_slope(g)
    tl.store(dh_ptr + at, (dy * g * below).to(dh_ptr.dtype.element_ty), mask=mask)
    tl.store(dh_ptr + at + F, (dy * a * slope).to(dh_ptr.dtype.element_ty), mask=mask)
