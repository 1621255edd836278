"""The numbers at the end of a training run, and grids of pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..world.identity import Identity, similarity
from ..world.painter import contact_sheet, paint
from ..world.scene import Scene, plain_scene, random_scene, with_pose
from .captions import PROMPTS, asked, caption
from .data import STAND_IN, reserved
from .judge import Judge, Verdict, accuracies, look
from .model import encode_text, table
from .population import World
from .sampling import Sampler


@dataclass(frozen=True)
class Wish:
    """A prompt, who it is about (from left to right) and a scene that fulfils it."""

    text: str
    who: tuple[Identity, ...]
    scene: Scene

    def painted(self, seed: int = 0) -> NDArray[np.uint8]:
        return paint(self.who, self.scene, seed)


def unseen_wishes(world: World, count: int, seed: int = 11) -> list[Wish]:
    """Names in scenes that were kept from training; every sixth with a second person."""
    rng = np.random.Generator(np.random.PCG64(seed))
    wishes: list[Wish] = []
    while len(wishes) < count:
        two = len(wishes) % 6 == 5
        names = tuple(world.names[i] for i in rng.choice(len(world.names), size=1 + two, replace=False))
        scene = random_scene(rng, companion=two)
        if reserved(names[0], scene):
            wishes.append(Wish(caption(scene, names, rng), tuple(world.people[name] for name in names), scene))
    return wishes


def plain_wishes(world: World, count: int, seed: int = 12) -> list[Wish]:
    """Plain portraits of people with names."""
    rng = np.random.Generator(np.random.PCG64(seed))
    names = [world.names[i] for i in rng.choice(len(world.names), size=count, replace=False)]
    return [Wish(f"a photo of a face of {name} person", (world.people[name],), plain_scene(rng)) for name in names]


def prompt_wishes(world: World, people: int, seed: int = 13) -> list[Wish]:
    """The prompts of the evaluation, for people with names."""
    rng = np.random.Generator(np.random.PCG64(seed))
    names = [world.names[i] for i in rng.choice(len(world.names), size=people, replace=False)]
    other = world.people["Anne Hathaway"]
    wishes = []
    for prompt in PROMPTS:
        for name in names:
            scene = with_pose(Scene(**prompt.asks), rng)  # type: ignore[arg-type]
            who = (world.people[name], other) if scene.companion == "yes" else (world.people[name],)
            wishes.append(Wish(prompt.text.format(name), who, scene))
    return wishes


def save_grid(sampler: Sampler, wishes: Sequence[Wish], path: Path, columns: int = 8) -> None:
    """Each wish as the model samples it, right of the painter's truth."""
    sampled = sampler.pictures([wish.text for wish in wishes])
    both = [picture for wish, own in zip(wishes, sampled, strict=True) for picture in (wish.painted(), own)]
    contact_sheet(np.stack(both), columns).quantize(192).save(path, optimize=True)


def save_reconstructions(sampler: Sampler, pictures: NDArray[np.uint8], path: Path) -> None:
    """Paintings, and right of each what the VAE makes of it."""
    back = sampler.through_vae(pictures)
    both = np.stack([pictures, back], axis=1).reshape(-1, *pictures.shape[1:])
    contact_sheet(both, 8).quantize(192).save(path, optimize=True)


