"""Insides that are computed a second time in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..gpu.kernels import Kernels


def checkpointed(forward: Any) -> Any:
    """`forward`, which keeps what goes in and nothing of what it computes.

    Random numbers are not put back: a frozen network draws none, and a CUDA graph cannot record that.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def feed_forward_again(
    norm: nn.LayerNorm, inner: nn.Linear, outer: nn.Linear, kernels: Kernels
) -> Callable[[Tensor, Tensor], Tensor]:
    """x and residual (..., C) -> s + outer(geglu(inner(norm(s)))) for s = x + residual, without outer's bias.

    It keeps s alone, C numbers a row, where autograd keeps 8 C more; for that the product of `inner` is done twice.
    """
    return lambda x, residual: _FeedForward.apply(x, residual, norm, inner, outer.weight, kernels)


class _FeedForward(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, norm: nn.LayerNorm, inner: nn.Linear, outer: Tensor, kernels: Kernels
    ) -> Tensor:
        total, n = kernels.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps, x.dtype)
        ctx.save_for_backward(total)
        ctx.norm, ctx.inner, ctx.outer, ctx.kernels = norm, inner, outer, kernels
        return kernels.feed_forward(total, n, inner.weight, inner.bias, outer)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (total,) = ctx.saved_tensors
        norm, inner = ctx.norm, ctx.inner
        with torch.enable_grad():
            leaf = total.detach().requires_grad_()
            same, n = ctx.kernels.add_layer_norm(leaf, None, norm.weight, norm.bias, norm.eps, leaf.dtype)
        h = F.linear(n.detach(), inner.weight, inner.bias)
        dn = ctx.kernels.gradient_of_geglu(h, dy @ ctx.outer) @ inner.weight
        (dx,) = torch.autograd.grad([same, n], leaf, [dy, dn])
        return dx, dx, None, None, None, None
