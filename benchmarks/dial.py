"""The dial between prompt and likeness: what `strength` does to people who were learned in drawn worlds.

    python -m benchmarks.dial --world drawn=miniature/weights --out build/dial --docs docs

Each person is learned once in each way, and then sampled with the paper's prompts at every strength; and, beside that, with the
person let in late: a share of the noise levels, the noisiest first, is drawn at strength 0, the rest at 1. The numbers come to
DOCS/measurements/dial.json, one person's pictures to DOCS/images/dial-WORLD.png. What is done is not done again, so the time limit
may come at any point, and more people may be asked for later.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossinit_core.files import write_atomically
from crossinit_core.tokens.blending import token_at_strength
from miniature.training.captions import PROMPTS

from . import drawn_worlds
from .paper_claims.cli import check_devices
from .paper_claims.plan import Plan, Run
from .paper_claims.results import HEADLINE, Results, asking, read_json, write_json
from .paper_claims.statistics import estimate
from .ways.plan import WAYS

STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
LATE = (0.1, 0.2, 0.4, 0.6)
"""Shares of the noise levels before the person is let in."""
LEARNED: Mapping[str, tuple[Run, int]] = {
    "swift": (WAYS["direction .3 falling most"], 25),
    "best": (WAYS["direction .2 falling most"], 100),
    "plain textual inversion": (WAYS["plain"], 100),
}
"""The ways whose tokens are turned: two presets, and one that obeys prompts less."""
SHEET = ("best", "plain textual inversion")
"""Those of the pictures."""

SHOWN = (0, 1, 6, 9, 17)
"""Prompts of the pictures."""


@dataclass(frozen=True)
class Task:
    """One person in one world."""

    weights: Path
    folder: Path
    plan: Plan
    device: str
    identity: int

    @property
    def file(self) -> Path:
        return self.folder / f"{self.identity:04d}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code: 0, 2 for a wrong input, 3 if the time limit came."""
    began = time.time()
    options = _parser().parse_args(arguments)
    worlds = drawn_worlds.worlds(options.world)
    try:
        check_devices(options.devices)
        plan = Plan(options.people, options.seeds, sampling_steps=options.sampling_steps)
        drawn_worlds.check_worlds(worlds)
    except ValueError as error:
        print(f"dial: {error}", file=sys.stderr)
        return 2
    tasks = [
        Task(weights, options.out / name, plan, options.devices[i % len(options.devices)], i)
        for i in plan.people
        for name, weights in worlds.items()
    ]
    waiting = [task for task in tasks if not task.file.is_file()]
    with multiprocessing.get_context("spawn").Pool(
        max(1, min(options.workers, len(waiting))), maxtasksperchild=8
    ) as pool:
        for done, task in enumerate(pool.imap_unordered(measure, waiting), 1):
            print(f"{time.time() - began:7.0f} s: {task.file}, {len(waiting) - done} waiting", flush=True)
            if options.time_limit and time.time() - began > options.time_limit:
                return 3
    if options.docs:
        write(options.docs, {name: options.out / name for name in worlds}, plan)
    return 0


def measure(task: Task) -> Task:
    """Learn a person in every way, turn the token, and have the headline judge look at the pictures."""
    from .paper_claims.studio import Studio

    studio = Studio(task.weights, task.plan, Results(task.folder / "studio"), task.device)
    found: dict[str, Any] = {"reference": _means(studio.reference(task.identity)["judges"][HEADLINE])}
    who = studio.world.held_out(task.identity)
    for way, (run, steps) in LEARNED.items():
        folder = task.folder / "resume" / f"{task.identity:04d}-{run.name}"
        run = replace(run, marks=(steps,))
        token, _ = studio.learned(run, task.identity, studio.start_for(run, task.identity), steps, folder)
        found[way] = {}
        for strength in STRENGTHS:
            pictures = studio.pictures(token_at_strength(token, strength).vectors, task.identity)
            found[way][f"{strength:g}"] = _means(studio.judged(pictures, who)[HEADLINE])
            if task.identity == 0 and way in SHEET:
                _keep(task.folder / "pictures" / f"{way}-{strength:g}.png", pictures[:: task.plan.seeds])
        nobody = token_at_strength(token, 0.0).vectors
        for share in LATE:
            pictures = studio.pictures(token.vectors, task.identity, first=nobody, share=share)
            found[way][_late(share)] = _means(studio.judged(pictures, who)[HEADLINE])
    write_json(task.file, found)
    return task


