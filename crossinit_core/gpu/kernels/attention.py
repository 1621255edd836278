"""Attention without a mask, by the fastest way that repeats bit for bit."""

from __future__ import annotations

import inspect

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""cuDNN's is faster on some GPUs, but its backward pass adds in an order that varies."""
_IN_ORDER = {"set_priority": True} if "set_priority" in inspect.signature(sdpa_kernel).parameters else {}
"""PyTorch 2.5 has an order of its own."""


class Attention:
    """`attention(q, k, v, heads)`: q (B, L, heads * D), k and v (B, L', heads * D) -> (B, L, heads * D).

    `own_kernels` are `triton_attention`'s, where they fit; torch's otherwise.
    """

    def __init__(self, own_kernels: bool) -> None:
        self.own_kernels = own_kernels

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if self.own_kernels:
            from . import triton_attention

            if triton_attention.fits(q, k, v, heads):
                return triton_attention.attend(q, k, v, heads)
        return library_attention(q, k, v, heads)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """The same where a query sees the keys up to its own place."""
        if self.own_kernels:
            from . import triton_attention

            if triton_attention.fits(q, k, v, heads) and triton_attention.few(k, heads):
                return triton_attention.attend(q, k, v, heads, causal=True)
        return causal_attention(q, k, v, heads)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """torch's attention of (B, L, heads * D) where a query sees the keys up to its own place."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def library_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """torch's attention, whatever order of backends the host prefers."""
    with sdpa_kernel(BACKENDS, **_IN_ORDER) if q.is_cuda else sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(*(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v)))
    return out.transpose(1, 2).flatten(2)
