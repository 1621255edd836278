"""The people of the drawn world and the mixture of examples that the miniature is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossinit_core.celebrity_names import load_celebrity_names
from crossinit_core.models.compact_folder import load_tokenizer

from ..world.identity import Identity, random_identity, similarity
from ..world.people import HELD_OUT_LIMIT, held_out_person, named_identity, named_vectors
from ..world.scene import Scene, plain_scene, random_scene
from .captions import caption, fixed_texts, posed, training_caption
from .names import made_up_names

PLAIN_SHARE, UNNAMED_SHARE, COMPANION_SHARE = 0.45, 0.10, 0.22
TEST_PEOPLE = 128


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

    def random_example(self, rng: np.random.Generator, unnamed_share: float = UNNAMED_SHARE) -> Example:
        """One example of the training mixture.

        45 % plain portraits of a named person with a training template; a share of random people without a name, by
        default 10 %, half of them plain portraits and half of them scenes; the rest named people in scenes with captions
        in the paper's prompt styles. 22 % of the scenes show two people, who both have a name or both have none.
        """
        chance = rng.random()
        unnamed = chance < unnamed_share
        plain = chance < unnamed_share / 2 or (not unnamed and chance < unnamed_share + PLAIN_SHARE)
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


def load_world(path: str | Path | None = None, made_up: int = 0) -> World:
    """The world of a list of names, by default the bundled celebrities, and of so many made-up names after them.

    A made-up name whose face is about that of one of the first `TEST_PEOPLE` test persons is left out, so that these are
    the same people in every world, and strangers.
    """
    people = {name: named_identity(name) for name in load_celebrity_names(path).names}
    vectors = named_vectors(people)
    if made_up:
        tokenizer = load_tokenizer()
        people |= _strangers_to_tests(made_up_names(tokenizer, made_up, (*people, *fixed_texts())), vectors)
        vectors = named_vectors(people)
    return World(MappingProxyType(people), vectors)


def _strangers_to_tests(names: Sequence[str], bundled: NDArray[np.float32]) -> dict[str, Identity]:
    tests = [held_out_person(index, bundled).to_vector() for index in range(TEST_PEOPLE)]
    vectors = named_vectors(names)
    nearest = np.max([np.asarray(similarity(test, vectors)) for test in tests], axis=0)
    return {name: named_identity(name) for name, alike in zip(names, nearest, strict=True) if alike < HELD_OUT_LIMIT}
