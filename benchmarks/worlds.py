"""A newly trained drawn world beside the shipped one: how good it is, what it is like, and how it learns a person.

    python -m benchmarks.worlds RUN --out FOLDER --devices cuda:0 --workers 12

RUN is what `miniature.training.train --out RUN` left: RUN/model and RUN/report.json. The page comes to FOLDER/worlds.md and its
numbers to FOLDER/worlds.json. A few people are learned in both worlds by plain textual inversion and by cross initialization,
through `benchmarks.paper_claims`; what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from crossinit_core.files import write_atomically
from miniature.training import pack
from miniature.training.character import character

from .paper_claims import cli
from .paper_claims.plan import Plan
from .paper_claims.results import HEADLINE, Results, summarize

WAYS = {"plain": "plain textual inversion", "cross-names": "cross initialization"}
LOWER = ("error", "share of no portraits", "mean absolute error")
SAME = 0.01
"""Relative difference up to which two numbers count as one: the same VAE and judges differ by less on other pictures and devices."""
NEUTRAL = ("floor", "ceiling", "token rows", "encoder output", "of paintings", "painted", "similarity of the nearest")


@dataclass(frozen=True)
class Measure:
    """A number of both reports."""

    name: str
    shipped: float
    new: float

    @property
    def verdict(self) -> Literal["better", "worse", "the same", ""]:
        """Of the new number; empty if more of it is neither good nor bad."""
        last = self.name.rsplit(": ", 1)[-1]
        if any(word in last for word in NEUTRAL):
            return ""
        if math.isclose(self.new, self.shipped, rel_tol=SAME):
            return "the same"
        return "better" if (self.new < self.shipped) == last.startswith(LOWER) else "worse"


def numbers(report: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a report, named by its path. Of the pairs (drawn, painted) the first; of the judges the headline one."""
    if isinstance(report, Mapping):
        for key, value in report.items():
            yield from numbers(value[HEADLINE] if key == "judges" else value, f"{path}: {key}" if path else str(key))
    elif isinstance(report, list):
        yield from numbers(report[0], path)
    else:
        yield path, float(report)


def measures(shipped: Mapping[str, Any], new: Mapping[str, Any]) -> list[Measure]:
    """The numbers that both reports have."""
    other = dict(numbers(new))
    return [Measure(name, value, other[name]) for name, value in numbers(shipped) if name in other]


