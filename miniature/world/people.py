"""Who there is in the drawn world: faces that belong to names, and people that no name has, kept for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .identity import Identity, random_identity, similarity
from .painter import paint
from .scene import plain_scene

HELD_OUT_LIMIT = 0.86
"""A held-out person is less similar than this to every named one."""


def named_identity(name: str) -> Identity:
    """The face that belongs to a name, always the same one."""
    return random_identity(_generator(f"crossinit miniature name: {name}"))


def named_vectors(names: Iterable[str]) -> NDArray[np.float32]:
    """(names, `VECTOR_SIZE`) float32, in order."""
    return np.stack([named_identity(name).to_vector() for name in names])


def held_out_person(index: int, named: NDArray[np.float32]) -> Identity:
    """Test person number `index` (0 or more): from a seed space of its own, and far from everyone in `named`, the
    `named_vectors` of those who have names."""
    attempt = 0
    while True:
        person = random_identity(_generator(f"crossinit miniature held out: {index} {attempt}"))
        if float(np.max(similarity(person.to_vector(), named))) < HELD_OUT_LIMIT:
            return person
        attempt += 1


def portrait(person: Identity, seed: int) -> NDArray[np.uint8]:
    """A plain portrait, (128, 128, 3) uint8. `seed` (0 or more) decides pose, clothes and background."""
    rng = _generator(f"crossinit miniature portrait: {seed}")
    return paint(person, plain_scene(rng), int(rng.integers(2**31)))


def _generator(text: str) -> np.random.Generator:
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
