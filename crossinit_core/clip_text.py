"""`T(x)`: a CLIP text encoder from token embeddings, over the submodules of any host.

transformers' and ComfyUI's encoders name their parts alike, but neither can be used as it is: the
one takes token ids only, the other adds in place, which breaks backpropagation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def encode_clip(
    embeddings: Tensor, positions: Tensor, layers: Iterable[Any], final_layer_norm: Any, heads: int
) -> Tensor:
    """Pre-norm transformer with causal attention (Radford et al., 2021), differentiable.

    embeddings (B, L, d) of tokens; positions (L', d) with L' >= L; `layers` have `layer_norm1`, `self_attn`
    with `q_proj`, `k_proj`, `v_proj` and `out_proj`, `layer_norm2` and `mlp`. Returns (B, L, d).
    """
    x = embeddings + positions[: embeddings.shape[1]]
    for layer in layers:
        x = x + _causal_attention(layer.self_attn, layer.layer_norm1(x), heads)
        x = x + layer.mlp(layer.layer_norm2(x))
    return final_layer_norm(x)


def _causal_attention(attention: Any, x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    q, k, v = (
        project(x).view(batch, length, heads, width // heads).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return attention.out_proj(out.transpose(1, 2).reshape(batch, length, width))
