"""One plot of the whole measurement, and a sheet of people as they were sampled. matplotlib is imported when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniature.training.captions import PROMPTS
from miniature.world.canvas import SIZE

from ..picture_table import picture_table
from .plan import Plan, Run, Start
from .statistics import Numbers

_COLOURS: dict[Start, str] = {
    "words": "tab:red",
    "mean": "tab:orange",
    "cross words": "tab:green",
    "cross names": "tab:blue",
}
_SHOWN = (0, 1, 2, 6, 7, 9, 10, 16, 17, 18)
"""Prompts on the sheet of people."""


def save_plot(numbers: Numbers, plan: Plan, path: Path) -> None:
    """Likeness against editability, norms over steps, and the effect of lambda, as one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    together, norms, regularized = figure.subplots(1, 3)
    _together(together, numbers, plan)
    _norms(norms, numbers, plan)
    _lambda(regularized, numbers, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _lines(numbers: Numbers, plan: Plan) -> list[tuple[Run, list[int]]]:
    """The starts with the steps at which they were measured."""
    marks: dict[str, list[int]] = {}
    runs = {run.name: run for run, _ in plan.series("main")}
    for run, steps in plan.series("main"):
        if run.config(steps) in numbers:
            marks.setdefault(run.name, []).append(steps)
    return [(runs[name], found) for name, found in marks.items()]


def _together(axes: Any, numbers: Numbers, plan: Plan) -> None:
    labels: list[tuple[str, float, float]] = []
    for run, marks in _lines(numbers, plan):
        x, y = ([numbers.mean(run.config(m), name) for m in marks] for name in ("editability", "likeness"))
        axes.errorbar(
            [e.mean for e in x], [e.mean for e in y], xerr=[e.error for e in x], yerr=[e.error for e in y],
            marker="o", color=_COLOURS[run.start], label=run.label,
        )  # fmt: skip
        labels += [(f"{mark:,}", a.mean, b.mean) for mark, a, b in zip(marks, x, y, strict=True)]
    if numbers.column("reference", "floor"):
        axes.axhline(numbers.mean("reference", "floor").mean, color="grey", ls=":", lw=1)
        axes.axhline(numbers.mean("reference", "likeness").mean, color="grey", ls="--", lw=1)
        axes.axvline(numbers.mean("reference", "editability").mean, color="grey", ls="--", lw=1)
    axes.figure.canvas.draw()  # so that it is known where points come to lie
    taken: list[Any] = []
    for text, a, b in labels:
        place = axes.transData.transform((a, b))
        if all(abs(place[0] - x) > 30 or abs(place[1] - y) > 12 for x, y in taken):  # else it could not be read
            axes.annotate(text, (a, b), textcoords="offset points", xytext=(5, 4), fontsize=8)
            taken.append(place)
    axes.set(
        xlabel="editability", ylabel="likeness",
        title="Both together, by steps\n(dashed: repainted pictures; dotted: somebody else)",
    )  # fmt: skip
    if axes.has_data():
        axes.legend(fontsize=8)


def _norms(axes: Any, numbers: Numbers, plan: Plan) -> None:
    for run, marks in _lines(numbers, plan):
        start = numbers.mean(run.config(marks[0]), "start_norm").mean
        norms = [start, *(numbers.mean(run.config(m), "norm").mean for m in marks)]
        axes.plot([0, *marks], norms, marker="o", color=_COLOURS[run.start], label=run.label)
    axes.set_xscale("symlog", linthresh=plan.fast)
    axes.set_xticks(ticks := [0, *plan.steps, plan.long], [f"{steps:,}" for steps in ticks])
    axes.minorticks_off()
    axes.set(yscale="log", xlabel="steps", ylabel="norm of the learned vectors", title="Scale")
    axes.set_xlim(left=0)


def _lambda(axes: Any, numbers: Numbers, plan: Plan) -> None:
    series = [(run, steps) for run, steps in plan.series("lambda") if run.config(steps) in numbers]
    places = np.arange(len(series))
    for name, colour in (("likeness", "tab:blue"), ("editability", "tab:green"), ("expressions", "tab:olive")):
        found = [numbers.mean(run.config(steps), name) for run, steps in series]
        axes.errorbar(
            places, [e.mean for e in found], yerr=[e.error for e in found], marker="o", color=colour, label=name
        )
    axes.set_xticks(places, [f"{run.regularization:g}" for run, _ in series])
    axes.set(xlabel="lambda", title=f"Cross initialization, {plan.full} steps")
    if series:
        axes.legend(fontsize=8)


def save_people(folder: Path, plan: Plan, path: Path, identity: int = 0) -> bool:
    """One person learned in the main ways, a row each, a column for each of ten prompts; False if pictures are missing.

    folder: where the measurement kept its pictures, CONFIG/PERSON.png: all prompts side by side.
    """
    runs = [(run, steps) for run, steps in plan.series("main") if steps in (plan.fast, plan.full, plan.long)]
    rows = []
    for name, file in [("repainted", "reference"), *((f"{run.label}, {s:,} steps", run.config(s)) for run, s in runs)]:
        if (kept := folder / file / f"{identity:04d}.png").is_file():
            strip = np.asarray(Image.open(kept).convert("RGB"))
            rows.append((name, [strip[:, prompt * SIZE : (prompt + 1) * SIZE] for prompt in _SHOWN]))
    if not rows:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_table(rows, [short(PROMPTS[prompt].text) for prompt in _SHOWN]))
    return True


def short(prompt: str) -> str:
    """A prompt as it stands above a column."""
    return prompt.replace("a {} person", "*").replace("{} person", "*")
