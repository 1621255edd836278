"""What the miniature's judges say of pictures of a drawn person. The judge is the one that took no part in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miniature.training import pack
from miniature.training.captions import Prompt
from miniature.training.judge import Verdict, look
from miniature.training.population import World, load_world
from miniature.world.identity import Identity, random_identity, similarity
from miniature.world.painter import paint
from miniature.world.scene import Scene, with_pose

HEADLINE = 1
"""The judge that never met the generator."""

RANDOM_PEOPLE = 500

Pictures = NDArray[np.uint8]
"""(N, 128, 128, 3)."""


@dataclass(frozen=True)
class Findings:
    """Likenesses in 0..1, and shares.

    `likeness` is that of all pictures to the person and `plain` that of the plain ones; `ceiling` and `floor` are those
    of paintings of this person and of somebody else in the same scenes, after the VAE; `nearest_name` is the likeness
    to the person of the celebrity who looks most like it, painted likewise. `rank` is the share of random people to
    whom the plain pictures are less alike than to the person. `editability` is the share of pictures that show all that
    their prompt asks, of those whose prompt asks something.
    """

    likeness: float
    plain: float
    ceiling: float
    floor: float
    nearest_name: float
    rank: float
    editability: float


class Jury:
    """Knows who is meant. `index` is the seed of Paint Drawn Person."""

    def __init__(self, weights: Path, index: int) -> None:
        self._judge = pack.load_judges(weights)[HEADLINE]
        self._world: World = load_world()
        self._index = index
        self.person = self._world.held_out(index)

    def look(self, pictures: Pictures) -> Verdict:
        return look(self._judge, pictures)

    def paintings(self, prompts: Sequence[Prompt]) -> Pictures:
        """For the ceiling, the floor and the nearest name: each prompt's scene with the person, then with somebody else,
        then with the celebrity."""
        rng = np.random.default_rng(self._index)
        other = random_identity(np.random.default_rng([self._index, 1]))
        alike = np.asarray(similarity(self.person.to_vector(), self._world.vectors))
        celebrity = self._world.people[self._world.names[int(alike.argmax())]]
        companion = self._world.people["Anne Hathaway"]
        scenes = [with_pose(Scene(**prompt.asks), rng) for prompt in prompts]  # type: ignore[arg-type]

        def painted(who: Identity, scene: Scene) -> Pictures:
            return paint((who, companion) if scene.companion == "yes" else who, scene, self._index)

        return np.stack([painted(who, scene) for who in (self.person, other, celebrity) for scene in scenes])

    def findings(self, prompts: Sequence[Prompt], pictures: Sequence[Pictures], paintings: Pictures) -> Findings:
        """`pictures` has those of each prompt, and `paintings` is what the VAE made of `paintings(prompts)`."""
        seen = [self.look(those) for those in pictures]
        likeness = [verdict.likeness(self.person) for verdict in seen]
        plain = [i for i, prompt in enumerate(prompts) if not prompt.asks]
        ceiling, floor, nearest = self.look(paintings).likeness(self.person).reshape(3, -1).mean(1)
        rng = np.random.default_rng([self._index, 2])
        people = np.stack([random_identity(rng).to_vector() for _ in range(RANDOM_PEOPLE)])
        ranks = [
            (np.asarray(similarity(seen[i].vectors[:, None], people[None])) < likeness[i][:, None]).mean()
            for i in plain
        ]
        shown = [verdict.shows(p.asks) for p, verdict in zip(prompts, seen, strict=True) if p.asks]
        return Findings(
            likeness=float(np.concatenate(likeness).mean()),
            plain=float(np.concatenate([likeness[i] for i in plain]).mean()),
            ceiling=float(ceiling),
            floor=float(floor),
            nearest_name=float(nearest),
            rank=float(np.mean(ranks)),
            editability=float(np.concatenate(shown).mean()),
        )
