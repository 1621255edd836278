"""A picture made twice as large by repeating its pixels, and the 3 x 3 convolution of it, as one convolution of the small one.

An output pixel sees 3 x 3 pixels of the large picture, but only 2 x 2 of the small one. So there are four kernels of 2 x 2,
one for each place in a square of output pixels, whose weights are sums of the layer's: 4/9 of the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .frozen_layers import can_convolve


def can_be_folded(layer: Any) -> bool:
    """Whether `folded` can take the place of an enlargement and this layer."""
    return (
        can_convolve(layer)
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
    )


def folded(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer C -> 4 D of 2 x 2 that gives for (B, C, H, W) all there is to know of the output (B, D, 2 H, 2 W).

    Its result (B, 4 D, H + 1, W + 1) goes through `plain.interleave`. It has no bias; weights are summed in float32.
    """
    weight = layer.weight.detach().float()
    rows = _sums(weight, 2)
    kernels = [kernel for row in rows for kernel in _sums(row, 3)]
    few = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 2, padding=1, bias=False, device="meta")
    packed = torch.cat(kernels).to(layer.weight.dtype)
    few.weight = nn.Parameter(packed, requires_grad=False)
    return few


def unfolded(few: nn.Conv2d) -> nn.Conv2d:
    """The layer that `folded` was made of, without its bias and within rounding: for sizes that are not doubled."""
    a, b, c, d = few.weight.detach().float().chunk(4)
    weight = _terms(_terms(a, b, 3), _terms(c, d, 3), 2)
    layer = nn.Conv2d(few.in_channels, few.out_channels // 4, 3, padding=1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.to(few.weight.dtype), requires_grad=False)
    return layer


def _terms(first: Tensor, second: Tensor, side: int) -> Tensor:
    """The three weights along a side of which `_sums` gave these."""
    before, after = first.narrow(side, 0, 1), second.narrow(side, 1, 1)
    return torch.cat([before, second.narrow(side, 0, 1) - before, after], side)


def _sums(weight: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """What three weights are for two small pixels, along a side: for the first and the second of two output pixels."""
    before, here, after = weight.split(1, side)
    return torch.cat([before, here + after], side), torch.cat([before + here, after], side)
