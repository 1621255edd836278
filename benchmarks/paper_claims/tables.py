"""Tables of the page: a row for each run and number of steps, and the words beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .plan import Group, Run
from .results import HEADLINE
from .statistics import Estimate, Numbers

_HEADS = ("likeness", "to others", "rank", "editability", "expressions", "no portrait")
_MOVES = ("norm, start → end", "× start", "angle", "seconds", "people")


def table(
    numbers: Numbers,
    series: Sequence[tuple[Run, int]],
    group: Group | None = None,
    judge: int = HEADLINE,
    references: bool = False,
    moves: bool = True,
) -> str:
    """A row for each of `series` that was measured; `references` adds floor and ceiling, `moves` how far vectors went."""
    rows = []
    if references and numbers.column("reference", "floor"):
        shown = [value(numbers.mean("reference", n, judge)) for n in ("editability", "expressions", "no_portrait")]
        ends = ["", "", "", "", str(numbers.mean("reference", "floor").count)] if moves else []
        rows.append(["*floor: somebody else*", "", value(numbers.mean("reference", "floor", judge)), *[""] * 5, *ends])
        top = (numbers.mean("reference", name, judge) for name in ("likeness", "others", "rank"))
        rows.append(["*ceiling: repainted*", "", *map(value, top), *shown, *ends])
    for run, steps in series:
        if run.config(steps) in numbers:
            rows.append(
                [_label(run, group or run.group), f"{steps:,}", *_measured(numbers, run.config(steps), judge, moves)]
            )
    if not rows:
        return "Not measured."
    return markdown(("", "steps", *_HEADS, *(_MOVES if moves else ())), rows)


def _measured(numbers: Numbers, config: str, judge: int, moves: bool) -> list[str]:
    names = ("likeness", "others", "rank", "editability", "expressions", "no_portrait")
    cells = [value(numbers.mean(config, name, judge)) for name in names]
    if not moves:
        return cells
    start, norm, ratio, angle, seconds = (
        numbers.mean(config, name) for name in ("start_norm", "norm", "norm_ratio", "angle", "seconds")
    )
    return [
        *cells,
        f"{start.mean:.2f} → {norm.mean:.2f}",
        value(ratio, 2),
        f"{angle.mean:.1f}°",
        f"{seconds.mean:.3g}" if seconds.count else "",
        str(numbers.mean(config, "likeness").count),
    ]


def _label(run: Run, group: Group) -> str:
    """What sets a run apart in the table of a group."""
    if group == "lambda":
        return f"lambda {run.regularization:g}"
    if group == "rates":
        return f"learning rate {run.learning_rate}"
    if group == "starts":
        return f"{run.label}, rate {run.learning_rate}"
    return f"{run.label}, K = {run.vectors}" if group == "vectors" else run.label


def value(found: Estimate, digits: int = 3) -> str:
    """A mean with its standard error, if that is known; empty if there is no mean."""
    if not found.count:
        return ""
    return f"{found.mean:.{digits}f}" if math.isnan(found.error) else found.plus_minus(digits)


def people_of(counts: Sequence[int]) -> str:
    """How many people several results have."""
    fewest, most = min(counts), max(counts)
    if not most:
        return "nobody"
    return f"{most} people" if fewest == most else f"{fewest} to {most} people"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
