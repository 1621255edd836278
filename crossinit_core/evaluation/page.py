"""An evaluation for people: a table in Markdown, and a chart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ..text import quoted
from .protocol import Estimate, Evaluation, Row, row_of_person

_LONGEST_PROMPT = 70


def number(found: Estimate, form: str = ".3f") -> str:
    """`0.412 [0.390, 0.433]`, without an interval for one person, `-` for nothing."""
    if found.mean is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.mean:{form}}"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def table(evaluation: Evaluation) -> str:
    """Markdown: all prompts together, then each prompt."""
    shows = evaluation.prompt_scorer is not None
    heads = ["prompt", "pictures", "identity", *(["prompt similarity"] if shows else []), "without a face"]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for row in (evaluation.overall, *evaluation.prompts):
        shown = [number(row.shown)] if shows else []
        lines.append(
            _line([_cell(row.prompt), str(row.pictures), number(row.identity), *shown, number(row.faceless, ".0%")])
        )
    return "\n".join(lines)


def says_whose(evaluation: Evaluation) -> str:
    """Who measured what, in a few sentences."""
    people = len(evaluation.people)
    lines = [f"Identity: {evaluation.recognizer}. {evaluation.scale}".strip()]
    if evaluation.prompt_scorer is not None:
        lines.append(f"Prompt similarity: {evaluation.prompt_scorer}, the person's place deleted from each prompt.")
    if people == 1:
        lines.append("One person, so there are no intervals.")
    else:
        lines.append(
            f"Means over {people} people; in brackets the 95 % interval of the bootstrap over people.{few(people)}"
        )
    lines.append(
        "Identity is over the pictures with a face, so read it together with the share of those without. Numbers of different "
        "recognizers cannot be compared, nor these with published ones, whose recognizer is another."
    )
    without = sum(person.photos_without_face for person in evaluation.people)
    if without:
        photos = sum(person.photos for person in evaluation.people)
        lines.append(f"{without} of {photos} photos were not used: no face was found on them.")
    return "\n".join(lines)


def few(people: int) -> str:
    """A warning, if the bootstrap has too few people to draw from."""
    return f" With {people} people these intervals are too narrow: take ten or more." if 1 < people < 10 else ""


def page(evaluation: Evaluation, chart: str | None = None) -> str:
    """The whole page in Markdown; `chart` is the chart's file name."""
    picture = f"\n![Identity and prompt similarity of each prompt]({chart})\n" if chart else ""
    people = ""
    if len(evaluation.people) > 1:
        people = f"\n## People\n\n{people_table(evaluation)}\n"
    return f"# Evaluation\n\n{says_whose(evaluation)}\n\n{table(evaluation)}\n{picture}{people}"


def people_table(evaluation: Evaluation) -> str:
    """Markdown: a line for each person."""
    lines = [_line(["person", "photos", "pictures", "identity", "prompt similarity", "without a face"])]
    lines.append(_line(["---", *["---:"] * 5]))
    for person in evaluation.people:
        row = row_of_person(person)
        cells = [_cell(person.name), str(person.photos), str(row.pictures)]
        lines.append(_line([*cells, number(row.identity), number(row.shown), number(row.faceless, ".0%")]))
    return "\n".join(lines)


def chart(evaluation: Evaluation) -> bytes | None:
    """A PNG with bars for each prompt and their intervals; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows: Sequence[Row] = (evaluation.overall, *evaluation.prompts)
    panels = [("identity", evaluation.recognizer, ".2f"), ("faceless", "share of pictures without a face", ".0%")]
    if evaluation.prompt_scorer is not None:
        panels.insert(1, ("shown", evaluation.prompt_scorer, ".2f"))
    figure = Figure(figsize=(4 + 3.2 * len(panels), 1.4 + 0.32 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    titles = {"identity": "Identity", "shown": "Prompt similarity", "faceless": "No face"}
    for axis, (name, whose, form) in zip(axes, panels, strict=True):
        _bars(axis, [getattr(row, name) for row in rows], form)
        axis.set_title(titles[name], loc="left", fontweight="bold")
        axis.set_xlabel(quoted(whose, 46), fontsize=8)
    axes[-1].set_xlim(0, 1.15)
    axes[0].set_yticks(range(len(rows)), [_short(row.prompt) for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _bars(axis: Any, found: Sequence[Estimate], form: str) -> None:
    for place, one in enumerate(found):
        if one.mean is None:
            continue
        spread = None
        if one.low is not None and one.high is not None:
            spread = [[max(0.0, one.mean - one.low)], [max(0.0, one.high - one.mean)]]
        axis.barh(place, one.mean, xerr=spread, color="#0072b2" if place else "#1b1f24", height=0.7, ecolor="#57606a")
        axis.annotate(f" {one.mean:{form}}", (max(one.high or one.mean, 0), place), va="center", fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.15)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return quoted(text, 200).replace("|", "\\|")


def _short(text: str) -> str:
    # matplotlib takes what stands between dollar signs for mathematics.
    return quoted(text, _LONGEST_PROMPT).replace("$", r"\$")
