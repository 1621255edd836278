"""How long the vocabulary's own vectors are, to compare a token's with: percentiles of their norms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..backbone import Backbone, FrozenModel
from .metadata import norms_by_encoder

PERCENTILES = 101
"""0 %, 1 %, .. 100 %."""

_TABLE_PART = 4096
"""Rows of the token table that are measured at once."""


@torch.no_grad()
def vocabulary_norms(model: FrozenModel, size: int, widths: Sequence[int] = ()) -> tuple[float, ...]:
    """The 101 percentiles of the norms of the token table's `size` rows.

    With `widths`, those of the text encoders, there are 101 for each encoder's columns, one encoder after the other.
    """
    parts = torch.arange(size, device=model.device).split(_TABLE_PART)
    norms = torch.cat([norms_by_encoder(model.embed(part), widths).view(-1, len(part)) for part in parts], dim=1)
    return tuple(norm for of_one in norms for norm in percentiles(of_one))


def mean_norms(backbone: Backbone) -> list[float]:
    """The mean norm of each text encoder's token table."""
    sums = torch.zeros(len(backbone.widths), dtype=torch.float64)
    for part in torch.arange(backbone.vocabulary_size).split(_TABLE_PART):
        columns = backbone.embed(part).split(list(backbone.widths), dim=1)
        sums += torch.stack([rows.double().norm(dim=1).sum() for rows in columns])
    return (sums / backbone.vocabulary_size).tolist()


def percentiles(values: Tensor | Iterable[float]) -> tuple[float, ...]:
    """0 %, 1 %, .. 100 % of some numbers."""
    values = torch.as_tensor(values).cpu().double()  # MPS knows no float64
    return tuple(torch.quantile(values, torch.linspace(0, 1, PERCENTILES, dtype=torch.float64)).tolist())
