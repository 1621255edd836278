"""The fused operations as Triton kernels, for NVIDIA and AMD GPUs where Triton is installed.

The same functions as in `library`; activations lie in memory with their channels last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import pointwise_kernels
from .launch import launch
from .library import product_of_geglu
from .triton_pictures import floats, group_norm, interleave, memory_format

__all__ = ["add_bias", "add_layer_norm", "feed_forward", "group_norm", "interleave", "memory_format"]


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `library.add_layer_norm`."""
    return _AddLayerNorm.apply(x, residual, weight, bias, eps, dtype)


def feed_forward(x: Tensor, n: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """See `library.feed_forward`."""
    return product_of_geglu(x, _Geglu.apply(F.linear(n, weight, bias)), out)


def add_bias(x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """See `library.add_bias`."""
    return _AddBias.apply(x, bias, residual)


class _AddLayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        total = x if residual is None else torch.empty_like(x)
        y = torch.empty_like(x, dtype=dtype)
        mean, rstd = floats(x, 2, rows)
        block, many = _rows(width)
        launch(
            pointwise_kernels.add_layer_norm,
            (triton.cdiv(rows, many),),
            x,
            x if residual is None else residual.contiguous(),
            weight,
            bias,
            total,
            y,
            mean,
            rstd,
            rows,
            width,
            eps,
            ADD=residual is not None,
            R=many,
            BC=block,
        )
        ctx.save_for_backward(total, weight, mean, rstd)
        ctx.residual_dtype = None if residual is None else residual.dtype
        ctx.set_materialize_grads(False)
        return (x.view_as(x) if residual is None else total), y

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dtotal: Tensor | None, dy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        total, weight, mean, rstd = ctx.saved_tensors
        if dy is None:
            dx = dtotal
            dresidual = dx
        else:
            width = total.shape[-1]
            rows = total.numel() // width
            block, many = _rows(width)
            dy = dy.contiguous()
            dx = torch.empty_like(total)
            two = ctx.residual_dtype not in (None, dx.dtype)
            dresidual = torch.empty_like(total, dtype=ctx.residual_dtype) if two else dx
            launch(
                pointwise_kernels.add_layer_norm_gradient,
                (triton.cdiv(rows, many),),
                total,
                dy,
                dy if dtotal is None else dtotal.contiguous(),
                weight,
                mean,
                rstd,
                dx,
                dresidual,
                rows,
                width,
                ADD=dtotal is not None,
                TWO=two,
                R=many,
                BC=block,
            )
        if ctx.residual_dtype is None:
            return dx, None, None, None, None, None
        assert dresidual is not None
        return dx, dresidual.to(ctx.residual_dtype), None, None, None, None


def _rows(width: int) -> tuple[int, int]:
    """The block that holds a row, and how many rows a program takes."""
    block = triton.next_power_of_2(width)
    return block, max(1, 2048 // block)


class _Geglu(Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        h = h.contiguous()
        width = h.shape[-1] // 2
        rows = h.numel() // h.shape[-1]
        y = torch.empty((*h.shape[:-1], width), device=h.device, dtype=h.dtype)
        launch(pointwise_kernels.geglu, _tiles(rows, width), h, y, rows, width, BN=8, BF=256)
        ctx.save_for_backward(h)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        width = h.shape[-1] // 2
        rows = h.numel() // h.shape[-1]
        dh = torch.empty_like(h)
        launch(pointwise_kernels.geglu_gradient, _tiles(rows, width), h, dy.contiguous(), dh, rows, width, BN=8, BF=256)
        return dh


def _tiles(rows: int, width: int) -> tuple[int, int]:
    return triton.cdiv(rows, 8), triton.cdiv(width, 256)


class _AddBias(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        x = x.contiguous(memory_format=memory_format)
        residual = residual.contiguous(memory_format=memory_format)
        y = torch.empty_like(x)
        launch(
            pointwise_kernels.add_bias,
            (triton.cdiv(x.numel(), 2048),),
            x,
            bias,
            residual,
            y,
            x.numel(),
            x.shape[1],
            BLOCK=2048,
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor]:
        return dy, None, dy
