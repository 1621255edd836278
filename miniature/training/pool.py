"""The examples that a run trains on, on its device, and the token rows that no word of the table has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossinit_core.families import CONTEXT_LENGTH
from crossinit_core.models.compact_folder import EOS

from ..world.identity import VECTOR_SIZE
from ..world.scene import ATTRIBUTES
from .data import FIRST_PLACEHOLDER, HELD_OUT_SHARDS, UNKNOWN, Painters, Shard


class Pool:
    """All examples on the device, in the order in which they came, and the held-out ones apart.

    pictures (capacity, 128, 128, 3) uint8 and so on as in `paint_shard`; moments (capacity, 8, 16, 16) float16, mean
    and deviation of the scaled posterior, of the first `encoded` examples. `longest` is the most tokens that a caption has,
    BOS and EOS included.
    """

    def __init__(self, capacity: int, device: torch.device, latent_size: int = 16) -> None:
        self.capacity, self.count, self.encoded = capacity, 0, 0
        self.columns = {
            "pictures": torch.empty(capacity, 128, 128, 3, dtype=torch.uint8, device=device),
            "tokens": torch.empty(capacity, CONTEXT_LENGTH, dtype=torch.int32, device=device),
            "vectors": torch.empty(capacity, VECTOR_SIZE, dtype=torch.float16, device=device),
            "labels": torch.empty(capacity, len(ATTRIBUTES), dtype=torch.uint8, device=device),
            "random": torch.empty(capacity, dtype=torch.bool, device=device),
        }
        self.moments = torch.empty(capacity, 8, latent_size, latent_size, dtype=torch.float16, device=device)
        self.held_out: dict[str, Tensor] = {}
        self.seen = torch.zeros(FIRST_PLACEHOLDER, dtype=torch.bool)
        self.longest = 1
        self._device = device
        self._strangers: Tensor | None = None

    def add(self, index: int, shard: Shard) -> None:
        """Take in a shard, as far as there is room."""
        if index < HELD_OUT_SHARDS:
            part = {name: torch.from_numpy(values).to(self._device) for name, values in shard.items()}
            self.held_out = {
                name: torch.cat([self.held_out[name], part[name]]) if self.held_out else part[name] for name in part
            }
            return
        taken = min(len(shard["tokens"]), self.capacity - self.count)
        for name, values in shard.items():
            self.columns[name][self.count : self.count + taken].copy_(torch.from_numpy(values[:taken]))
        ids = torch.from_numpy(shard["tokens"][:taken]).long().flatten()
        self.seen[ids[ids < FIRST_PLACEHOLDER]] = True
        self.longest = max(self.longest, 1 + int((shard["tokens"][:taken] == EOS).argmax(1).max(initial=0)))
        self.count += taken
        self._strangers = None

    def fill(self, painters: Painters, most: int) -> None:
        """Take in up to `most` shards that are ready."""
        for _ in range(most):
            if self.count >= self.capacity or (ready := painters.next()) is None:
                return
            self.add(*ready)

    def indices(self, count: int, strangers: float = 0.0, below: int | None = None) -> Tensor:
        """(count,) random examples, about a share of `strangers` of them with people who have no name."""
        chosen = torch.randint(below or self.count, (count,), device=self._device)
        if strangers:
            if self._strangers is None:
                self._strangers = self.columns["random"][: self.count].nonzero()[:, 0]
            if len(self._strangers):
                special = self._strangers[
                    torch.randint(len(self._strangers), (int(count * strangers),), device=self._device)
                ]
                chosen[: len(special)] = special
        return chosen


class ExtraRows(nn.Module):
    """Token rows that are not in the table: of a word that means nothing, whose row becomes that of all words that no
    caption uses, and of people without a name, by a linear map from a face to its 1, 2 or 3 placeholders. The map is not
    shipped.

    mean (`VECTOR_SIZE`,) is the mean face, or None if there is no map. No row is longer than `longest`.
    """

    def __init__(self, width: int, mean: Tensor | None, longest: float | None) -> None:
        super().__init__()
        self.slots, self.longest = UNKNOWN - FIRST_PLACEHOLDER, longest
        self.map: nn.Linear | None = None
        self.mean: Tensor | None
        self.register_buffer("mean", mean)
        if mean is not None:
            self.map = nn.Linear(len(mean), self.slots * width)
        self.unknown = nn.Parameter(0.02 * torch.randn(width))
        if self.map is not None:
            nn.init.normal_(self.map.weight, std=0.008)
            nn.init.zeros_(self.map.bias)

    def other(self) -> Tensor:
        """(d,): the row of the word that means nothing."""
        return self._short(self.unknown)

    def embed(self, rows: Tensor, ids: Tensor, faces: Tensor) -> Tensor:
        """(B, L, d) embeddings of (B, L) ids, of which those above the table (V, d) are extra rows."""
        known, is_extra = F.embedding(ids.clamp(max=len(rows) - 1), rows), (ids >= FIRST_PLACEHOLDER)[..., None]
        if self.map is None or self.mean is None:
            return torch.where(is_extra, self.other(), known)
        own = self.map(faces.float() - self.mean).view(len(ids), self.slots, -1).float()
        extra = self._short(torch.cat([own, self.unknown.expand(len(ids), 1, -1)], 1))
        slot = (ids - FIRST_PLACEHOLDER).clamp(min=0)[..., None].expand(-1, -1, rows.shape[1])
        return torch.where(is_extra, extra.gather(1, slot), known)

    def _short(self, rows: Tensor) -> Tensor:
        if self.longest is None:
            return rows
        return rows * (self.longest / rows.norm(dim=-1, keepdim=True).clamp(min=self.longest))
