"""The page of a reproduction: methods side by side, what the numbers would be for strangers, and a sheet of pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import write_atomically
from ..text import quoted
from .faces import labelled, reference_features
from .page import few, number
from .pictures import read_rgb
from .protocol import Estimate, PersonScores, PromptScorer, Row, estimate, row_of_person, summarize
from .recognizers import Recognizer

SHEET = "sheet.jpg"
FACTS = "reproduction.json"

PUBLISHED = (
    ("Textual Inversion, 5,000 steps", "0.2115", "0.2498"),
    ("Cross Initialization, 320 steps", "0.2517", "0.2859"),
)
"""Identity and prompt similarity on SD 2.1 with the first 200 pictures of CelebA-HQ (RectifID, NeurIPS 2024, table 1, which takes
them from Pang et al.)."""

_SHEET_PEOPLE, _SHEET_PICTURES = 3, 8
_TILE = 160


@dataclass(frozen=True)
class Anchors:
    """What the recognizer says of the photos alone: `strangers` of photos of different people, `same` of different photos of one
    person; each a mean over people, or empty."""

    strangers: Estimate
    same: Estimate


def anchors(recognizer: Recognizer, photos: Mapping[str, Sequence[Path]]) -> Anchors:
    """From everybody's photos."""
    features = {
        name: reference_features(recognizer, [read_rgb(path) for path in files]) for name, files in photos.items()
    }
    strangers, same = [], []
    for name, own in features.items():
        others = [recognizer.similarity(own, other).mean() for also, other in features.items() if also != name]
        strangers.append(float(np.mean(others)) if others else None)
        pairs = recognizer.similarity(own, own)[~np.eye(len(own), dtype=bool)]
        same.append(float(pairs.mean()) if len(pairs) else None)
    return Anchors(estimate(strangers), estimate(same))


def differences(first: Sequence[PersonScores], second: Sequence[PersonScores]) -> tuple[Estimate, Estimate]:
    """first - second in identity and in prompt similarity, person by person."""
    found: tuple[list[float | None], list[float | None]] = ([], [])
    others = {person.name: row_of_person(person) for person in second}
    for person in first:
        own, other = row_of_person(person), others[person.name]
        for values, a, b in zip(found, (own.identity, own.shown), (other.identity, other.shown), strict=True):
            values.append(a.mean - b.mean if a.mean is not None and b.mean is not None else None)
    return estimate(found[0]), estimate(found[1])


