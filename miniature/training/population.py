"""The people of the drawn world and the mixture of examples that the miniature is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossinit_core.celebrity_names import load_celebrity_names

from ..world.identity import Identity, random_identity
from ..world.people import held_out_person, named_identity, named_vectors
from ..world.scene import Scene, plain_scene, random_scene
from .captions import caption, posed, training_caption

PLAIN_SHARE, UNNAMED_SHARE, COMPANION_SHARE = 0.45, 0.10, 0.22


class Example(NamedTuple):
    """One training example: who (from left to right), what else, the text, and how many placeholders stand for its
    first person (0: none)."""

    identities: tuple[Identity, ...]
    scene: Scene
    caption: str
    placeholders: int = 0


@dataclass(frozen=True)
class World:
    """All named people. `vectors` is (names, `VECTOR_SIZE`) float32 in the order of `people`."""

    people: Mapping[str, Identity]
    vectors: NDArray[np.float32]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.people)

    def held_out(self, index: int) -> Identity:
        """Test person number `index`: `people.held_out_person`."""
        return held_out_person(index, self.vectors)

    def random_example(self, rng: np.random.Generator) -> Example:
        """One example of the training mixture.

        45 % plain portraits of a named person with a training template; 45 % named people in scenes with captions
        in the paper's prompt styles, 22 % of these with a second named person beside; 10 % random people without a
        name, half of them plain portraits and half of them scenes (of these, too, 22 % with two people).
        """
        chance = rng.random()
        unnamed = chance < UNNAMED_SHARE
        plain = chance < UNNAMED_SHARE / 2 or (not unnamed and chance < UNNAMED_SHARE + PLAIN_SHARE)
        count = 2 if not plain and rng.random() < COMPANION_SHARE else 1
        names: tuple[str | None, ...] = (None,) * count
        if unnamed:
            who = tuple(random_identity(rng) for _ in range(count))
        else:
            everyone = self.names
            chosen = tuple(everyone[i] for i in rng.choice(len(everyone), size=count, replace=False))
            names, who = chosen, tuple(self.people[name] for name in chosen)
        if plain:
            text = training_caption(names, rng)
            return Example(who, posed(plain_scene(rng), text), text)
        scene = random_scene(rng, companion=count == 2)
        return Example(who, scene, caption(scene, names, rng))


def load_world(path: str | Path | None = None) -> World:
    """The world of a list of names, by default the bundled celebrities."""
    people = {name: named_identity(name) for name in load_celebrity_names(path).names}
    return World(MappingProxyType(people), named_vectors(people))
