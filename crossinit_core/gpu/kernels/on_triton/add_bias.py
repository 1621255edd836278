"""A bias and a residual added to a picture in one Triton kernel; computed in float32."""

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
from .layout import BY_PIXELS


def add_bias(x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """See `plain.add_bias`."""
    return _AddBias.apply(x, bias, residual)


class _AddBias(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        x = x.contiguous(memory_format=BY_PIXELS)
        residual = residual.contiguous(memory_format=BY_PIXELS)
        y = torch.empty_like(x)
        launch(
            add_bias_and_residual,
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


@triton.jit
def add_bias_and_residual(x_ptr, bias_ptr, residual_ptr, y_ptr, count, C, BLOCK: tl.constexpr):
    """y = x + bias + residual; channels are last in memory."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    x = tl.load(x_ptr + i, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + i % C, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(residual_ptr + i, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + i, x.to(y_ptr.dtype.element_ty), mask=mask)
