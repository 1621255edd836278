"""Judges: small networks that say who is in a picture, what else it shows, and whether it is a portrait at all.

They learn from the painter alone. Two are trained side by side, with other widths, other ways of shrinking and other
random numbers: the first one's features also serve the VAE's loss, the second never meets the generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..world.identity import CATEGORICAL, CONTINUOUS, SLICES, VECTOR_SIZE, Identity, similarity
from ..world.scene import ATTRIBUTES
from .model import smooth_noise, to_pixels


def _attribute_slices() -> dict[str, slice]:
    slices, start = {}, VECTOR_SIZE
    for name, values in ATTRIBUTES.items():
        slices[name] = slice(start, start + len(values))
        start += len(values)
    return slices


ATTRIBUTE_SLICES = _attribute_slices()
OUTPUTS = VECTOR_SIZE + sum(map(len, ATTRIBUTES.values())) + 1
"""Identity (numbers before a sigmoid, named values as logits), attributes as logits, and the logit of a portrait."""


class Stage(nn.Module):
    """Half the size, then one residual convolution."""

    def __init__(self, inner: int, outer: int, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.shrink = nn.Conv2d(inner, outer, 3, stride=1 if pool else 2, padding=1)
        self.norm = nn.GroupNorm(4, outer)
        self.mix = nn.Conv2d(outer, outer, 3, padding=1)
        self.norm_after = nn.GroupNorm(4, outer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shrink(F.avg_pool2d(x, 2) if self.pool else x)
        x = F.silu(self.norm(x))
        return x + F.silu(self.norm_after(self.mix(x)))


class Judge(nn.Module):
    """(B, 3, 128, 128) in -1..1 -> (B, `OUTPUTS`). `widths` are those of its five stages, each half the last size."""

    def __init__(self, widths: Sequence[int], pool: bool = False, hidden: int = 112) -> None:
        super().__init__()
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        self.stages = nn.ModuleList([Stage(a, b, pool and i > 0) for i, (a, b) in enumerate(pairs)])
        self.hidden = nn.Linear(widths[-1] * 16, hidden)
        self.out = nn.Linear(hidden, OUTPUTS)

    def features(self, x: Tensor) -> list[Tensor]:
        """What the stages see: (B, widths[i], 128 / 2^(i+1), the same)."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.hidden(self.features(x)[-1].flatten(1))))


def build_judges(widths: Sequence[Sequence[int]]) -> list[Judge]:
    return [Judge(each, pool=bool(i % 2)) for i, each in enumerate(widths)]


# ------------------------------------------------------------------------------------------------ training


def blurred(pixels: Tensor) -> Tensor:
    """What a VAE may do to a picture: softer, a little noisy, colours a little off. Half the pictures stay sharp."""
    pieces = []
    for piece in pixels.chunk(8):
        if torch.rand(()) < 0.5:
            size = int(torch.randint(48, 112, ()))
            small = F.interpolate(piece, (size, size), mode="bilinear", antialias=True, align_corners=False)
            piece = F.interpolate(small, pixels.shape[-2:], mode="bicubic", align_corners=False)
        piece = piece + float(torch.rand(())) * 0.06 * torch.randn_like(piece)
        wash = smooth_noise(len(piece), 4, piece)
        pieces.append(piece + 0.04 * wash + 0.04 * torch.randn(len(piece), 3, 1, 1, device=piece.device))
    return torch.cat(pieces).clamp(-1, 1)


def ruined(pixels: Tensor) -> Tensor:
    """No clean portraits any more: noise, shuffled tiles, ghosts, no face, warped, upside down. (B, 3, 128, 128)."""
    kinds = []
    for kind, piece in enumerate(pixels.chunk(7)):
        count = len(piece)
        if kind == 0:
            out = smooth_noise(count, 2 ** int(torch.randint(1, 8, ())), piece) * 0.6
        elif kind == 1:
            tile = (16, 32)[int(torch.randint(2, ()))]
            side = 128 // tile
            tiles = piece.reshape(count, 3, side, tile, side, tile).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
            tiles = tiles[:, torch.randperm(side * side, device=piece.device)]
            out = tiles.reshape(count, side, side, 3, tile, tile).permute(0, 3, 1, 4, 2, 5).reshape(piece.shape)
        elif kind == 2:
            out = (piece + piece.roll(1, 0).roll(24, 3) + piece.roll(2, 0).roll((-30, 20), (3, 2))) / 3
        elif kind == 3:
            out = piece + (0.5 + torch.rand(count, 1, 1, 1, device=piece.device)) * torch.randn_like(piece)
        elif kind == 4:
            out = F.interpolate(piece[..., :14], (128, 128), mode="bilinear", align_corners=False)
        elif kind == 5:
            line = torch.linspace(-1, 1, 128, device=piece.device)
            grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
            flow = smooth_noise(count, 6, piece)[:, :2].movedim(1, -1) * 0.35
            out = F.grid_sample(piece, grid + flow, padding_mode="reflection", align_corners=False)
        else:
            out = piece.flip(2)
        kinds.append(out)
    return torch.cat(kinds).clamp(-1, 1)


