"""The page on the ways to learn: every trial, what was chosen, and what it came to on other people and prompts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crossinit_core.files import write_atomically

from ..paper_claims.plan import WORD, Start
from ..paper_claims.settling import EVERY, GAIN, PATIENCE
from ..paper_claims.statistics import Numbers
from .choice import RULE, chosen, trials
from .plan import ALWAYS, CHOOSING, FIRST_CHOOSER, WAYS, Stage

Summaries = Mapping[str, Mapping[Stage, dict[str, Any]]]

REACH = {25: (0.81, 0.94), 100: (0.83, 0.95)}
"""Likeness and editability that are to be reached in the world `drawn` after so many steps; in another world, the same
distance to its own ceiling."""
CEILING = (0.834, 0.922)
"""Of the world `drawn`, for whom `REACH` was set."""


WORLDS: Mapping[str, str] = {
    "drawn": "the world of the miniature that comes with the pack, whose text encoder was trained together with its UNet",
    "contrast": "one whose text encoder learned by contrast with pictures alone, with thousands of names, and was then frozen",
    "earlier contrast": "another training of that kind, with the VAE and the judges of *drawn* and more time for the rest",
}
"""What the worlds of the page are, for those of these names."""

STARTS: Mapping[Start, str] = {
    "words": f"the word '{WORD}'",
    "mean": "the mean of the celebrities' rows in the token table",
    "cross names": "what the text encoder makes of that mean",
    "cross words": "what the text encoder makes of the word",
    "nearest": "the mean of the rows of the 16 celebrities under whose names the photo is denoised best",
}


def write_page(path: Path, summaries: Summaries) -> None:
    """The page for people, and its numbers beside it (NAME.json)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [name for name in WORLDS if name in summaries]
    summaries = {name: summaries[name] for name in (*known, *(name for name in summaries if name not in WORLDS))}
    write_atomically(path.with_suffix(".json"), _one_line_each(summaries).encode())
    write_atomically(path, page(summaries).encode())


def _one_line_each(summaries: Summaries) -> str:
    """JSON with one configuration a line."""
    worlds = []
    for world, stages in summaries.items():
        parts = []
        for stage, summary in stages.items():
            lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in summary.items() if name != "configs"]
            configs = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in summary["configs"].items())
            parts.append(f"{json.dumps(stage)}: {{\n" + ",\n".join([*lines, f'"configs": {{\n{configs}\n}}']) + "\n}")
        worlds.append(f"{json.dumps(world)}: {{\n" + ",\n".join(parts) + "\n}")
    return "{\n" + ",\n".join(worlds) + "\n}\n"


def page(summaries: Summaries) -> str:
    """What `write_page` writes for people."""
    choosing = _numbers(summaries, "choose")
    reporting = _numbers(summaries, "report")
    lines = [
        "# The ways to learn a person",
        "",
        "This page is written by `python -m benchmarks.ways` from its own results; do not edit it.",
        "",
        f"Ways are chosen on people {FIRST_CHOOSER} and up with {len(CHOOSING)} prompts of their own, and reported on people 0 to 39 "
        "with the paper's prompts. Likeness, editability and the judges are those of [paper-claims.md](paper-claims.md).",
        "",
        *(f"- *{name}*: {WORLDS[name]}." for name in summaries if name in WORLDS),
    ]
    lines += ["", "## The ways", "", *_legend(summaries)]
    if choosing:
        lines += ["", "## Every trial", "", RULE, "", *_choosing(choosing)]
    if reporting:
        lines += ["", "## On people and prompts that nothing was chosen on", "", *_reporting(reporting)]
    return "\n".join(lines) + "\n"


def _legend(summaries: Summaries) -> Iterator[str]:
    """What the names stand for. Batch 8, one portrait, and constant rates unless they fall."""
    yield (
        "Of the tables below. Every way has batch 8 and, unless said, one photo; a rate that falls does so in a straight line to "
        "zero. *Masked* counts the loss in an ellipse around the head alone; *context* holds what the text encoder makes of the "
        "other words of 16 prompts to what it makes of them beside the word 'person', with that weight (CoRe's first term); "
        f"*settling* ends when the loss of a fixed batch has not become {GAIN:.0%} better for {EVERY * PATIENCE} steps. "
        "*Its own people* are those whom a world was trained with, by their names: what it can draw at all."
    )
    yield ""
    yield "| way | start | learns | rate | levels of noise | vectors |"
    yield "| --- | --- | --- | --- | --- | --- |"
    stages = [stage for world in summaries.values() for stage in world.values()]
    measured = {config.rpartition("-")[0] for stage in stages for config in stage["configs"]}
    for way in (way for way in WAYS.values() if way.name in measured):
        learns = "the direction alone" if way.method == "direction" else "the vectors"
        learns += f", prior {way.prior:g}" if way.prior else ""
        learns += f", lambda {way.regularization:g}" if way.regularization else ""
        learns += f", mean of the last {way.average}" if way.average > 1 else ""
        learns += f", {way.photos} photos" if way.photos > 1 else ""
        learns += ", masked" if way.masked else ""
        learns += f", context {way.context:g}" if way.context else ""
        learns += ", until it has settled" if way.settles else ""
        rate = f"{way.learning_rate:g}{', falling' if way.schedule != 'constant' else ''}"
        low, high = way.timesteps
        yield f"| {way.name} | {STARTS[way.start]} | {learns} | {rate} | {low} to {high - 1} | {way.vectors} |"


