"""What judges see, and the paintings that their answers are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from miniature.training.captions import Prompt
from miniature.training.judge import Judge, Verdict, accuracies
from miniature.training.sampling import Sampler
from miniature.world.identity import Identity, random_identity, similarity
from miniature.world.painter import paint_batch
from miniature.world.scene import plain_scene, random_scene


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    digest = hashlib.sha256(" ".join(map(str, ("crossinit claims", *key))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def judged(
    verdict: Verdict, who: Identity, people: NDArray[np.float32], prompts: Sequence[Prompt], seeds: int
) -> dict[str, list[float]]:
    """For every prompt the mean over its pictures of what one judge sees; `seeds` pictures a prompt, in their order.

    likeness to the person; others, the same to random `people` (n, `VECTOR_SIZE`); rank, the share of these whom the
    picture resembles less; shown, whether everything asked for is there; no_portrait.
    """
    likeness = verdict.likeness(who)
    others = np.asarray(similarity(verdict.vectors[:, None], people[None]))
    shown = [verdict.shows(prompt.asks)[i * seeds : (i + 1) * seeds] for i, prompt in enumerate(prompts)]
    columns = {
        "likeness": likeness,
        "others": others.mean(1),
        "rank": (others < likeness[:, None]).mean(1),
        "shown": np.concatenate(shown),
        "no_portrait": verdict.clean < 0.5,
    }
    return {
        name: [round(float(x), 5) for x in values.reshape(len(prompts), seeds).mean(1)]
        for name, values in columns.items()
    }


def repaint(
    person: Identity, companion: Identity, prompts: Sequence[Prompt], seeds: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """(prompts * seeds, 128, 128, 3): the person in scenes that fulfil the prompts, all seeds of a prompt together."""
    scenes = [
        replace(plain_scene(rng), **dict(prompt.asks))  # type: ignore[arg-type]
        for prompt in prompts
        for _ in range(seeds)
    ]
    sitters = [(person, companion) if scene.companion == "yes" else person for scene in scenes]
    return paint_batch(sitters, scenes, rng.integers(2**31, size=len(scenes)).tolist())


def examine(judges: Sequence[Judge], sampler: Sampler, count: int) -> list[dict[str, dict[str, float]]]:
    """For each judge its accuracies on `count` fresh paintings of people that nobody has seen, and on the same
    paintings after the VAE."""
    rng = generator("examination")
    people = [random_identity(rng) for _ in range(count)]
    scenes = [random_scene(rng, companion=rng.random() < 0.2) for _ in people]
    others = [random_identity(rng) for _ in people]
    sitters = [(a, b) if s.companion == "yes" else a for a, b, s in zip(people, others, scenes, strict=True)]
    pictures = paint_batch(sitters, scenes, rng.integers(2**31, size=len(scenes)).tolist())
    vectors = torch.from_numpy(np.stack([person.to_vector() for person in people]))
    labels = torch.tensor([list(scene.labels().values()) for scene in scenes])
    kinds = {"painted": pictures, "through the VAE": sampler.through_vae(pictures)}
    found = []
    for judge in judges:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            answers = {n: accuracies(judge, torch.from_numpy(p), vectors, labels) for n, p in kinds.items()}
        found.append({n: {key: round(share, 4) for key, share in each.items()} for n, each in answers.items()})
    return found