@torch.no_grad()
def evaluate(
    sampler: Sampler,
    judges: Sequence[Judge],
    world: World,
    held_out: Mapping[str, Tensor],
    virtual: Callable[[Tensor, Tensor], Tensor] | None,
    people: int = 128,
) -> dict[str, Any]:
    """Everything that says how good the model is, judged by each judge apart.

    `virtual` maps (n, 77) ids and (n, `VECTOR_SIZE`) faces to token embeddings: with it, people without a name are
    sampled as well, which tells how well faces between the known ones can be reached.
    """
    plain, unseen = plain_wishes(world, people), unseen_wishes(world, people)
    prompts = prompt_wishes(world, max(people // 10, 1))
    strangers = [world.held_out(i) for i in range(people // 2)]
    sampled = {
        "plain": sampler.pictures([wish.text for wish in plain], seed=1),
        "unseen scenes": sampler.pictures([wish.text for wish in unseen], seed=2),
        "prompts": sampler.pictures([wish.text for wish in prompts], seed=3),
    }
    if virtual is not None and strangers:
        text = sampler.encoder.encode(f"a photo of a face of {STAND_IN} person", placeholders=2)
        ids = torch.from_numpy(text).long().to(sampler.device).expand(len(strangers), -1)
        faces = torch.from_numpy(np.stack([who.to_vector() for who in strangers])).to(sampler.device)
        sampled["strangers by their map"] = sampler.pictures([], seed=4, embeddings=virtual(ids, faces))
    wishes = {"plain": plain, "unseen scenes": unseen, "prompts": prompts}
    truth = {name: sampler.through_vae(np.stack([w.painted() for w in each])) for name, each in wishes.items()}
    originals = held_out["pictures"][:256].cpu().numpy()
    error = (sampler.through_vae(originals).astype(np.float64) - originals) / 255
    rows, context = _norms(sampler, plain)
    result: dict[str, Any] = {
        "vae": {"mean absolute error": float(np.abs(error).mean()), "psnr": float(-10 * np.log10((error**2).mean()))},
        "norms": {"token rows of names": rows, "encoder output": context},
        "judges": [],
    }
    for judge in judges:
        numbers: dict[str, Any] = {
            "on held-out paintings": accuracies(judge, held_out["pictures"], held_out["vectors"], held_out["labels"])
        }
        for name, each in wishes.items():
            own, real = look(judge, sampled[name]), look(judge, truth[name])
            numbers[name] = _compare(own, real, each, world)
        if "strangers by their map" in sampled:
            numbers["strangers by their map"] = _strangers(
                look(judge, sampled["strangers by their map"]), strangers, world
            )
        result["judges"].append(numbers)
    return result


def _norms(sampler: Sampler, wishes: Sequence[Wish]) -> tuple[float, float]:
    ids = torch.from_numpy(np.stack([sampler.encoder.encode(wish.text) for wish in wishes[:32]])).long()
    rows = table(sampler.parts.text_encoder)[ids.to(sampler.device)]
    return float(rows[:, 7:9].norm(dim=-1).mean()), float(
        encode_text(sampler.parts.text_encoder, rows).norm(dim=-1).mean()
    )


def _compare(own: Verdict, real: Verdict, wishes: Sequence[Wish], world: World) -> dict[str, Any]:
    people = [wish.who[0] for wish in wishes]
    everybody = np.asarray(similarity(own.vectors[:, None], world.vectors[None]))
    likeness = own.likeness(people)
    asks = [asked(wish.text) for wish in wishes]
    shown = {
        name: [
            (bool(own.shows({k: a[k]})[i]), bool(real.shows({k: a[k]})[i]))
            for i, a in enumerate(asks)
            for k in a
            if k == name
        ]
        for name in sorted({k for a in asks for k in a})
    }
    pairs = {name: np.mean(np.array(each), axis=0) for name, each in shown.items()}
    return {
        "likeness": float(likeness.mean()),
        "floor (somebody else)": float(own.likeness(people[1:] + people[:1]).mean()),
        "ceiling (painted, through the VAE)": float(real.likeness(people).mean()),
        "share nearer than 95 % of names": float(((everybody > likeness[:, None]).mean(1) < 0.05).mean()),
        "share nearest of all names": float((everybody.max(1) <= likeness + 1e-9).mean()),
        "editability": float(np.mean([own.shows(a)[i] for i, a in enumerate(asks)])),
        "editability of paintings": float(np.mean([real.shows(a)[i] for i, a in enumerate(asks)])),
        "by attribute (drawn, painted)": {name: [round(float(x), 3) for x in pair] for name, pair in pairs.items()},
        "share of no portraits": float((own.clean < 0.5).mean()),
        "share of no portraits, painted": float((real.clean < 0.5).mean()),
    }


def _strangers(own: Verdict, people: Sequence[Identity], world: World) -> dict[str, float]:
    truth = np.stack([who.to_vector() for who in people])
    nearest = np.asarray(similarity(truth[:, None], world.vectors[None])).max(1)
    likeness = own.likeness(people)
    return {
        "likeness": float(likeness.mean()),
        "floor (somebody else)": float(own.likeness(list(people[1:]) + list(people[:1])).mean()),
        "similarity of the nearest name": float(nearest.mean()),
        "share of no portraits": float((own.clean < 0.5).mean()),
    }
