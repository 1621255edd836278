"""`T(x)`: a CLIP text encoder from token embeddings, over the submodules of any host.

transformers' and ComfyUI's encoders name their parts alike, but neither can be used as it is: the
one takes token ids only, the other adds in place, which breaks backpropagation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gpu.kernels import library
from ..gpu.kernels.attention import causal_attention
from ..gpu.kernels.project import pack, project

Packed = Sequence[tuple[Tensor, Tensor]]
"""For each layer, the weights and biases of query, key and value below each other."""


def encode_clip(
    embeddings: Tensor,
    positions: Tensor,
    layers: Sequence[Any],
    final_layer_norm: Any,
    heads: int,
    *,
    packed: Packed | None = None,
    add_layer_norm: Callable[..., tuple[Tensor, Tensor]] = library.add_layer_norm,
    attend: Callable[..., Tensor] = causal_attention,
) -> Tensor:
    """Pre-norm transformer with causal attention (Radford et al., 2021), differentiable.

    embeddings (B, L, d) of tokens; positions (L', d) with L' >= L; `layers` have `layer_norm1`, `self_attn`
    with `q_proj`, `k_proj`, `v_proj` and `out_proj`, `layer_norm2` and `mlp`. Returns (B, L, d).

    Linear layers may be in half precision: sums and norms are in the precision of the embeddings. `packed` does three
    products of a layer in one; `add_layer_norm` computes as `library.add_layer_norm`, `attend` as `causal_attention`.
    """

    def add(x: Tensor, change: Tensor | None, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return add_layer_norm(x, change, norm.weight, norm.bias, norm.eps, dtype)

    x, change = embeddings + positions[: embeddings.shape[1]], None
    for number, layer in enumerate(layers):
        attention = layer.self_attn
        dtype = attention.q_proj.weight.dtype
        x, n = add(x, change, layer.layer_norm1, dtype)
        if packed is None:
            parts = [part(n) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        else:
            parts = list(project(n, packed[number][0], 3, packed[number][1]))
        x, n = add(x, attention.out_proj(attend(*parts, heads)), layer.layer_norm2, dtype)
        change = layer.mlp(n)
    return add(x, change, final_layer_norm, x.dtype)[1]


def pack_projections(layers: Sequence[Any]) -> Packed:
    """For `encode_clip`, from frozen layers, whose weights become views of it."""
    packed = []
    for layer in layers:
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        packed.append((pack(*parts), torch.cat([part.bias.detach() for part in parts])))
    return packed
