"""Layer normalization of a sum as Triton kernels, forward and backward to both terms; computed in float32."""

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
from .layout import floats

VARYING = ["N", "eps"]
"""Numbers whose special values are not worth a kernel of their own: compiling takes longer than it saves."""


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `plain.add_layer_norm`."""
    return _AddLayerNorm.apply(x, residual, weight, bias, eps, dtype)


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
            layer_norm_of_sum,
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
            ONE=residual is not None and residual.dim() == 1,
            R=many,
            BC=block,
        )
        ctx.save_for_backward(total, weight, mean, rstd)
        ctx.residual_dtype = None if residual is None or residual.dim() == 1 else residual.dtype
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
                layer_norm_of_sum_gradient,
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


@triton.jit(do_not_specialize=VARYING)
def layer_norm_of_sum(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    sum_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    N,
    C,
    eps,
    ADD: tl.constexpr,
    ONE: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    """sum = x + residual (if ADD), and y = its layer normalization; rows of C numbers, R rows at once.

    If ONE, the residual is a single row for all.
    """
    n = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.arange(0, BC)
    in_c = c < C
    mask = (n < N)[:, None] & in_c[None, :]
    at = n.to(tl.int64)[:, None] * C + c[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        if ONE:
            x += tl.load(residual_ptr + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
        else:
            x += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=mask)
        x = rounded.to(tl.float32)
    mean = tl.sum(x, 1) / C
    apart = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / C + eps)
    weight = tl.load(weight_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    y = apart * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + n, mean, mask=n < N)
    tl.store(rstd_ptr + n, rstd, mask=n < N)


@triton.jit(do_not_specialize=VARYING)
def layer_norm_of_sum_gradient(
    sum_ptr,
    dy_ptr,
    dsum_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    dx_ptr,
    dresidual_ptr,
    N,
    C,
    ADD: tl.constexpr,
    TWO: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of x from those of y and (if ADD) of the sum; if TWO, once more in the residual's type."""
    n = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.arange(0, BC)
    in_c = c < C
    mask = (n < N)[:, None] & in_c[None, :]
    at = n.to(tl.int64)[:, None] * C + c[None, :]
    mean = tl.load(mean_ptr + n, mask=n < N, other=0.0)
    rstd = tl.load(rstd_ptr + n, mask=n < N, other=0.0)
    weight = tl.load(weight_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    x = tl.load(sum_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x = tl.where(mask, (x - mean[:, None]) * rstd[:, None], 0.0)
    dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32) * weight[None, :]
    inner = dy - tl.sum(dy, 1)[:, None] / C - x * (tl.sum(dy * x, 1) / C)[:, None]
    dx = rstd[:, None] * inner
    if ADD:
        dx += tl.load(dsum_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if TWO:
        tl.store(dresidual_ptr + at, dx.to(dresidual_ptr.dtype.element_ty), mask=mask)
