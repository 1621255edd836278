"""Several projections of one tensor in one matrix product."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def pack(*layers: nn.Linear) -> Tensor:
    """The weights of frozen linear layers below each other; the layers keep views of it."""
    packed = torch.cat([layer.weight.detach() for layer in layers])
    for layer, weight in zip(layers, packed.split([layer.weight.shape[0] for layer in layers]), strict=True):
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return packed


def project(x: Tensor, packed: Tensor, parts: int, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """x (..., d) times each of `parts` equally large weights in `packed` (parts * e, d), + bias (parts * e,): tensors (..., e).

    Gradients flow to x.
    """
    return _Project.apply(x, packed, parts, bias)


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, parts: int, bias: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(packed)
        return F.linear(x, packed, bias).chunk(parts, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (packed,) = ctx.saved_tensors
        weights = packed.chunk(len(gradients))
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        dx = rows[0] @ weights[0]
        for gradient, weight in zip(rows[1:], weights[1:], strict=True):
            dx.addmm_(gradient, weight)
        return dx.view(*gradients[0].shape[:-1], -1), None, None, None
