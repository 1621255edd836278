"""Painting in the background: worker processes write shards of examples, the trainer reads them.

A worker is `python -m miniature.training.data ...`: a process of its own with nothing shared but files, so none can hang the
trainer. Shard k is the same on every machine and for any number of workers. Shards below `HELD_OUT_SHARDS` show
people without names only and are kept for testing the judges.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossinit_core.families import CONTEXT_LENGTH
from crossinit_core.models.compact_folder import BOS, EOS, PAD, VOCABULARY, load_tokenizer

from ..world.identity import VECTOR_SIZE, Identity, random_identity
from ..world.painter import paint
from ..world.scene import ATTRIBUTES, PLACES, Scene, plain_scene, random_scene
from .captions import caption, posed, training_caption
from .population import COMPANION_SHARE, UNNAMED_SHARE, Example, World, load_world

HELD_OUT_SHARDS = 4
STAND_IN = "Qxzq"
"""Stands for a person without a name while a caption is made; its tokens become placeholders."""

FIRST_PLACEHOLDER = VOCABULARY
MOST_PLACEHOLDERS = 3
UNKNOWN = FIRST_PLACEHOLDER + MOST_PLACEHOLDERS * (MOST_PLACEHOLDERS + 1) // 2
"""Ids above the vocabulary: K placeholders of a person start at `FIRST_PLACEHOLDER` + K (K - 1) / 2; then a word that
means nothing, whose row becomes that of all words that no caption uses."""

UNKNOWN_SHARE = 0.04


@dataclass(frozen=True)
class Mixture:
    """What the pool holds: `virtual` is the share of people known by vectors that a linear map gives for their face.

    The bundled names alone are 792 points. Learning a new face is a search between the points, so the encoder also sees
    vectors there, or `made_up` names beside them. The rest is `World.random_example`, with `unnamed` as its share of people
    without a name.
    """

    seed: int = 0
    virtual: float = 0.25
    shard_size: int = 512
    unnamed: float = UNNAMED_SHARE
    made_up: int = 0

    def world(self) -> World:
        """Everybody who is painted under a name."""
        return load_world(made_up=self.made_up)


def reserved(name: str, scene: Scene) -> bool:
    """Whether this person in this scene is kept from training: a sixteenth of all that are no plain portraits."""
    place = scene.background if scene.background in PLACES else ""
    what = (scene.expression, scene.eyewear, scene.hat, scene.headphones, scene.clothing, place, scene.style)
    if what == ("neutral", "none", "none", "no", "tshirt", "", "plain"):
        return False
    return hashlib.sha256("|".join((name, *what)).encode()).digest()[0] < 16


def random_example(world: World, names: dict[Identity, str], rng: np.random.Generator, mixture: Mixture) -> Example:
    """One example of the mixture, people without a name included; none that is `reserved`."""
    while True:
        virtual = rng.random() < mixture.virtual
        example = _virtual(world, rng) if virtual else world.random_example(rng, mixture.unnamed)
        people = [names.get(who) for who in example.identities]
        if not any(name and reserved(name, example.scene) for name in people):
            return example


def _virtual(world: World, rng: np.random.Generator) -> Example:
    who, placeholders = random_identity(rng), int(rng.choice(MOST_PLACEHOLDERS, p=(0.15, 0.7, 0.15))) + 1
    if rng.random() < 0.5:
        text = training_caption((STAND_IN,), rng)
        return Example((who,), posed(plain_scene(rng), text), text, placeholders)
    if rng.random() < COMPANION_SHARE:
        other = world.names[int(rng.integers(len(world.names)))]
        scene = random_scene(rng, companion=True)
        return Example((who, world.people[other]), scene, caption(scene, (STAND_IN, other), rng), placeholders)
    scene = random_scene(rng)
    return Example((who,), scene, caption(scene, (STAND_IN,), rng), placeholders)


def _nameless(world: World, rng: np.random.Generator) -> Example:
    example = world.random_example(rng)
    return example._replace(identities=tuple(random_identity(rng) for _ in example.identities))


class Encoder:
    """Captions to 77 token ids, with placeholders and meaningless words."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._stand_in = self.ids(STAND_IN)

    def ids(self, text: str) -> list[int]:
        """Token ids without BOS and EOS."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, text: str, placeholders: int = 0, rng: np.random.Generator | None = None) -> NDArray[np.int32]:
        """(77,) ids. `STAND_IN` in the text becomes the placeholders; with `rng`, some texts get a meaningless word."""
        ids = self.ids(text)
        if placeholders:
            length = len(self._stand_in)
            at = next(i for i in range(len(ids)) if ids[i : i + length] == self._stand_in)
            first = FIRST_PLACEHOLDER + placeholders * (placeholders - 1) // 2
            ids[at : at + length] = range(first, first + placeholders)
        if rng is not None and rng.random() < UNKNOWN_SHARE:
            ids.insert(int(rng.integers(len(ids) + 1)), UNKNOWN)
        return self.sequence(ids)

    def sequence(self, ids: Sequence[int]) -> NDArray[np.int32]:
        """(77,): BOS, as many of the ids as fit, EOS and padding."""
        row = [BOS, *ids[: CONTEXT_LENGTH - 2], EOS]
        return np.array(row + [PAD] * (CONTEXT_LENGTH - len(row)), dtype=np.int32)


Shard = dict[str, NDArray[Any]]


def paint_shard(index: int, world: World, encoder: Encoder, mixture: Mixture) -> Shard:
    """One shard of n examples.

    pictures (n, 128, 128, 3) uint8; tokens (n, 77) int32; vectors (n, `VECTOR_SIZE`) float16 of the first person;
    labels (n, 9) uint8 in the order of `ATTRIBUTES`; random (n,) bool, whether the first person has no name.
    """
    rng = np.random.Generator(np.random.PCG64([mixture.seed, index]))
    names = {who: name for name, who in world.people.items()}
    count = mixture.shard_size
    shard: Shard = {
        "pictures": np.empty((count, 128, 128, 3), np.uint8),
        "tokens": np.empty((count, CONTEXT_LENGTH), np.int32),
        "vectors": np.empty((count, VECTOR_SIZE), np.float16),
        "labels": np.empty((count, len(ATTRIBUTES)), np.uint8),
        "random": np.empty((count,), np.bool_),
    }
    for i in range(count):
        held_out = index < HELD_OUT_SHARDS
        example = _nameless(world, rng) if held_out else random_example(world, names, rng, mixture)
        shard["pictures"][i] = paint(example.identities, example.scene, int(rng.integers(2**31)))
        shard["tokens"][i] = encoder.encode(example.caption, example.placeholders, rng)
        shard["vectors"][i] = example.identities[0].to_vector()
        shard["labels"][i] = list(example.scene.labels().values())
        shard["random"][i] = example.identities[0] not in names
    return shard


MOST_WAITING = 96
"""Shards that may lie in the folder unread."""


@dataclass(frozen=True)
class Painting:
    """What workers paint into `folder`: `shards` of a mixture. They end when process `parent` is gone.

    With `keep`, shards stay there when they were read, so that a later run need not paint them again; then all must fit on
    the disk.
    """

    folder: Path
    workers: int
    shards: int
    mixture: Mixture
    keep: bool = False
    parent: int = 0

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npz"

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Painting:
        values = json.loads(text)
        return cls(**{**values, "folder": Path(values["folder"]), "mixture": Mixture(**values["mixture"])})


def paint_shards(order: Painting, worker: int) -> None:
    """Paint every `order.workers`-th shard that is not there, until all are painted or the trainer is gone."""
    left = [index for index in range(worker, order.shards, order.workers) if not order.path(index).exists()]
    if not left:
        return
    world, encoder = order.mixture.world(), Encoder(load_tokenizer())
    most = order.shards if order.keep else MOST_WAITING
    for index in left:
        while os.getppid() == order.parent and sum(1 for _ in order.folder.glob("*.npz")) >= most:
            time.sleep(0.5)
        if os.getppid() != order.parent:
            return
        shard = paint_shard(index, world, encoder, order.mixture)
        unfinished = order.path(index).with_suffix(".tmp")
        with unfinished.open("wb") as file:
            np.savez(file, **shard)  # type: ignore[arg-type]
        unfinished.rename(order.path(index))


class Painters:
    """Workers and a reading thread: `next` gives finished shards. A context manager; leaving it ends the workers.

    Kept shards of the same mixture that lie in the folder are given too; whatever else lies there is deleted.
    """

    def __init__(self, order: Painting) -> None:
        order.folder.mkdir(parents=True, exist_ok=True)
        self._order = replace(order, parent=os.getpid())
        self._clear()
        self._queue, self._closing = queue.Queue[tuple[int, Shard]](maxsize=16), threading.Event()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "",
        }
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH", ""))))
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", "miniature.training.data", str(worker), self._order.to_json()],
                cwd=root,
                env=environment,
            )
            for worker in range(order.workers)
        ]
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _clear(self) -> None:
        """Leave nothing in the folder but kept shards of this mixture."""
        note, wanted = self._order.folder / "mixture.json", json.dumps(asdict(self._order.mixture))
        same = self._order.keep and note.is_file() and note.read_text(encoding="utf-8") == wanted
        for left in self._order.folder.iterdir():
            if not same or left.suffix == ".tmp":
                left.unlink()
        if self._order.keep:
            note.write_text(wanted, encoding="utf-8")

    def _read(self) -> None:
        known: set[Path] = set()
        while not self._closing.is_set():
            paths = [path for path in sorted(self._order.folder.glob("*.npz")) if path not in known]
            for path in paths:
                with np.load(path) as file:
                    shard = {name: file[name] for name in file.files}
                if self._order.keep:
                    known.add(path)
                else:
                    path.unlink()
                while not self._closing.is_set():
                    try:
                        self._queue.put((int(path.stem), shard), timeout=0.5)
                        break
                    except queue.Full:
                        continue
            if not paths:
                time.sleep(0.05)

    def next(self, timeout: float = 0.0) -> tuple[int, Shard] | None:
        """The number and content of a shard, or None if none is ready within `timeout` seconds.

        Raises RuntimeError if all workers failed, so that nothing more will come.
        """
        try:
            return self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
        except queue.Empty:
            codes = [worker.poll() for worker in self._workers]
            if all(code not in (None, 0) for code in codes):
                raise RuntimeError(f"All painting workers failed (exit codes {codes}); see their messages.") from None
            return None

    def __enter__(self) -> Painters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill()
        self._thread.join(timeout=10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("worker", type=int)
    parser.add_argument("order", type=Painting.from_json)
    given = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(10)
    paint_shards(given.order, given.worker)
