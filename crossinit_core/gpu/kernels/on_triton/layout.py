"""How pictures lie in memory for the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

BY_PIXELS = torch.channels_last
"""A pixel's channels are beside each other."""
CHANNELS = 64
"""Channels of a tile."""


def by_pixels(x: Tensor) -> Tensor:
    """x (B, C, H, W) with a pixel's channels beside each other and pixels at equal distances, as in a part of some channels."""
    row = x.stride(3)
    even = x.stride(1) == 1 and x.stride(2) == row * x.shape[3]
    return x if even else x.contiguous(memory_format=BY_PIXELS)


def floats(like: Tensor, count: int, *shape: int) -> tuple[Tensor, ...]:
    """`count` tensors of a shape beside each other, uninitialized, where `like` is."""
    return torch.empty((count, *shape), device=like.device, dtype=torch.float32).unbind()