def write_reproduction(
    path: Path,
    titles: Mapping[str, str],
    scores: Mapping[str, Sequence[PersonScores]],
    seconds: Mapping[str, Sequence[float | None]],
    steps: Mapping[str, int],
    recognizer: Recognizer,
    scorer: PromptScorer | None,
    *,
    photos: Mapping[str, Sequence[Path]],
    left_out: Mapping[str, str],
    model: str,
) -> None:
    """Write the page at `path`, and beside it the numbers (`FACTS`) and a sheet of pictures (`SHEET`).

    `titles` has the methods in their order; the first is what the others are compared with. `scores` and `seconds` have one entry
    a person, `photos` everybody's, and `left_out` the reason for each person without a usable photo.
    """
    rows = {method: summarize(scores[method], recognizer, scorer).overall for method in titles}
    times = {method: estimate(seconds[method]) for method in titles}
    found = anchors(recognizer, photos)
    base = next(iter(titles))
    against = {method: differences(scores[method], scores[base]) for method in titles if method != base}
    facts = {
        "model": model,
        "recognizer": recognizer.name,
        "prompt similarity": scorer.name if scorer else None,
        "methods": {
            method: {
                "title": titles[method],
                "steps": steps[method],
                "seconds": asdict(times[method]),
                "all": asdict(rows[method]),
                "identity against the first": asdict(against[method][0]) if method in against else None,
                "prompt similarity against the first": asdict(against[method][1]) if method in against else None,
            }
            for method in titles
        },
        "photos of strangers": asdict(found.strangers),
        "photos of one person": asdict(found.same),
        "left out": dict(left_out),
    }
    write_atomically(path.with_name(FACTS), f"{json.dumps(facts, ensure_ascii=False, indent=1)}\n".encode())
    write_atomically(path.with_name(SHEET), sheet(path.parent, titles, scores, photos))
    people = len(photos)
    lines = [
        "# Reproduction",
        "",
        f"{people} {'person' if people == 1 else 'people'}, {rows[base].pictures} pictures of each method, on `{quoted(model, 80)}`.",
        "",
        *_table(titles, rows, times, steps, against, scorer is not None),
        "",
        f"Identity: {recognizer.name}. {recognizer.scale}".rstrip(),
        *([f"Prompt similarity: {scorer.name}."] if scorer else []),
        "",
        *_anchor_lines(found),
        f"Brackets are 95 % intervals of the bootstrap over people.{few(people)} Identity is the mean over pictures with a face. "
        f"*Against {base}* is the difference person by person: an interval that holds 0 says that no difference was seen. "
        "Seconds are those of learning, in runs that were not interrupted.",
        "",
        f"![The photo, and pictures of each method]({SHEET})",
        "",
        "Each method's table of prompts: "
        + ", ".join(f"[{method}](evaluation/{method}/evaluation.md)" for method in titles)
        + ".",
        "",
        "## The published numbers",
        "",
        "Another recognizer measured them (CosFace, trained on VGGFace2), on other people. Their differences can be compared with "
        "those above in their sign, not in their size.",
        "",
        "| published | identity | prompt similarity |",
        "|---|---:|---:|",
        *(f"| {name} | {identity} | {shown} |" for name, identity, shown in PUBLISHED),
    ]
    if left_out:
        lines += ["", "## Left out", "", *(f"- {name}: {quoted(reason, 300)}" for name, reason in left_out.items())]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _table(
    titles: Mapping[str, str],
    rows: Mapping[str, Row],
    times: Mapping[str, Estimate],
    steps: Mapping[str, int],
    against: Mapping[str, tuple[Estimate, Estimate]],
    shows: bool,
) -> list[str]:
    base = next(iter(titles))
    heads = ["method", "steps", "seconds", "identity", f"against {base}"]
    heads += ["prompt similarity", f"against {base}"] if shows else []
    heads.append("without a face")
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for method, title in titles.items():
        row = rows[method]
        differs = [number(each, "+.3f") for each in against[method]] if method in against else ["", ""]
        cells = [f"{title} (`{method}`)", str(steps[method]), _seconds(times[method]), number(row.identity), differs[0]]
        cells += [number(row.shown), differs[1]] if shows else []
        cells.append(number(row.faceless, ".0%"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _seconds(found: Estimate) -> str:
    return "-" if found.mean is None else f"{found.mean:.0f}" if found.mean >= 10 else f"{found.mean:.1f}"


def _anchor_lines(found: Anchors) -> list[str]:
    lines = []
    if found.strangers.mean is not None:
        lines.append(
            f"Photos of different people among these have an identity of {number(found.strangers)} to each other."
        )
    if found.same.mean is not None:
        lines.append(f"Different photos of one person have {number(found.same)}.")
    return lines


def sheet(
    root: Path,
    titles: Mapping[str, str],
    scores: Mapping[str, Sequence[PersonScores]],
    photos: Mapping[str, Sequence[Path]],
) -> bytes:
    """A JPEG: for the first people the photo, and a line of pictures for each method, the first of each prompt, with scores."""
    lines: list[list[Image.Image]] = []
    for index, (name, files) in enumerate(list(photos.items())[:_SHEET_PEOPLE]):
        for position, method in enumerate(titles):
            photo = (
                _tile(read_rgb(files[0]), quoted(name, 20))
                if not position
                else Image.new("RGB", (_TILE, _TILE), "white")
            )
            first: dict[str | None, Image.Image] = {}
            for scored in scores[method][index].pictures:
                if scored.prompt not in first and len(first) < _SHEET_PICTURES:
                    label = "no face" if scored.identity is None else f"{method} {scored.identity:.2f}"
                    first[scored.prompt] = _tile(read_rgb(root / scored.picture), label)
            lines.append([photo, *first.values()])
    width = max((len(line) for line in lines), default=1)
    whole = Image.new("RGB", (width * _TILE, len(lines) * _TILE), "white")
    for down, line in enumerate(lines):
        for across, tile in enumerate(line):
            whole.paste(tile, (across * _TILE, down * _TILE))
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=88)
    return file.getvalue()


def _tile(picture: np.ndarray, label: str) -> Image.Image:
    image = Image.fromarray(picture)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    small = image.crop((left, top, left + side, top + side)).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
    return Image.fromarray(labelled(np.asarray(small), label))
