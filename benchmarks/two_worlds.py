"""Everything that the documents say of the two drawn worlds, measured by one command.

    python -m benchmarks.two_worlds --out build/two-worlds --docs docs --devices cuda:0 --workers 15

Trains the second world from nothing, for its weights are not in the repository, and then runs the programs that measure: what the
world is like, the search over ways to learn, the ways that it chose on other people, pictures, the dial, and the paper's claims. A
part that is done is not done again: with `--minutes` it stops in time with exit code 3, and the same command goes on. Workers share
a GPU better under NVIDIA's MPS. Numbers and pictures of the shipped world that are in DOCS already are kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossinit_core.files import write_atomically
from miniature.training import pack

from .paper_claims.statistics import Numbers
from .ways.choice import chosen
from .ways.plan import ALWAYS, WAYS

SECOND = "contrast"
STEPS = (25, 100)
REPORTED = (
    "direction .3 falling most",
    "direction .2 falling most",
    "direction .3 falling most K1",
    "nearest's direction .2 falling most K1",
)
"""Reported whatever is chosen: those of the presets, and what the documents compare them with."""

CHOOSERS = {"drawn": 12, SECOND: 8}
OTHERS = 40
"""People to choose on, and to report on."""

Options = argparse.Namespace


@dataclass(frozen=True)
class Part:
    """A program that measures, with no arguments if there is nothing for it to do. It takes --time-limit unless it is short."""

    name: str
    arguments: Callable[[Options], list[str]]
    limited: bool = True


def world(options: Options) -> Path:
    """Where the second world is trained."""
    return Path(options.out) / "world"


def _both(options: Options) -> list[str]:
    return ["--world", f"drawn={pack.WEIGHTS}", "--world", f"{SECOND}={world(options) / 'model'}"]


def _workers(options: Options) -> list[str]:
    return ["--devices", *options.devices, "--workers", str(options.workers)]


def _train(options: Options) -> list[str]:
    return [
        "miniature.training.train", "--world", SECOND, "--compile",
        "--minutes", str(options.train_minutes), "--seed", str(options.seed), "--out", str(world(options)),
        "--device", options.devices[0],
    ]  # fmt: skip


def _choose(name: str, options: Options) -> list[str]:
    """All ways in the second world; in the shipped one those that the page does not have, if there are any."""
    weights = {"drawn": pack.WEIGHTS, SECOND: world(options) / "model"}[name]
    people = CHOOSERS[name]
    lacking = [way for way in WAYS if name == SECOND or not _known(options, "choose", way, people)]
    if not lacking:
        return []
    return [
        "benchmarks.ways", "choose", "--world", f"{name}={weights}", "--out", str(options.out / "ways"),
        "--people", str(people), "--steps", *map(str, STEPS), "--ways", *lacking, *_workers(options),
        "--docs", str(options.docs / "ways.md"), "--keep", *_kept(name, options),
    ]  # fmt: skip


def _kept(name: str, options: Options) -> list[str]:
    """The worlds whose numbers stay on the page: all but the second one, which is another one now, until it has been measured."""
    return [world for world in _numbers(options) if name == "drawn" or world != SECOND]


def _known(options: Options, stage: str, way: str, people: int) -> bool:
    """Whether the page has so many people of a way in the shipped world."""
    configs = _numbers(options)["drawn"].get(stage, {}).get("configs", {})
    return all(len(configs.get(f"{way}-{steps}", {}).get("identities", ())) >= people for steps in STEPS)


def _numbers(options: Options) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((options.docs / "ways.json").read_text(encoding="utf-8"))
    return found


def _report(name: str, options: Options) -> list[str]:
    """On other people: the presets' ways and the ones that were chosen, plain textual inversion and the published one."""
    numbers = {each: Numbers(stages["choose"]) for each, stages in _numbers(options).items()}
    ways = list(dict.fromkeys([*ALWAYS, *REPORTED, *(chosen(numbers, steps) for steps in STEPS)]))
    if name == "drawn":  # docs/paper-claims.md has the plain one
        ways = [way for way in ways if way != "plain" and not _known(options, "report", way, OTHERS)]
        if not ways:
            return []
    weights = {"drawn": pack.WEIGHTS, SECOND: world(options) / "model"}[name]
    return [
        "benchmarks.ways", "report", "--world", f"{name}={weights}", "--out", str(options.out / "ways"),
        "--people", str(OTHERS), "--steps", *map(str, STEPS), *(["320"] if name == SECOND else []), "--long", "1000", "--ways", *ways,
        *_workers(options), "--docs", str(options.docs / "ways.md"), "--keep", *_kept(name, options),
    ]  # fmt: skip


