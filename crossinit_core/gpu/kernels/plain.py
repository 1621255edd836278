"""The fused operations from torch's own kernels: for any device, and the reference for the Triton ones.

What they save against autograd's own way is memory: a cheap value is computed again in the backward pass. Weights are
constants: gradients flow to activations only.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""The attention kernels of torch that repeat bit for bit, the fastest first. cuDNN's is faster on some GPUs, but its
backward pass adds in an order that varies."""
_IN_ORDER = {"set_priority": True} if "set_priority" in inspect.signature(sdpa_kernel).parameters else {}
"""PyTorch 2.5 has an order of its own."""


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, groups: int = 32, silu: bool, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x (B, C, H, W) itself, and the group normalization of x + shift (B, C), through SiLU if asked for.

    If x is used beside its normalization, take it from here: the gradients of the two may then be added in one kernel.
    """
    shifted = x if shift is None else x + shift[:, :, None, None].to(x.dtype)
    return x, _GroupNorm.apply(shifted.contiguous(), weight, bias, groups, eps, silu)


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + residual, and its layer normalization over the last dimension in `dtype`.

    `residual` is of x's shape, or one constant row for all.
    """
    if residual is not None:
        x = x + residual
    return x, F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps).to(dtype)


def geglu(h: Tensor) -> Tensor:
    """a * gelu(g) for h (..., 2 F) = [a, g]."""
    return _Geglu.apply(h)


def gradient_of_geglu(h: Tensor, dy: Tensor) -> Tensor:
    """The gradient (..., 2 F) of h = [a, g] from that of its `geglu`, dy (..., F)."""
    a, g = h.chunk(2, dim=-1)
    return torch.cat([dy * F.gelu(g), torch.ops.aten.gelu_backward(dy * a, g)], dim=-1)


def feed_forward(x: Tensor, n: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """x + geglu(n weight^T + bias) out^T for x and n (..., C), weight (2 F, C), bias (2 F,) and out (C, F)."""
    return product_of_geglu(x, geglu(F.linear(n, weight, bias)), out)


def product_of_geglu(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """x + y out^T for x (..., C), y (..., F) and out (C, F), added within the product."""
    return torch.addmm(x.flatten(0, -2), y.flatten(0, -2), out.t()).view_as(x)


def add_bias(x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x (B, C, H, W) + bias (C,) + residual (B, C, H, W)."""
    return x + bias[:, None, None] + residual


PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns of the four output pixels of a small one, in the order of the kernels of `enlargement.folded`."""


def interleave(x: Tensor, bias: Tensor) -> Tensor:
    """(B, 4 D, H + 1, W + 1) as of the layer of `enlargement.folded`, + bias (D,) -> (B, D, 2 H, 2 W)."""
    height, width = x.shape[2] - 1, x.shape[3] - 1
    parts = [
        part[:, :, row : row + height, column : column + width]
        for part, (row, column) in zip(x.chunk(4, 1), PLACES, strict=True)
    ]
    squares = torch.stack(parts, -1).unflatten(-1, (2, 2)).permute(0, 1, 2, 4, 3, 5)
    return squares.reshape(*parts[0].shape[:2], 2 * height, 2 * width) + bias.to(x.dtype)[:, None, None]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention without a mask: q (B, L, heads * D), k and v (B, L', heads * D) -> (B, L, heads * D).

    By the fastest of torch's kernels that repeats bit for bit, whatever order the host prefers.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    with sdpa_kernel(BACKENDS, **_IN_ORDER) if q.is_cuda else sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of (B, L, heads * D) in which a query sees the keys up to its own place."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class _GroupNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        ctx.groups, ctx.eps, ctx.silu = groups, eps, silu
        y, mean, rstd = _native_group_norm(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return F.silu(y) if silu else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dy = dy.contiguous()
        if ctx.silu:
            y, _, _ = _native_group_norm(x, weight, bias, ctx.groups, ctx.eps)
            dy = torch.ops.aten.silu_backward(dy, y)
        batch, channels = x.shape[:2]
        dx, _, _ = torch.ops.aten.native_group_norm_backward(
            dy, x, mean, rstd, weight, batch, channels, x[0, 0].numel(), ctx.groups, [True, False, False]
        )
        return dx, None, None, None, None, None


def _native_group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Any:
    batch, channels = x.shape[:2]
    return torch.native_group_norm(x, weight, bias, batch, channels, x[0, 0].numel(), groups, eps)


class _Geglu(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        a, g = h.chunk(2, dim=-1)
        return a * F.gelu(g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return gradient_of_geglu(h, dy)
