"""`T(x)`: CLIP's text encoders from token embeddings, over the submodules of any host.

Before it come the embeddings of prompts that are token ids: SDXL's two encoders read the same ids up to EOS, but pad
differently, CLIP-L with EOS and CLIP-G with id 0.

transformers' and ComfyUI's encoders name their parts alike, but neither can be used as it is: the
one takes token ids only, the other adds in place, which breaks backpropagation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbone import Encoded
from ..gpu.kernels import PLAIN, Kernels
from ..gpu.kernels.frozen_layers import pack, project

Packed = Sequence[tuple[Tensor, Tensor]]
"""For each layer, the weights and biases of query, key and value below each other."""


def ends_of(token_ids: Tensor, eos: int) -> Tensor:
    """The places (B,) of the first EOS in prompts (B, L).

    It is found by its id: the largest one, which transformers takes for configurations of old, may be a placeholder's.
    """
    return (token_ids == eos).to(torch.uint8).argmax(dim=1)


def padding_row(
    rows: Callable[[Tensor], Tensor], widths: Sequence[int], pads: Sequence[int], device: torch.device
) -> Tensor:
    """The embedding (d,) of a place behind EOS: each encoder's row of its own padding. `rows` are those of `E`."""
    found = rows(torch.tensor(pads, device=device)).split(list(widths), dim=-1)
    return torch.cat([part[number] for number, part in enumerate(found)])


def pad(embedded: Tensor, ends: Tensor, padding: Tensor) -> Tensor:
    """Embeddings (B, L, d) of prompts that end at `ends` (B,), with the row `padding` (d,) behind each end."""
    behind = torch.arange(embedded.shape[1], device=embedded.device) > ends[:, None]
    return torch.where(behind[..., None], padding, embedded)


def encode_clip(
    embeddings: Tensor,
    positions: Tensor | None,
    layers: Sequence[Any],
    final_layer_norm: Any,
    heads: int,
    *,
    packed: Packed | None = None,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """Pre-norm transformer with causal attention (Radford et al., 2021), differentiable.

    embeddings (B, L, d) of tokens; positions (L', d) with L' >= L, or None if `embeddings` are hidden states that have
    them; `layers` have `layer_norm1`, `self_attn` with `q_proj`, `k_proj`, `v_proj` and `out_proj`, `layer_norm2` and
    `mlp`. Returns (B, L, d): through `final_layer_norm`, or the hidden states as they are if it is None.

    Linear layers may be in half precision: sums and norms are in the precision of the embeddings. `packed` does three
    products of a layer in one.
    """

    def add(x: Tensor, change: Tensor | None, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return kernels.add_layer_norm(x, change, norm.weight, norm.bias, norm.eps, dtype)

    x, change = embeddings if positions is None else embeddings + positions[: embeddings.shape[1]], None
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
    if final_layer_norm is None:
        return x if change is None else x + change
    return add(x, change, final_layer_norm, x.dtype)[1]


def pack_projections(layers: Sequence[Any]) -> Packed:
    """For `encode_clip`, from frozen layers, whose weights become views of it."""
    packed = []
    for layer in layers:
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        packed.append((pack(*parts), torch.cat([part.bias.detach() for part in parts])))
    return packed


class ClipText:
    """One text encoder. `model` has `embeddings`, `encoder.layers` and `final_layer_norm`, as transformers' and ComfyUI's
    have.

    `packed` packs the projections of its layers, whose weights then become views: for private copies.
    """

    def __init__(self, model: Any, heads: int, kernels: Kernels = PLAIN, *, packed: bool = False) -> None:
        self._model, self._heads, self._kernels = model, heads, kernels
        self._layers = list(model.encoder.layers)
        self._packed = pack_projections(self._layers) if packed else None

    @property
    def table(self) -> Tensor:
        """`E`, (V, d)."""
        return self._model.embeddings.token_embedding.weight

    def states(self, embeddings: Tensor) -> Tensor:
        """(B, L, d): all layers and the final LayerNorm."""
        return self._run(embeddings, self._positions, slice(None), self._model.final_layer_norm)

    def penultimate(self, embeddings: Tensor) -> Tensor:
        """(B, L, d): the hidden states before the last layer."""
        return self._run(embeddings, self._positions, slice(0, -1), None)

    def last(self, penultimate: Tensor) -> Tensor:
        """(B, L, d): what the last layer and the final LayerNorm make of the penultimate hidden states."""
        return self._run(penultimate, None, slice(-1, None), self._model.final_layer_norm)

    @property
    def _positions(self) -> Tensor:
        return self._model.embeddings.position_embedding.weight

    def _run(self, x: Tensor, positions: Tensor | None, part: slice, norm: Any) -> Tensor:
        packed = None if self._packed is None else self._packed[part]
        return encode_clip(x, positions, self._layers[part], norm, self._heads, packed=packed, kernels=self._kernels)


class FrozenText:
    """`E` and `T(x)` of a family: one encoder, or the two of SDXL with the second one's `projection` (p, d2).

    SD 1.x and 2.x attend to what the final LayerNorm gives. SDXL attends to the penultimate hidden states of both, side by
    side, and takes the second encoder's projected output at EOS beside it (Podell et al., "SDXL", 2023, section 2.1).
    Matrix products are in the precision of the linear layers, sums and norms in that of the embeddings.
    """

    def __init__(self, encoders: Sequence[ClipText], projection: Tensor | None = None) -> None:
        if (len(encoders) > 1) != (projection is not None):
            raise ValueError(f"{len(encoders)} text encoders, and {'a' if projection is not None else 'no'} projection")
        self._encoders, self._projection = tuple(encoders), projection
        self._widths = [encoder.table.shape[1] for encoder in encoders]

    @property
    def device(self) -> torch.device:
        return self._encoders[0].table.device

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of `E`: (...,) int64 -> (..., d) float32, one encoder's columns after the other's."""
        rows = [encoder.table[token_ids].float() for encoder in self._encoders]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        """`T(x)`: token embeddings (B, L, d) and the places (B,) of EOS -> context (B, L, d) and pooled (B, p)."""
        if self._projection is None:
            return Encoded(self._encoders[0].states(embeddings))
        first, second = embeddings.split(self._widths, dim=-1)
        penultimate = self._encoders[1].penultimate(second)
        context = torch.cat([self._encoders[0].penultimate(first), penultimate], dim=-1)
        last = self._encoders[1].last(penultimate)
        here = torch.arange(last.shape[1], device=last.device) == ends[:, None]
        # A sum of one row and zeros: the gradient of an indexing would be added up in any order.
        pooled = torch.where(here[..., None], last, 0).sum(dim=1)
        return Encoded(context, pooled @ self._projection.to(pooled.dtype).t())

    def last_states(self, embeddings: Tensor) -> Tensor:
        """(B, L, d): what each encoder's last layer and final LayerNorm give for its columns."""
        parts = embeddings.split(self._widths, dim=-1)
        states = [encoder.states(part) for encoder, part in zip(self._encoders, parts, strict=True)]
        return states[0] if len(states) == 1 else torch.cat(states, dim=-1)


def training_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type that a text model's weight is kept in for `FrozenText` if matrix products are to be in `dtype`."""
    if dtype == torch.float32 or "norm" in name or "position_embedding" in name:
        return torch.float32
    # Its values are small and alike: float16 holds them better than bfloat16.
    return torch.float16 if "token_embedding" in name else dtype
