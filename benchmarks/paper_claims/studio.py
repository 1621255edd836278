"""One worker's model: it learns people, samples pictures of them, and has judges look."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crossinit_core import (
    InversionSettings,
    LearnedToken,
    StepReport,
    celebrity_mean,
    cross_initialize,
    cross_initialize_words,
    invert,
    lookup_words,
)
from crossinit_core.celebrity_names import load_celebrity_names
from crossinit_core.evaluation import drift
from crossinit_core.learning.objective import splice
from crossinit_core.learning.resume_files import SUFFIX
from crossinit_core.prompts import token_ids_with_placeholders
from miniature.training import pack
from miniature.training.data import Encoder
from miniature.training.judge import look
from miniature.training.model import Parts
from miniature.training.population import World, load_world
from miniature.training.sampling import Sampler
from miniature.world.identity import Identity, random_identity
from miniature.world.people import portrait

from .context import HeldContext
from .nearest import nearest_mean
from .paintings import examine, generator, judged, repaint
from .plan import WORD, Job, Plan, Run
from .results import Results, read_json, write_json
from .settling import FixedBatch, SettledError

RESUME_EVERY = 250
SHEETS = 2
"""Pictures are kept of so many people."""

RANDOM_PEOPLE = 200

SETTLED = "settled after"
"""The key, in a token's metadata, of the steps after which its learning had settled."""
NAMES_APART = 19
"""Of the list of names every so many-th is looked at."""


class OutOfTimeError(Exception):
    """The time limit came in the middle of a run, or the driver is gone; what was done is in the run's resume file."""


@dataclass
class Clock:
    """When to stop, in `time.time()`, and how many learn at once on this machine."""

    deadline: float | None = None
    workers: int = 1

    def check(self) -> None:
        """Raises OutOfTimeError after the deadline, and in a worker whose driver was killed."""
        driver = multiprocessing.parent_process()
        if driver is not None and not driver.is_alive():
            raise OutOfTimeError
        if self.deadline is not None and time.time() > self.deadline:
            raise OutOfTimeError


