"""A text encoder that learns by contrast with pictures, as CLIP's does (Radford et al., 2021).

Captions and their pictures meet in one space: every caption is to be nearer to its own picture than to all others of the
batch, and every picture to its own caption. The image encoder and the projections serve this alone and are not shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossinit_core.models.compact_folder import EOS

from ..world.identity import Identity
from ..world.people import portrait
from .data import Encoder
from .judge import Stage
from .model import encode_text, to_pixels

HOTTEST = 100.0
"""The scale of similarities goes no further, as in CLIP."""

PORTRAIT = "a photo of a face of {} person"
HELD_OUT_PORTRAITS = 1_000_000
"""Portraits that nothing was trained on have this seed and those above it."""


class ImageEncoder(nn.Module):
    """(B, 3, 128, 128) in -1..1 -> (B, space). `widths` are those of its five stages, each half the last size."""

    def __init__(self, widths: Sequence[int], space: int) -> None:
        super().__init__()
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        self.stages = nn.Sequential(*(Stage(a, b, pool=False) for a, b in pairs))
        self.out = nn.Sequential(nn.Linear(widths[-1] * 16, 2 * space), nn.SiLU(), nn.Linear(2 * space, space))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.out(self.stages(pixels).flatten(1))


class Contrast(nn.Module):
    """What there is beside a text encoder of `width`: the image encoder, the text's projection, and the scale, which starts at
    CLIP's 1 / 0.07."""

    def __init__(self, widths: Sequence[int], width: int, space: int) -> None:
        super().__init__()
        self.image = ImageEncoder(widths, space)
        self.project = nn.Linear(width, space, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.project.weight, std=width**-0.5)

    def scale(self) -> Tensor:
        return self.log_scale.clamp(max=math.log(HOTTEST)).exp()

    def pictures(self, pixels: Tensor) -> Tensor:
        """(B, space) float32 of length 1 for (B, 3, 128, 128) in -1..1."""
        return F.normalize(self.image(pixels).float(), dim=-1)

    def texts(self, states: Tensor, ids: Tensor) -> Tensor:
        """(B, space) float32 of length 1: what a text encoder's outputs (B, L, d) are at EOS of ids (B, L), projected."""
        ends = (ids == EOS).int().argmax(dim=1)
        here = states[torch.arange(len(ids), device=ids.device), ends]
        return F.normalize(self.project(here).float(), dim=-1)


def contrastive_loss(texts: Tensor, pictures: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
    """The mean of both cross entropies (Radford et al., 2021, figure 3) of pairs (B, space), rows of length 1.

    Captions that are the same text, ids (B, L), are no contrast to each other: nobody could tell which of their pictures is
    meant.
    """
    with torch.autocast(texts.device.type, enabled=False):
        scores = scale.float() * texts.float() @ pictures.float().t()
    same = (ids[:, None] == ids[None]).all(-1)
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, -math.inf)
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.t(), own)) / 2


def accuracy(texts: Tensor, pictures: Tensor) -> tuple[float, float]:
    """Of N pairs (N, space), the share of texts whose own picture is the nearest, and of pictures whose own text is."""
    scores = texts @ pictures.t()
    own = torch.arange(len(scores), device=scores.device)
    return float((scores.argmax(1) == own).float().mean()), float((scores.argmax(0) == own).float().mean())


@torch.no_grad()
def names_told_apart(
    contrast: Contrast,
    text_encoder: Any,
    embed: Callable[[Tensor], Tensor],
    encoder: Encoder,
    people: Sequence[tuple[str, Identity]],
    portraits: int = 1,
) -> dict[str, float]:
    """How well names find painted portraits that nothing was trained on: one of each of N people, `portraits` times.

    By the whole name, and by its first token alone; the shares are those of `accuracy`. `embed` gives token embeddings
    (N, 77, d) for ids (N, 77).
    """
    device = contrast.log_scale.device

    def pictures(number: int) -> Tensor:
        seeds = range(HELD_OUT_PORTRAITS + number * len(people), HELD_OUT_PORTRAITS + (number + 1) * len(people))
        paintings = np.stack([portrait(who, seed) for seed, (_, who) in zip(seeds, people, strict=True)])
        parts = torch.from_numpy(paintings).split(256)
        return torch.cat([contrast.pictures(to_pixels(part.to(device))) for part in parts])

    before, after = (encoder.ids(part) for part in PORTRAIT.split("{}"))

    def texts(names: Sequence[Sequence[int]]) -> Tensor:
        rows = [encoder.sequence([*before, *name, *after]) for name in names]
        ids = torch.from_numpy(np.stack(rows)).long().to(device)
        return torch.cat([contrast.texts(encode_text(text_encoder, embed(part)), part) for part in ids.split(256)])

    tokens = [encoder.ids(name) for name, _ in people]
    whole, first = texts(tokens), texts([name[:1] for name in tokens])
    sets = [pictures(number) for number in range(portraits)]
    found = np.mean([(*accuracy(whole, each), accuracy(first, each)[0]) for each in sets], axis=0)
    return {
        "people": len(people),
        "chance": 1 / len(people),
        "name to picture": float(found[0]),
        "picture to name": float(found[1]),
        "first token to picture": float(found[2]),
    }
