"""A second world beside the first: where its numbers come from, and which claims hold in which world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .plan import Plan, command
from .results import ASKING, Results, Summary, plan_of, read_summary, summarize
from .statistics import Numbers
from .tables import markdown, people_of, table
from .verdicts import Verdict, verdicts

FIRST = "drawn"
WORLDS = {"contrast": "learned by contrast with pictures and was then frozen, as Stable Diffusion's was"}
"""What became of the text encoder of each world that the shipped one can be compared with."""

ALIKE = 0.005
"""Judges whose numbers differ by no more than this are the same ones: a device may change a painting or two of a thousand."""

World = tuple[str, Summary]
"""A world's name and what was measured in it."""


def second_world(page: Path, given: str | None = None) -> World | None:
    """The world that --beside gives, else the one whose numbers lie beside the page as PAGE-NAME.json; None without either.

    Raises ValueError for a world that is not known, and for a folder or file that is no measurement.
    """
    if given is not None:
        name, _, folder = given.partition("=")
        if name not in WORLDS or not folder:
            raise ValueError(f"--beside is '{given}', but must be NAME=FOLDER, with the NAME {_names()}.")
        return name, _measured(Path(folder))
    found = {path.stem.removeprefix(f"{page.stem}-"): path for path in sorted(page.parent.glob(f"{page.stem}-*.json"))}
    for name, path in found.items():
        if name not in WORLDS:
            raise ValueError(f"'{path}' has numbers of the world '{name}', but the page knows only {_names()}.")
    return next(((name, read_summary(path)) for name, path in found.items()), None)


def numbers_path(page: Path, name: str) -> Path:
    """Where the numbers of a second world lie, beside those of the first."""
    return page.with_name(f"{page.stem}-{name}.json")


def in_two_worlds(first: Summary, plan: Plan, beside: World) -> list[str]:
    """The section on a second world."""
    name, second = beside
    other = plan_of(second)
    numbers = Numbers(second)
    pairs = list(zip(verdicts(Numbers(first), plan), verdicts(numbers, other), strict=True))
    return [
        "## In two worlds",
        f"The text encoder of the shipped world, *{FIRST}*, was trained together with its UNet; that of the world *{name}* "
        f"{WORLDS[name]}. {_shared(first, second)}",
        markdown(("claim", FIRST, name), [(a.claim, _cell(a, a.claim), _cell(b, a.claim)) for a, b in pairs]),
        _agreement(pairs, name, other.identities < plan.identities),
        _people(numbers, other, name),
        table(numbers, other.series("main"), references=True),
    ]


def _names() -> str:
    return " or ".join(WORLDS)


def _measured(folder: Path) -> Summary:
    """What was measured in a folder, by its own plan."""
    results = Results(folder)
    try:
        found = results.plan()
        plan = Plan(**found)
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"--beside has '{folder}', but its plan.json is not one of this benchmark.") from error
    if not found:
        raise ValueError(f"--beside has '{folder}', but there is no plan.json. Give the --out of a measurement.")
    return summarize(results, plan)


def _shared(first: Summary, second: Summary) -> str:
    """What both worlds have in common, as far as it is known."""
    if not first["judges"] or not second["judges"]:
        return "Both see the same people, portraits and prompts; whether the judges are the same is not known."
    if _same_judges(first, second):
        return "Both see the same people, portraits, prompts and judges."
    return "Both see the same people, portraits and prompts; each has judges of its own."


def _same_judges(first: Summary, second: Summary) -> bool:
    """Whether both worlds' judges see the same in the same paintings."""
    pairs = [(a["painted"], b["painted"]) for a, b in zip(first["judges"], second["judges"], strict=True)]
    return all(a.keys() == b.keys() and all(abs(a[key] - b[key]) <= ALIKE for key in a) for a, b in pairs)


def _cell(verdict: Verdict, claim: str) -> str:
    """A verdict in short, with its own claim if other steps make it another one."""
    own = "" if verdict.claim == claim else f"*{verdict.claim}* "
    return f"{own}**{verdict.word}**: {verdict.evidence}"


def _agreement(pairs: Sequence[tuple[Verdict, Verdict]], name: str, fewer: bool) -> str:
    """How many verdicts are the same, and which are not."""
    known = [(a, b) for a, b in pairs if a.holds is not None and b.holds is not None]
    apart = [(a, b) for a, b in known if a.holds != b.holds]
    said = f"The verdict is the same in both worlds for {len(known) - len(apart)} of {len(pairs)} claims"
    said += f" and differs for {len(apart) or 'none'}"
    if len(known) < len(pairs):
        said += f"; for {len(pairs) - len(known)} it is not measured in both"
    said += "."
    if apart:
        listed = [f"“{a.claim.rstrip('.')}” ({FIRST}: {a.word}; {name}: {b.word})" for a, b in apart]
        said += f" It differs for {', '.join(listed)}."
    if fewer:
        said += f" *{name}* has fewer people, which makes intervals wider: a claim may fail there for that alone."
    return said


def _people(numbers: Numbers, plan: Plan, name: str) -> str:
    """On how many people the second world's table is, and how it came about."""
    configs = [run.config(steps) for run, steps in plan.series("main")]
    counts = [numbers.mean(config, "likeness").count for config in configs if config in numbers]
    device = next(iter(numbers.summary["devices"]), None)
    sampled = "once" if plan.seeds == 1 else f"{plan.seeds} times each"
    return (
        f"Every start in *{name}*: {people_of(counts or [0])}, {len(ASKING) + 1} prompts sampled {sampled}"
        f"{f', on {device}' if device else ''}. Columns are those of the table below. It was measured by "
        f"`{command(plan, '--weights WORLD', '--out FOLDER')}`."
    )
