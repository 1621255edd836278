"""What the ways to learn come to, as pictures: a person's portrait, and what is drawn after learning in each way.

    python -m benchmarks.ways.pictures --world drawn=miniature/weights --out build/pictures --docs docs/images

Makes DOCS/ways-WORLD.png. What was learned is not learned again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossinit_core.files import write_atomically
from miniature.training.captions import PROMPTS

from .. import drawn_worlds
from ..paper_claims.cli import check_devices
from ..paper_claims.plan import Plan
from ..paper_claims.plots import short
from ..paper_claims.results import Results
from ..paper_claims.studio import Studio
from ..picture_table import picture_table
from .plan import WAYS

SHOWN = (0, 2, 6, 8, 10, 16, 18)
"""Prompts, one of each kind."""
WAYS_SHOWN = (
    ("published, 25 steps", "published", 25),
    ("published, 320 steps", "published", 320),
    ("textual inversion, 320 steps", "plain", 320),
    ("swift, 25 steps", "direction .3 falling most", 25),
    ("best, 100 steps", "direction .2 falling most", 100),
)
"""What stands beside a row, the way and its steps."""

Picture = NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, sample and write the pictures; returns the exit code: 0, or 2 for a wrong input."""
    options = _parser().parse_args(arguments)
    worlds = drawn_worlds.worlds(options.world)
    try:
        check_devices([options.device])
        drawn_worlds.check_worlds(worlds)
    except ValueError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 2
    titles = ["the photo", *(short(PROMPTS[prompt].text) for prompt in SHOWN)]
    options.docs.mkdir(parents=True, exist_ok=True)
    for name, weights in worlds.items():
        plan = Plan(max(options.people) + 1, 1)
        studio = Studio(weights, plan, Results(options.out / name), options.device)
        rows = [row for person in options.people for row in _rows(studio, person)]
        write_atomically(options.docs / f"ways-{name}.png", picture_table(rows, titles))
    return 0


def _rows(studio: Studio, person: int) -> list[tuple[str, list[Picture]]]:
    """One person's rows; the photo stands in all of them, to compare."""
    return [(text, [studio.portrait(person), *_sampled(studio, person, way, steps)]) for text, way, steps in WAYS_SHOWN]


def _sampled(studio: Studio, person: int, way: str, steps: int) -> list[Picture]:
    kept = studio.results.folder / f"{way}-{steps}" / f"{person:04d}.png"
    if not kept.is_file():
        run, resumed = (
            replace(WAYS[way], marks=(steps,)),
            studio.results.folder / "resume" / f"{person:04d}-{way}-{steps}",
        )
        token, _ = studio.learned(run, person, studio.start_for(run, person), steps, resumed)
        pictures = studio.pictures(token.vectors, person)
        kept.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([pictures[prompt] for prompt in SHOWN], axis=1)).save(kept)
        shutil.rmtree(resumed, ignore_errors=True)
        print(kept, flush=True)
    return np.split(np.asarray(Image.open(kept).convert("RGB")), len(SHOWN), axis=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ways.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drawn_worlds.add_world_option(parser)
    parser.add_argument("--people", type=int, nargs="+", default=[0, 7], help="people of docs/paper-claims.md to show")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for what was sampled; an earlier one is continued"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--docs", type=Path, required=True, metavar="FOLDER", help="folder for the pictures")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