def learning(weights: Path, out: Path, plan: Plan, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Mean likeness and editability of people learned in a world, by way and steps, and of their repainted pictures through
    its VAE, the `reference`. Raises RuntimeError if a job failed."""
    arguments = ["--out", out, "--weights", weights, "--identities", plan.identities, "--seeds", plan.seeds]
    arguments += ["--sampling-steps", plan.sampling_steps, "--examination", plan.examination, "--long", plan.long]
    arguments += ["--workers", options.workers, "--devices", *options.devices, "--steps", *plan.steps]
    if cli.main([str(one) for one in (*arguments, "--only", *WAYS, f"plain-{plan.long}")]):
        raise RuntimeError(f"Learning people in '{weights}' failed; see the messages above.")
    summary = summarize(Results(out), plan)
    return {
        name: {what: float(np.mean(config["judges"][HEADLINE][what])) for what in ("likeness", "editability")}
        for name, config in {"reference": summary["reference"], **summary["configs"]}.items()
    }


def alone(shipped: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of numbers that only the first report has."""
    other = dict(numbers(new))
    return [name for name, _ in numbers(shipped) if name not in other]


def page(found: Mapping[str, Any], compared: Sequence[Measure], plan: Plan) -> str:
    """What was found, for people."""
    verdicts = Counter(each.verdict for each in compared if each.verdict)
    lacking = alone(found["reports"]["shipped"], found["reports"]["new"])
    lines = [
        "# Two drawn worlds",
        "",
        f"Of the {verdicts.total()} measures of the report that can be better, {verdicts['better']} are better in the new world, "
        f"{verdicts['the same']} the same and {verdicts['worse']} worse.",
        *([f"Its report does not have: {', '.join(lacking)}."] if lacking else []),
        "",
        "| measure | shipped | new | |",
        "| --- | --- | --- | --- |",
        *(
            f"| {each.name} | {each.shipped:.3f} | {each.new:.3f} | {each.verdict} |"
            for each in sorted(compared, key=lambda each: (not each.verdict, each.name))
        ),
        "",
        "## What they are like",
        "",
        "| | shipped | new |",
        "| --- | --- | --- |",
        *_rows(*(dict(_flat(found["character"][world])) for world in ("shipped", "new"))),
    ]
    if found.get("learning"):
        lines += [
            "",
            "## How a person is learned",
            "",
            f"Likeness / editability of {plan.identities} people, as `docs/paper-claims.md` measures them.",
            "",
            "| way and steps | shipped | new |",
            "| --- | --- | --- |",
            *_rows(*(_learned(found["learning"][world]) for world in ("shipped", "new"))),
        ]
    return "\n".join(lines) + "\n"


def _rows(shipped: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [f"| {name} | {value} | {new.get(name, '')} |" for name, value in shipped.items()]


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{path}: {key}" if path else str(key))
    else:
        yield path, ", ".join(f"{one:.3f}" for one in (values if isinstance(values, list) else [values]))


def _learned(configs: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    found = {}
    for name, each in configs.items():
        way, _, steps = name.rpartition("-")
        what = f"{WAYS[way]}, {steps} steps" if way else "repainted, through the VAE"
        found[what] = f"{each['likeness']:.3f} / {each['editability']:.3f}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both worlds and write the page; returns the exit code: 0, or 2 for a wrong input."""
    options = _parser().parse_args(arguments)
    runs = {"shipped": (pack.WEIGHTS, pack.WEIGHTS), "new": (options.run / "model", options.run)}
    lacking = [
        path
        for weights, run in runs.values()
        for path in (weights / "config.json", run / "report.json")
        if not path.is_file()
    ]
    try:
        if lacking:
            raise ValueError(f"'{lacking[0]}' is missing. Give the --out folder of a finished training run.")
        plan = _checked(options)
    except ValueError as error:
        print(f"worlds: {error}", file=sys.stderr)
        return 2
    reports = {name: json.loads((run / "report.json").read_text(encoding="utf-8")) for name, (_, run) in runs.items()}
    found: dict[str, Any] = {"reports": reports, "character": {}, "learning": {}}
    for name, (weights, _) in runs.items():
        found["character"][name] = character(weights, options.devices[0], options.pictures, options.sampling_steps)
        if options.people:
            found["learning"][name] = learning(weights, options.out / name, plan, options)
    options.out.mkdir(parents=True, exist_ok=True)
    text = page(found, measures(reports["shipped"], reports["new"]), plan)
    write_atomically(options.out / "worlds.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(options.out / "worlds.md", text.encode())
    print(text, flush=True)
    return 0


def _checked(options: argparse.Namespace) -> Plan:
    """Everything that can be wrong is found here, before any long work."""
    for name, least in (("people", 0), ("pictures", 1), ("workers", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} is {getattr(options, name)}, but must be at least {least}.")
    for name in options.devices:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--devices has '{name}', but this machine has no such device.") from error
    people, steps = max(options.people, 1), tuple(options.steps)
    return Plan(people, 1, steps, options.long, options.sampling_steps, examination=options.examination)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worlds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished training run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page and its numbers")
    parser.add_argument("--devices", nargs="+", default=["cuda:0" if torch.cuda.is_available() else "cpu"])
    parser.add_argument("--workers", type=int, default=4, help="processes that learn people")
    parser.add_argument("--people", type=int, default=8, help="people to learn; 0 for none")
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 100, 320])
    parser.add_argument("--long", type=int, default=2000, help="steps of the long plain textual inversion")
    parser.add_argument("--pictures", type=int, default=128, help="names that are drawn by their tokens")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--examination", type=int, default=256, help="paintings that the judges are examined on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