def judge_loss(out: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
    """Mean loss for (B, `OUTPUTS`) of clean pictures: L1 of numbers, cross entropies of named values and attributes.

    vectors (B, `VECTOR_SIZE`), labels (B, 9). In pictures of two, who is meant stands left. A spacesuit has no colour.
    """
    numbers = len(CONTINUOUS)
    weights = torch.tensor(list(CONTINUOUS.values()), device=out.device).sqrt()
    loss = 4.0 * (weights * (out[:, :numbers].sigmoid() - vectors[:, :numbers]).abs()).mean()
    for name in CATEGORICAL:
        loss = loss + 0.1 * F.cross_entropy(out[:, SLICES[name]], vectors[:, SLICES[name]].argmax(1))
    spacesuit = labels[:, list(ATTRIBUTES).index("clothing")] == ATTRIBUTES["clothing"].index("spacesuit")
    for i, (name, place) in enumerate(ATTRIBUTE_SLICES.items()):
        wanted = labels[:, i].masked_fill(spacesuit, -100) if name == "clothing_colour" else labels[:, i]
        loss = loss + 0.1 * F.cross_entropy(out[:, place], wanted, ignore_index=-100)
    return loss


def judge_step(judge: nn.Module, pictures: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
    """The loss of one batch of paintings, (B, 128, 128, 3) uint8: blurred as they are, and a quarter of them ruined."""
    pixels = to_pixels(pictures)
    clean, broken = blurred(pixels), ruined(pixels[: max(len(pixels) // 4, 7)])
    out = judge(torch.cat([clean, broken])).float()
    is_clean = (torch.arange(len(out), device=out.device) < len(clean)).float()
    portrait = F.binary_cross_entropy_with_logits(out[:, -1], is_clean)
    return judge_loss(out[: len(clean)], vectors.float(), labels.long()) + 0.3 * portrait


# ----------------------------------------------------------------------------------------------- judgement


@dataclass(frozen=True)
class Verdict:
    """What a judge sees in N pictures: vectors (N, `VECTOR_SIZE`) with probabilities in place of one-hots; for every
    attribute (N, values) probabilities; clean (N,), the probability of a portrait."""

    vectors: NDArray[np.float32]
    attributes: Mapping[str, NDArray[np.float32]]
    clean: NDArray[np.float32]

    def likeness(self, people: Identity | Sequence[Identity] | NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) `similarity` to one person or to N (identities or vectors)."""
        if isinstance(people, Identity):
            people = [people]
        wanted = people if isinstance(people, np.ndarray) else np.stack([who.to_vector() for who in people])
        return np.asarray(similarity(self.vectors, wanted))

    def values(self, name: str) -> list[str]:
        """The likeliest value of an attribute in every picture."""
        return [ATTRIBUTES[name][i] for i in self.attributes[name].argmax(1)]

    def shows(self, asks: Mapping[str, str]) -> NDArray[np.bool_]:
        """(N,) whether everything asked for is the likeliest value of its attribute."""
        seen = np.ones(len(self.clean), dtype=np.bool_)
        for name, value in asks.items():
            seen &= self.attributes[name].argmax(1) == ATTRIBUTES[name].index(value)
        return seen


@torch.no_grad()
def look(judge: Judge, pictures: NDArray[np.uint8] | Tensor, batch: int = 256) -> Verdict:
    """Judge pictures, (N, 128, 128, 3) uint8."""
    device = next(judge.parameters()).device
    given = torch.as_tensor(pictures)
    if given.ndim != 4 or tuple(given.shape[1:]) != (128, 128, 3) or given.dtype != torch.uint8:
        raise ValueError(f"Judges look at (N, 128, 128, 3) uint8, but got {tuple(given.shape)} {given.dtype}.")
    out = torch.cat([judge(to_pixels(part.to(device))).float().cpu() for part in given.split(batch)])
    vectors = out[:, :VECTOR_SIZE].sigmoid()
    for name in CATEGORICAL:
        vectors[:, SLICES[name]] = out[:, SLICES[name]].softmax(1)
    found = {name: out[:, place].softmax(1).numpy() for name, place in ATTRIBUTE_SLICES.items()}
    return Verdict(vectors.numpy(), found, out[:, -1].sigmoid().numpy())


def likeness(
    judge: Judge, pictures: NDArray[np.uint8] | Tensor, who: Identity | Sequence[Identity]
) -> NDArray[np.float64]:
    """(N,) in 0..1: how alike the faces in the pictures are to one person or to N."""
    return look(judge, pictures).likeness(who)


def attributes(judge: Judge, pictures: NDArray[np.uint8] | Tensor) -> dict[str, list[str]]:
    """The likeliest value of every scene attribute in each picture."""
    verdict = look(judge, pictures)
    return {name: verdict.values(name) for name in ATTRIBUTES}


def accuracies(judge: Judge, pictures: Tensor, vectors: Tensor, labels: Tensor) -> dict[str, float]:
    """On paintings that the judge never saw: the mean error of each number (`error NAME`), the share right of each
    named value and attribute, and of portraits told from ruins."""
    verdict = look(judge, pictures)
    truth, marks = vectors.float().cpu().numpy(), labels.long().cpu().numpy()
    found: dict[str, float] = {}
    for name in CONTINUOUS:
        found[f"error {name}"] = float(np.abs(verdict.vectors - truth)[:, SLICES[name]].mean())
    for name in CATEGORICAL:
        right = verdict.vectors[:, SLICES[name]].argmax(1) == truth[:, SLICES[name]].argmax(1)
        found[name] = float(right.mean())
    suit = marks[:, list(ATTRIBUTES).index("clothing")] == ATTRIBUTES["clothing"].index("spacesuit")
    for i, name in enumerate(ATTRIBUTES):
        right = verdict.attributes[name].argmax(1) == marks[:, i]
        found[name] = float(right[~suit].mean() if name == "clothing_colour" and not suit.all() else right.mean())
    pixels = ruined(to_pixels(pictures[:1024]))
    broken = look(judge, ((pixels + 1) * 127.5).round().byte().movedim(1, -1))
    found["portrait"] = float((verdict.clean > 0.5).mean())
    found["no portrait"] = float((broken.clean < 0.5).mean())
    found["likeness of held-out people"] = float(verdict.likeness(truth).mean())
    return found
