"""`T(x)`: a CLIP text encoder from token embeddings, over the submodules of any host.

transformers' and ComfyUI's encoders name their parts alike, but neither can be used as it is: the
one takes token ids only, the other adds in place, which breaks backpropagation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..gpu.kernels import PLAIN, Kernels
from ..gpu.kernels.frozen_layers import pack, project

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
    kernels: Kernels = PLAIN,
) -> Tensor:
    """Pre-norm transformer with causal attention (Radford et al., 2021), differentiable.

    embeddings (B, L, d) of tokens; positions (L', d) with L' >= L; `layers` have `layer_norm1`, `self_attn`
    with `q_proj`, `k_proj`, `v_proj` and `out_proj`, `layer_norm2` and `mlp`. Returns (B, L, d).

    Linear layers may be in half precision: sums and norms are in the precision of the embeddings. `packed` does three
    products of a layer in one.
    """

    def add(x: Tensor, change: Tensor | None, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return kernels.add_layer_norm(x, change, norm.weight, norm.bias, norm.eps, dtype)

    x, change = embeddings + positions[: embeddings.shape[1]], None
    for number, layer in enumerate(layers):
        attention = layer.self_attn
        dtype = attention.q_proj.weight.dtype
        x, n = add(x, change, layer.layer_norm1, dtype)
        if packed is None:
            q, k, v = (part(n) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        else:
            q, k, v = project(n, packed[number][0], 3, packed[number][1])
        x, n = add(x, attention.out_proj(kernels.causal_attention(q, k, v, heads)), layer.layer_norm2, dtype)
        change = layer.mlp(n)
    return add(x, change, final_layer_norm, x.dtype)[1]


def pack_projections(layers: Sequence[Any]) -> Packed:
    """For `encode_clip`, from frozen layers, whose weights become views of it."""
    packed = []
    for layer in layers:
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        packed.append((pack(*parts), torch.cat([part.bias.detach() for part in parts])))
    return packed


class FrozenText:
    """`T(x)` and `E` over a private copy of a text model, whose projections it packs.

    Matrix products are in the precision of the linear layers, sums and norms in float32. `model` has `embeddings`,
    `encoder.layers` and `final_layer_norm`, as transformers' and ComfyUI's have.
    """

    def __init__(self, model: Any, heads: int, kernels: Kernels) -> None:
        self._model, self._heads, self._kernels = model, heads, kernels
        self._layers = list(model.encoder.layers)
        self._packed = pack_projections(self._layers)

    def embed(self, token_ids: Tensor) -> Tensor:
        """(...,) int64 -> (..., d) float32."""
        return self._model.embeddings.token_embedding.weight[token_ids].float()

    def encode(self, embeddings: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d) float32, differentiable."""
        return encode_clip(
            embeddings,
            self._model.embeddings.position_embedding.weight,
            self._layers,
            self._model.final_layer_norm,
            self._heads,
            packed=self._packed,
            kernels=self._kernels,
        )


def training_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type that a text model's weight is kept in for `FrozenText` if matrix products are to be in `dtype`."""
    if dtype == torch.float32 or "norm" in name or "position_embedding" in name:
        return torch.float32
    # Its values are small and alike: float16 holds them better than bfloat16.
    return torch.float16 if "token_embedding" in name else dtype