def _numbers(summaries: Summaries, stage: Stage) -> dict[str, Numbers]:
    return {name: Numbers(each[stage]) for name, each in summaries.items() if each.get(stage)}


def _pair(numbers: Numbers, config: str) -> str:
    """Likeness and editability of a configuration, as a table's cell."""
    if not numbers.column(config, "likeness"):
        return ""
    likeness, shown = (numbers.mean(config, name) for name in ("likeness", "editability"))
    return f"{likeness.mean:.3f} ± {likeness.error:.3f} / {shown.mean:.3f} ± {shown.error:.3f}"


def _own_people(worlds: Mapping[str, Numbers]) -> Iterator[str]:
    """The row of those whom a world knows by name, if they were looked at."""
    if any(numbers.summary.get("named") for numbers in worlds.values()):
        yield f"| *its own people, by name* | {' | '.join(_pair(numbers, 'named') for numbers in worlds.values())} |"


def _ended(numbers: Numbers, way: str, steps: int) -> str:
    """After how many steps a way ended that ends by itself."""
    if not WAYS[way].settles:
        return ""
    return f" (ended after {numbers.mean(f'{way}-{steps}', 'steps').mean:.0f})"


def _steps(worlds: Mapping[str, Numbers]) -> list[int]:
    """The numbers of steps at which ways were looked at."""
    return sorted({steps for numbers in worlds.values() for steps in numbers.summary["plan"]["steps"]})


def _people(numbers: Numbers) -> str:
    """How many people were learned, for the head of a column."""
    counts = {len(each["identities"]) for each in numbers.summary["configs"].values()}
    return f"{max(counts)} people" if len(counts) == 1 else f"{min(counts)} to {max(counts)} people"


def _choosing(worlds: Mapping[str, Numbers]) -> Iterator[str]:
    """A table for each number of steps: likeness / editability in each world, and the score that is chosen by."""
    names = list(worlds)
    for number in _steps(worlds):
        best = trials(worlds, number)
        yield f"### {number} steps"
        yield ""
        yield f"| way | {' | '.join(f'{name}, {_people(worlds[name])}: likeness / editability' for name in names)} | score where it is worst |"
        yield f"| --- | {' | '.join('---' for _ in names)} | --- |"
        yield f"| *ceiling: repainted* | {' | '.join(_pair(worlds[name], 'reference') for name in names)} | |"
        yield from (f"{row} |" for row in _own_people(worlds))
        pick = chosen(worlds, number) if any(trial.way not in ALWAYS for trial in best) else None
        for trial in best:
            way = f"**{trial.way}**" if trial.way == pick else trial.way
            yield f"| {way} | {_cells(worlds, trial.way, number)} | {trial.worst:.3f} |"
        for way in _only_somewhere(worlds, number):
            yield f"| {way} | {_cells(worlds, way, number)} | |"
        yield ""


def _cells(worlds: Mapping[str, Numbers], way: str, steps: int) -> str:
    """What a way came to in each world; nothing where it was not measured."""
    config = f"{way}-{steps}"
    return " | ".join(
        _pair(numbers, config) + _ended(numbers, way, steps) if config in numbers else "" for numbers in worlds.values()
    )


def _only_somewhere(worlds: Mapping[str, Numbers], steps: int) -> list[str]:
    """The ways that were measured in some worlds alone, and cannot be chosen."""
    there = {way: [f"{way}-{steps}" in numbers for numbers in worlds.values()] for way in WAYS}
    return [way for way, known in there.items() if any(known) and not all(known)]


