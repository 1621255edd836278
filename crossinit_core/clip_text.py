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

    Linear layers may be in half precision: sums and norms are in the precision of the embeddings.
    """
    x = embeddings + positions[: embeddings.shape[1]]
    for layer in layers:
        dtype = layer.self_attn.q_proj.weight.dtype
        x = x + _causal_attention(layer.self_attn, _norm(layer.layer_norm1, x).to(dtype), heads)
        x = x + layer.mlp(_norm(layer.layer_norm2, x).to(dtype))
    return _norm(final_layer_norm, x)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _causal_attention(attention: Any, x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    q, k, v = (
        project(x).view(batch, length, heads, width // heads).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return attention.out_proj(out.transpose(1, 2).reshape(batch, length, width))
