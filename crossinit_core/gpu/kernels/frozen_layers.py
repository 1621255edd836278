"""Layers whose weights are constants: convolutions, and several projections in one matrix product.

torch's own convolution keeps its input for the gradient of the weights, which nothing needs here: most of a gigabyte in a
step of Stable Diffusion at batch 8. What is kept here is the weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def convolve(x: Tensor, layer: nn.Conv2d, bias: bool = True) -> Tensor:
    """What `layer` makes of x (B, C, H, W), without its bias if that is not wanted; gradients flow to x."""
    arguments = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _Convolve.apply(x, layer.weight, layer.bias if bias else None, *arguments)


def can_convolve(layer: Any) -> bool:
    """Whether `convolve` can take the place of a layer."""
    return isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def pack(*layers: nn.Linear) -> Tensor:
    """The weights of frozen linear layers below each other; the layers keep views of it."""
    packed = torch.cat([layer.weight.detach() for layer in layers])
    for layer, weight in zip(layers, packed.split([layer.weight.shape[0] for layer in layers]), strict=True):
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return packed


def project(
    x: Tensor, packed: Tensor, parts: int, bias: Tensor | None = None, *, at_once: bool = False
) -> tuple[Tensor, ...]:
    """x (..., d) times each of `parts` equally large weights in `packed` (parts * e, d), + bias (parts * e,): tensors (..., e).

    Gradients flow to x: each part's added to those before it, or all parts' `at_once`, in one product.
    """
    return _Project.apply(x, packed, parts, bias, at_once)


class _Convolve(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.arguments = x.shape, (stride, padding, dilation, groups)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.arguments
        # Weights of one pixel lie in memory in both ways.
        shown = dy if weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last) else weight
        channels_last = shown.is_contiguous(memory_format=torch.channels_last) and not shown.is_contiguous()
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # Of the input, this gradient needs nothing but the shape.
        x = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device, memory_format=memory_format)
        dx, _, _ = torch.ops.aten.convolution_backward(
            dy, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
        return dx, None, None, None, None, None, None


class _Project(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: Tensor, parts: int, bias: Tensor | None, at_once: bool
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(packed)
        ctx.at_once = at_once
        return F.linear(x, packed, bias).chunk(parts, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (packed,) = ctx.saved_tensors
        if ctx.at_once:
            return side_by_side(gradients) @ packed, None, None, None, None
        weights = packed.chunk(len(gradients))
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        dx = rows[0] @ weights[0]
        for gradient, weight in zip(rows[1:], weights[1:], strict=True):
            dx.addmm_(gradient, weight)
        return dx.view(*gradients[0].shape[:-1], -1), None, None, None, None


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (..., e) of one shape as one (..., parts * e): without a copy if they lie beside each other already."""
    first = parts[0]
    width, start = first.shape[-1], first.storage_offset()
    row = len(parts) * width
    steps = [row * math.prod(first.shape[place + 1 : -1]) for place in range(first.dim() - 1)]
    lie_there = all(
        part.stride() == (*steps, 1)
        and part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and part.storage_offset() == start + place * width
        for place, part in enumerate(parts)
    )
    return first.as_strided((*first.shape[:-1], row), (*steps, 1)) if lie_there else torch.cat(list(parts), dim=-1)