def _late(share: float) -> str:
    return f"late {share:g}"


def _means(judged: Mapping[str, Sequence[float]]) -> dict[str, float]:
    shown = [judged["shown"][i] for i in asking(PROMPTS)]
    means = {"likeness": float(np.mean(judged["likeness"])), "editability": float(np.mean(shown))}
    return {name: round(value, 5) for name, value in means.items()}


def _keep(path: Path, pictures: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([pictures[i] for i in SHOWN], axis=0)).save(path)


def write(docs: Path, folders: Mapping[str, Path], plan: Plan) -> None:
    """The numbers of everybody who was measured, and the pictures of the first person."""
    worlds = {}
    for name, folder in folders.items():
        people = [each for i in plan.people if (each := read_json(folder / f"{i:04d}.json")) is not None]
        worlds[name] = {
            "people": len(people),
            "pictures of a prompt": plan.seeds,
            "reference": _summary([person["reference"] for person in people]),
            **{
                way: {
                    value: _summary([person[way][value] for person in people])
                    for value in (*(f"{x:g}" for x in STRENGTHS), *map(_late, LATE))
                }
                for way in LEARNED
            },
        }
        if (folder / "pictures").is_dir():
            write_atomically(docs / "images" / f"dial-{name}.png", sheet(folder / "pictures"))
    write_atomically(docs / "measurements" / "dial.json", (json.dumps(worlds, indent=1) + "\n").encode())


def _summary(people: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Of each quantity the mean over people and its standard error, which of one person nobody knows (NaN)."""
    estimates = {name: estimate(np.array([person[name] for person in people])) for name in ("likeness", "editability")}
    return {name: [round(found.mean, 4), round(found.error, 4)] for name, found in estimates.items()}


def sheet(pictures: Path) -> bytes:
    """A PNG: a row for each prompt, a column for each strength, a block for each way."""
    from matplotlib.figure import Figure

    size, columns = 128, len(STRENGTHS)
    figure = Figure(figsize=(columns * 2 * 0.92 + 2.0, len(SHOWN) * 0.95 + 0.7))
    blocks = figure.add_gridspec(1, 2, left=0.135, right=0.998, bottom=0.005, top=0.87, wspace=0.04)
    for block, way in enumerate(SHEET):
        grid = blocks[block].subgridspec(len(SHOWN), columns, wspace=0.03, hspace=0.03)
        for column, strength in enumerate(STRENGTHS):
            strip = np.asarray(Image.open(pictures / f"{way}-{strength:g}.png"))
            for row, prompt in enumerate(SHOWN):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(strip[row * size : (row + 1) * size])
                axes.set(xticks=[], yticks=[])
                if row == 0:
                    axes.set_title(f"{strength:g}", fontsize=10)
                if block == column == 0:
                    text = PROMPTS[prompt].text.replace("a photo of a {} person", "a photo").replace("a {} person ", "")
                    text = text.replace(" of a {} person", "").replace("with a ", "")
                    text = text.replace(" on the", "\non the").replace(" in space", "\nin space")
                    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
        figure.text(0.135 + 0.4335 * (block + 0.5), 0.955, way, ha="center", fontsize=11)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    image, small = Image.open(buffer).convert("RGB"), BytesIO()
    image.quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    drawn_worlds.add_world_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; an earlier one is continued")
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--workers", type=int, default=2, help="processes in all")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each prompt")
    parser.add_argument("--sampling-steps", type=int, default=Plan.sampling_steps)
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop in time; call again to go on")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write the numbers and the pictures")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