def _reporting(worlds: Mapping[str, Numbers]) -> Iterator[str]:
    names = list(worlds)
    yield f"| way and steps | {' | '.join(f'{name}, {_people(worlds[name])}: likeness / editability' for name in names)} |"
    yield f"| --- | {' | '.join('---' for _ in names)} |"
    yield f"| *ceiling: repainted* | {' | '.join(_pair(worlds[name], 'reference') for name in names)} |"
    yield from _own_people(worlds)
    marks = {config for numbers in worlds.values() for config in numbers.summary["configs"]}
    for way in WAYS:
        for config in sorted(
            (c for c in marks if c.rpartition("-")[0] == way), key=lambda c: int(c.rpartition("-")[2])
        ):
            label = f"{way}, {config.rpartition('-')[2]} steps"
            yield f"| {label} | {' | '.join(_pair(worlds[name], config) for name in names)} |"
    yield ""
    yield "The same people, portraits and noise on both sides; square brackets are 95 % intervals of the bootstrap over people."
    yield ""
    yield "| world, steps, way | minus | likeness | editability | people |"
    yield "| --- | --- | --- | --- | --- |"
    for config, name in itertools.product(sorted(marks), names):
        if config in worlds[name] and config.rpartition("-")[0] not in ALWAYS:
            for against in _longest(worlds[name]):
                yield _difference(name, worlds[name], config, against)
    yield ""
    yield from _reached(worlds, marks)


def _longest(numbers: Numbers) -> Iterator[str]:
    """What ways are compared with: the published one and plain textual inversion, each after the most steps that a world has."""
    for way in ALWAYS:
        runs = [config for config in numbers.summary["configs"] if config.rpartition("-")[0] == way]
        if runs:
            yield max(runs, key=lambda config: int(config.rpartition("-")[2]))


def _difference(world: str, numbers: Numbers, config: str, against: str) -> str:
    likeness, shown = (numbers.difference(config, against, name) for name in ("likeness", "editability"))
    way, _, steps = config.rpartition("-")
    other, _, most = against.rpartition("-")
    differences = f"{likeness.interval(sign=True)} | {shown.interval(sign=True)} | {likeness.count}"
    return f"| {world}, {steps}, *{way}* | *{other}*, {most} steps | {differences} |"


def _reached(worlds: Mapping[str, Numbers], marks: set[str]) -> Iterator[str]:
    """What was to be reached, and whether it was: measured from repainted pictures, and from a world's own people."""
    yield (
        "Likeness / editability that were to be reached: 0.81 / 0.94 after 25 steps and 0.83 / 0.95 after 100 in the world *drawn*, "
        "and in another the same distance to its own ceiling. That is measured from repainted pictures; and, because a world whose "
        "pictures are worse cannot come as near to those, from what each world draws of its own people."
    )
    yield ""
    yield "| world, steps, way | has | aim, from repainted pictures | aim, from its own people |"
    yield "| --- | --- | --- | --- |"
    for number, wanted in REACH.items():
        for world, numbers in worlds.items():
            goals = [
                _goal(
                    wanted,
                    _ceiling(worlds, "drawn", kind) if kind == "named" else CEILING,
                    _ceiling(worlds, world, kind),
                )
                for kind in ("reference", "named")
            ]
            if world == "drawn":
                goals = [wanted, None]
            for config in sorted(c for c in marks if c.endswith(f"-{number}") and c.rpartition("-")[0] not in ALWAYS):
                if config in numbers:
                    got = _ceiling(worlds, world, config)
                    cells = [f"{world}, {number}, *{config.rpartition('-')[0]}*", f"{got[0]:.3f} / {got[1]:.3f}"]
                    yield f"| {' | '.join([*cells, *(_met(got, goal) for goal in goals)])} |"


def _ceiling(worlds: Mapping[str, Numbers], world: str, config: str) -> tuple[float, float]:
    """Likeness and editability of a configuration in a world; NaN if they were not measured there."""
    if world not in worlds or not worlds[world].column(config, "likeness"):
        return math.nan, math.nan
    likeness, shown = (worlds[world].mean(config, name).mean for name in ("likeness", "editability"))
    return likeness, shown


def _goal(
    wanted: tuple[float, float], ceiling: tuple[float, float], own: tuple[float, float]
) -> tuple[float, float] | None:
    """As far from its own ceiling as what is wanted is from the ceiling that it was set for; None if one is not known."""
    goal = tuple(w - c + o for w, c, o in zip(wanted, ceiling, own, strict=True))
    return None if any(map(math.isnan, goal)) else (goal[0], goal[1])


def _met(got: tuple[float, float], goal: tuple[float, float] | None) -> str:
    if goal is None:
        return ""
    missed = [
        name for name, g, w in zip(("likeness", "editability"), got, goal, strict=True) if round(g, 3) < round(w, 3)
    ]
    return f"{goal[0]:.3f} / {goal[1]:.3f}: {' and '.join(missed) + ' not ' if missed else ''}reached"
