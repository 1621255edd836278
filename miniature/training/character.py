"""What makes a miniature like Stable Diffusion or unlike it: how long token rows and the text encoder's outputs are, and
which tokens of a name say who is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossinit_core import celebrity_mean, cross_initialize
from crossinit_core.diffusers_backbone import DiffusersBackbone

from ..world.identity import similarity
from . import pack
from .contrast import PORTRAIT
from .data import Encoder
from .judge import look
from .model import Parts
from .population import World, load_world
from .sampling import Sampler

FRAMES = {"the name alone": "{}", "in a caption": PORTRAIT}
PLACES = ("first", "second")


def character(folder: Path, device: str | torch.device = "cpu", people: int = 128, steps: int = 20) -> dict[str, Any]:
    """Measures of the miniature in a folder, over the bundled names that have two tokens or more.

    norms: Euclidean lengths: `rows of names` in the token table, `outputs at names` in a caption, their `ratio`, and the two
    vectors of the `celebrity mean` and of the `cross initialization` that it gives.
    outputs: for a name alone and in a caption, the mean `norm` of what the text encoder puts out at the first and the second
    token of the names, and its `spread`: the mean distance from the mean over all names.
    pictures: `people` names drawn from the whole name, and from one of its first two tokens alone: the second judge's
    `likeness` to the person, and the share of pictures that are `nearest` to that person of all bundled names. `steps` is how
    many steps of sampling a picture takes.
    """
    backbone, world = pack.load_backbone(folder, device), load_world()
    encoder = Encoder(backbone.tokenizer)
    tokens = {name: ids for name in world.names if len(ids := encoder.ids(name)) >= len(PLACES)}
    states = {frame: _states(backbone, encoder, list(tokens.values()), text) for frame, text in FRAMES.items()}
    rows = backbone.embed(torch.tensor([i for ids in tokens.values() for i in ids[:2]])).float().norm(dim=1).mean()
    outputs = states["in a caption"].norm(dim=2).mean()
    return {
        "norms": {
            "rows of names": float(rows),
            "outputs at names": float(outputs),
            "ratio": float(outputs / rows),
            "celebrity mean": celebrity_mean(backbone, world.names).norm(dim=1).tolist(),
            "cross initialization": cross_initialize(backbone, world.names).norm(dim=1).tolist(),
        },
        "outputs": {
            frame: dict(zip(PLACES, map(_spread, each.unbind(1)), strict=True)) for frame, each in states.items()
        },
        "pictures": _pictures(backbone, encoder, folder, world, tokens, people, steps),
    }


def _framed(encoder: Encoder, names: Sequence[Sequence[int]], text: str) -> tuple[Tensor, int]:
    """(N, 77) ids of the names in a text, and where their first tokens stand."""
    before, after = (encoder.ids(part) for part in text.split("{}"))
    return torch.from_numpy(np.stack([encoder.sequence([*before, *name, *after]) for name in names])).long(), 1 + len(
        before
    )


@torch.no_grad()
def _states(backbone: DiffusersBackbone, encoder: Encoder, names: Sequence[Sequence[int]], text: str) -> Tensor:
    """(N, 2, d) float32 on the CPU: the outputs at the first two tokens of each name."""
    ids, at = _framed(encoder, names, text)
    parts = [backbone.last_states(backbone.embed(part.to(backbone.device)))[:, at : at + 2] for part in ids.split(256)]
    return torch.cat(parts).float().cpu()


def _spread(states: Tensor) -> dict[str, float]:
    return {
        "norm": float(states.norm(dim=1).mean()),
        "spread": float((states - states.mean(0)).norm(dim=1).mean()),
    }


@torch.no_grad()
def _pictures(
    backbone: DiffusersBackbone,
    encoder: Encoder,
    folder: Path,
    world: World,
    tokens: dict[str, list[int]],
    people: int,
    steps: int,
) -> dict[str, dict[str, float]]:
    rng = np.random.Generator(np.random.PCG64(21))
    names = [list(tokens)[i] for i in rng.permutation(len(tokens))[:people]]
    sampler = Sampler(Parts(backbone.text_encoder, backbone.unet, backbone.vae), encoder, backbone.device, steps)
    judge = pack.load_judges(folder)[1].to(backbone.device)
    truth = np.stack([world.people[name].to_vector() for name in names])
    found = {}
    for what, part in {
        "the whole name": slice(None),
        "its first token": slice(1),
        "its second token": slice(1, 2),
    }.items():
        ids, _ = _framed(encoder, [tokens[name][part] for name in names], PORTRAIT)
        verdict = look(judge, sampler.pictures([], seed=5, embeddings=backbone.embed(ids.to(backbone.device))))
        alike = verdict.likeness(truth)
        best = np.asarray(similarity(verdict.vectors[:, None], world.vectors[None])).max(1)
        found[what] = {"likeness": float(alike.mean()), "nearest": float((alike >= best - 1e-9).mean())}
    return found