def _pictures(options: Options) -> list[str]:
    """Of the second world, and of the shipped one if there are none."""
    drawn = [] if (options.docs / "images" / "ways-drawn.png").is_file() else ["--world", f"drawn={pack.WEIGHTS}"]
    return [
        "benchmarks.ways.pictures", *drawn, "--world", f"{SECOND}={world(options) / 'model'}",
        "--out", str(options.out / "pictures"), "--device", options.devices[0], "--docs", str(options.docs / "images"),
    ]  # fmt: skip


def _claims(options: Options) -> list[str]:
    return [
        "benchmarks.paper_claims", "--weights", str(world(options) / "model"), "--out", str(options.out / "claims"),
        "--identities", str(options.claims_people), *_workers(options),
    ]  # fmt: skip


PARTS = (
    Part("training", _train),
    Part(
        "character",
        lambda options: [
            "benchmarks.worlds", str(world(options)), "--people", "0", "--out", str(options.out / "worlds"),
            "--devices", options.devices[0],
        ],
        limited=False,
    ),
    Part("ways to choose from, second world", lambda options: _choose(SECOND, options)),
    Part("ways to choose from, shipped world", lambda options: _choose("drawn", options)),
    Part("chosen ways, second world", lambda options: _report(SECOND, options)),
    Part("chosen ways, shipped world", lambda options: _report("drawn", options)),
    Part("pictures", _pictures, limited=False),
    Part(
        "dial",
        lambda options: [
            "benchmarks.dial", *_both(options), "--out", str(options.out / "dial"), *_workers(options),
            "--docs", str(options.docs),
        ],
    ),
    Part("claims", _claims),
    Part(
        "page of the claims",
        lambda options: [
            "benchmarks.paper_claims", "--page-only", "--docs", str(options.docs / "paper-claims.md"),
            "--beside", f"{SECOND}={options.out / 'claims'}",
        ],
        limited=False,
    ),
)  # fmt: skip
"""In their order: what is needed most comes first, in case the time does not last."""

LEAST = 45.0
"""Seconds that a limited program must have, to start and to stop in time."""
OVER = 3
"""What programs end with that stopped in time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left; returns the exit code: 0, 3 if the time is over, or that of a part that failed."""
    began = time.time()
    options = _parser().parse_args(arguments)
    if options.minutes is not None and options.minutes * 60 < LEAST:
        print(f"two_worlds: --minutes is {options.minutes:g}, but must be at least {LEAST / 60:g}.", file=sys.stderr)
        return 2
    if not (options.docs / "ways.json").is_file():
        print(
            f"two_worlds: '{options.docs}' has no ways.json. Give the folder docs of the repository.", file=sys.stderr
        )
        return 2
    record = options.out / "finished.json"
    finished: list[str] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
    for part in PARTS:
        if part.name in finished:
            continue
        left = options.minutes * 60 - (time.time() - began) if options.minutes is not None else None
        if left is not None and left < LEAST:
            return OVER
        limit = ["--time-limit", f"{left:.0f}"] if part.limited and left is not None else []
        print(f"{time.time() - began:7.0f} s: {part.name}", flush=True)
        arguments = part.arguments(options)
        code = run([sys.executable, "-m", *arguments, *limit]) if arguments else 0
        if code:
            print(f"two_worlds: '{part.name}' ended with code {code}.", file=sys.stderr)
            return code
        finished.append(part.name)
        write_atomically(record, (json.dumps(finished, indent=1) + "\n").encode())
    return 0


def run(command: Sequence[str]) -> int:
    """The exit code of a program."""
    return subprocess.run(command, check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.two_worlds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for everything that is made; an earlier one is continued"
    )
    parser.add_argument("--docs", type=Path, required=True, help="the folder whose pages and pictures are written")
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--workers", type=int, default=2, help="processes that learn people, in all")
    parser.add_argument("--minutes", type=float, help="stop in time; call again to go on")
    parser.add_argument("--train-minutes", type=float, default=25.0, help="of the second world")
    parser.add_argument("--claims-people", type=int, default=12, help="whom the paper's claims are measured on")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
