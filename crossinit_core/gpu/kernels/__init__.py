"""Operations of a frozen network that run as one kernel each, with gradients to activations only.

`plain` computes them with torch's own kernels, on any device, and says what each one is; `on_triton` has a file for each
operation that a Triton kernel does faster. `gpu.self_tests.choose` decides between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import plain


@dataclass(frozen=True)
class Kernels:
    """What a network's blocks are computed with. `plain` has the signature of each operation, and says what it computes."""

    name: str
    """Tells these kernels from others."""
    memory_format: torch.memory_format
    """How pictures (B, C, H, W) lie in memory."""
    group_norm: Callable[..., tuple[Tensor, Tensor]]
    add_layer_norm: Callable[..., tuple[Tensor, Tensor]]
    feed_forward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    gradient_of_geglu: Callable[[Tensor, Tensor], Tensor]
    add_bias: Callable[[Tensor, Tensor, Tensor], Tensor]
    interleave: Callable[[Tensor, Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    attention_of_any_length: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    """The same, by its own kernels also where `attention` gives odd numbers of queries to a library's."""
    causal_attention: Callable[[Tensor, Tensor, Tensor, int], Tensor]


PLAIN = Kernels(
    name="torch",
    memory_format=torch.contiguous_format,
    group_norm=plain.group_norm,
    add_layer_norm=plain.add_layer_norm,
    feed_forward=plain.feed_forward,
    gradient_of_geglu=plain.gradient_of_geglu,
    add_bias=plain.add_bias,
    interleave=plain.interleave,
    attention=plain.attention,
    attention_of_any_length=plain.attention,
    causal_attention=plain.causal_attention,
)
"""For any device."""


def triton_kernels(*, attention: bool) -> Kernels:
    """The Triton kernels; the attention is torch's unless `attention` is set. Raises ImportError without Triton."""
    from .on_triton import add_bias, feed_forward, group_norm, interleave, layer_norm
    from .on_triton import attention as own_attention
    from .on_triton.layout import BY_PIXELS

    attends = own_attention if attention else plain
    return Kernels(
        name="Triton with its attention" if attention else "Triton",
        memory_format=BY_PIXELS,
        group_norm=group_norm.group_norm,
        add_layer_norm=layer_norm.add_layer_norm,
        feed_forward=feed_forward.feed_forward,
        gradient_of_geglu=feed_forward.gradient_of_geglu,
        add_bias=add_bias.add_bias,
        interleave=interleave.interleave,
        attention=attends.attention,
        attention_of_any_length=own_attention.attention_of_any_length if attention else plain.attention,
        causal_attention=attends.causal_attention,
    )