class Studio:
    """The shipped miniature on one device, both judges, and the drawn world."""

    def __init__(self, weights: Path, plan: Plan, results: Results, device: str, clock: Clock | None = None) -> None:
        # cuBLAS reads this once, when CUDA starts; `invert` asks for reproducible numbers.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_num_threads(1)
        self.plan, self.results, self.clock = plan, results, clock or Clock()
        self.device = torch.device(device)
        self.backbone = pack.load_backbone(weights, self.device)
        parts = Parts(self.backbone.text_encoder, self.backbone.unet, self.backbone.vae)
        encoder = Encoder(self.backbone.tokenizer)
        self.sampler = Sampler(parts, encoder, self.device, plan.sampling_steps, plan.guidance)
        self.judges = [judge.to(self.device) for judge in pack.load_judges(weights)]
        self.world: World = load_world()
        self._people = np.stack([random_identity(generator("people", i)).to_vector() for i in range(RANDOM_PEOPLE)])

    def do(self, job: Job) -> None:
        """A job's missing results. Raises OutOfTimeError if the clock says so."""
        if job.run is not None:
            self.learn(job.run, job.identity)
        elif job.kind == "reference":
            write_json(self.results.path("reference", job.identity), self.reference(job.identity))
        elif job.kind == "named":
            write_json(self.results.path("named", job.identity), self.named(job.identity))
        else:
            write_json(self.results.path("judges", 0), examine(self.judges, self.sampler, self.plan.examination))

    # ---- learning

    def portrait(self, identity: int) -> NDArray[np.uint8]:
        """The one picture that is learned from: painted, plain."""
        return portrait(self.world.held_out(identity), identity)

    def photos(self, run: Run, identity: int) -> Tensor:
        """(N, 128, 128, 3) in 0..1: that picture, and for a run from several photos others of the same person."""
        who = self.world.held_out(identity)
        found = [self.portrait(identity), *(portrait(who, identity + 1000 * i) for i in range(1, run.photos))]
        return torch.from_numpy(np.stack(found).astype(np.float32) / 255)

    def start(self, run: Run) -> Tensor:
        """(K, d), where learning starts."""
        starts: Mapping[str, Callable[[], Tensor]] = {
            "words": lambda: lookup_words(self.backbone, run.words, run.vectors),
            "mean": lambda: celebrity_mean(self.backbone, self.world.names, run.vectors),
            "cross names": lambda: cross_initialize(self.backbone, self.world.names, run.vectors),
            "cross words": lambda: cross_initialize_words(self.backbone, run.words, run.vectors),
        }
        return starts[run.start]()

    def start_for(self, run: Run, identity: int) -> Tensor:
        """(K, d), where learning a person starts, if that depends on the photo."""
        if run.start == "nearest":
            return nearest_mean(self.backbone, self.world.names, self.portrait(identity), run.vectors)
        return self.start(run)

    def learn(self, run: Run, identity: int) -> None:
        """Learn a person, and at every mark sample the prompts and have the pictures judged.

        Each mark continues the run of the last one from its resume file, which gives the same bits as one long run.
        """
        job = Job("learn", identity, run)
        folder = self.results.folder / "resume" / job.trajectory
        start = self.start_for(run, identity)
        for steps in run.marks:
            if self.results.path(run.config(steps), identity).is_file():
                continue
            token, seconds = self.learned(run, identity, start, steps, folder)
            self.clock.check()
            self._write(run, identity, steps, start, token, seconds)
        further = run.name == "plain" and not self.results.path(run.config(self.plan.long), identity).is_file()
        if folder.is_dir() and not further:
            shutil.rmtree(folder)

    def learned(
        self, run: Run, identity: int, start: Tensor, steps: int, folder: Path
    ) -> tuple[LearnedToken, float | None]:
        """The token after so many steps, and the seconds that all of these took (None if that is not known)."""
        settings = InversionSettings(
            steps=steps,
            learning_rate=run.learning_rate,
            regularization=run.regularization,
            method=run.method,
            prior=run.prior,
            schedule=run.schedule,
            timesteps=run.timesteps,
            seed=identity,
            precision="fp32",
            resolution=128,
            resume_every=RESUME_EVERY,
            memory="normal",
        )
        images = self.photos(run, identity)
        masks = _around_the_head(images) if run.masked else None
        backbone: Any = self.backbone
        if run.context:
            backbone = HeldContext(self.backbone, WORD, run.vectors, run.context)
        fixed = FixedBatch(self.backbone, images[:1], run.vectors) if run.settles else None
        record, before = folder / "seconds.json", {"step": 0, "seconds": 0.0}
        if any(folder.glob(f"*{SUFFIX}")):
            before = read_json(record, before)
        done, began = 0, time.perf_counter()
        last: deque[Tensor] = deque(maxlen=run.average)

        def on_step(report: StepReport) -> None:
            nonlocal done
            done = report.step
            if run.average > 1:
                last.append(report.vectors)
            if done % RESUME_EVERY == 0:
                note(done)
            self.clock.check()
            if fixed:
                fixed.look(report.step, report.vectors)

        def note(step: int) -> None:
            write_json(record, {"step": step, "seconds": before["seconds"] + time.perf_counter() - began})

        try:
            result = invert(
                backbone,
                start,
                settings,
                images=images,
                masks=masks,
                on_step=on_step,
                resume_folder=folder,
                resume=not fixed,
            )
        except SettledError as end:
            return LearnedToken(end.vectors, "settled", self.backbone.base, {SETTLED: str(end.step)}), None
        except BaseException:
            if done > before["step"]:
                note(done)
            raise
        known = before["step"] == result.resumed_from
        note(steps)
        token = replace(result.token, vectors=torch.stack(list(last)).mean(0)) if last else result.token
        return token, before["seconds"] + result.seconds if known else None

    def _write(
        self, run: Run, identity: int, steps: int, start: Tensor, token: LearnedToken, seconds: float | None
    ) -> None:
        moved = drift(token.vectors, start)
        pictures = self.pictures(token.vectors, identity)
        result = {
            "config": run.config(steps),
            "identity": identity,
            "start_norm": moved.start_norms.tolist(),
            "norm": moved.norms.tolist(),
            "norm_ratio": moved.norm_ratios.tolist(),
            "angle": moved.angles.tolist(),
            "distance": moved.distances.tolist(),
            "seconds": seconds,
            **({"steps": int(token.metadata.get(SETTLED, steps))} if run.settles else {}),
            "workers": self.clock.workers,
            "device": device_name(self.device),
            "judges": self.judged(pictures, self.world.held_out(identity)),
        }
        if run.group in ("main", "long"):
            self._keep(pictures, run.config(steps), identity)
        write_json(self.results.path(run.config(steps), identity), result)

    def _keep(self, pictures: NDArray[np.uint8], config: str, identity: int) -> None:
        """The first picture of each prompt, side by side, for the first people."""
        if identity < SHEETS:
            path = self.results.folder / "pictures" / config / f"{identity:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            strip = Image.fromarray(np.concatenate(pictures[:: self.plan.seeds], axis=1))
            strip.quantize(256).save(path, optimize=True)

    def alone(self, marks: tuple[int, ...]) -> dict[str, Any]:
        """Seconds of a run with nothing beside it: learning after each mark, and sampling all prompts once."""
        run = replace(self.plan.runs()[0], marks=marks)
        folder = self.results.folder / "resume" / "alone"
        shutil.rmtree(folder, ignore_errors=True)
        start = self.start(run)
        self.learned(run, 0, start, 3, folder / "warm-up")
        seconds = {str(steps): self.learned(run, 0, start, steps, folder)[1] for steps in marks}
        self.pictures(start, 0, seeds=1)
        began = time.perf_counter()
        self.pictures(start, 0, seeds=1)
        shutil.rmtree(folder)
        return {"learning": seconds, "pictures": time.perf_counter() - began, "device": device_name(self.device)}

    # ---- pictures and what judges see

    def pictures(
        self,
        vectors: Tensor,
        identity: int,
        seeds: int | None = None,
        *,
        first: Tensor | None = None,
        share: float = 0.0,
    ) -> NDArray[np.uint8]:
        """(prompts * seeds, 128, 128, 3): all seeds of a prompt, then the next prompt.

        A person's pictures start from the same noise however the person was learned. With `first`, those vectors stand in the
        prompts for the first `share` of the noise levels, and only then `vectors`.
        """
        seeds = seeds or self.plan.seeds
        embeddings = self._prompts(vectors, seeds)
        begun = None if first is None else self._prompts(first, seeds)
        return self.sampler.pictures([], seed=identity, embeddings=embeddings, first=begun, share=share)

    def _prompts(self, vectors: Tensor, seeds: int) -> Tensor:
        """Token embeddings (prompts * seeds, 77, d) of the prompts with these vectors."""
        backbone = self.backbone
        ids = torch.tensor(
            [token_ids_with_placeholders(backbone, prompt.text, len(vectors)) for prompt in self.plan.prompts]
        )
        known = backbone.embed(ids.clamp_max(backbone.vocabulary_size - 1))
        embeddings = splice(vectors, known, ids, backbone.vocabulary_size)
        return embeddings.repeat_interleave(seeds, dim=0)

    def judged(self, pictures: NDArray[np.uint8], who: Identity) -> list[dict[str, list[float]]]:
        """What each judge sees in the pictures of a person."""
        return [
            judged(look(judge, pictures), who, self._people, self.plan.prompts, self.plan.seeds)
            for judge in self.judges
        ]

    def reference(self, identity: int) -> dict[str, Any]:
        """The ceiling: the person repainted in scenes that fulfil the prompts, through the VAE. `floor` is the likeness
        of such pictures of a random other person."""
        who, other = self.world.held_out(identity), random_identity(generator("somebody else", identity))
        companion = self.world.people["Anne Hathaway"]
        own, foreign = (
            self.sampler.through_vae(
                repaint(person, companion, self.plan.prompts, self.plan.seeds, generator("scenes", identity))
            )
            for person in (who, other)
        )
        self._keep(own, "reference", identity)
        pairs = zip(self.judged(own, who), self.judged(foreign, who), strict=True)
        return {"identity": identity, "judges": [{**top, "floor": floor["likeness"]} for top, floor in pairs]}

    def named(self, number: int) -> dict[str, Any]:
        """What this world can draw at all: one of its own people, by the name that the model was trained with."""
        names = [name for name in load_celebrity_names().names if name not in self._companions]
        name = names[number * NAMES_APART % len(names)]
        texts = [prompt.text.format(name) for prompt in self.plan.prompts for _ in range(self.plan.seeds)]
        pictures = self.sampler.pictures(texts, seed=number)
        return {"identity": number, "judges": self.judged(pictures, self.world.people[name])}

    @property
    def _companions(self) -> set[str]:
        """Who stands beside the person in a prompt."""
        return {name for name in self.world.names if any(name in prompt.text for prompt in self.plan.prompts)}


def _around_the_head(images: Tensor) -> Tensor:
    """(N, H, W): 1 in an ellipse around the middle, where portraits have the head, and 0 elsewhere."""
    count, height, width, _ = images.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return ((x / 0.7).square() + (y / 0.85).square() <= 1).float().expand(count, -1, -1)


def device_name(device: torch.device) -> str:
    """What computes, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({os.cpu_count()} cores)"
