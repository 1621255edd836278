"""docs/evaluation.md, the help page and what dlib's recognizer says of itself: their numbers are those that were measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crossinit_core.evaluation.dlib_faces import SCALE
from crossinit_core.evaluation.protocol import RESAMPLES

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
MEASURED: dict[str, Any] = json.loads(
    (REPOSITORY / "docs" / "measurements" / "recognizers.json").read_text(encoding="utf-8")
)


def _row(first: str) -> list[str]:
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(("name", "title"), [("olivetti", "Olivetti"), ("deepface", "deepface's unit tests")])
def test_pairs_are_as_measured(name: str, title: str) -> None:
    facts = MEASURED[name]
    own, others = facts["one person"], facts["different people"]
    _, pairs, same, different, area = _row(title)
    assert pairs == f"{own['pairs']:,} and {others['pairs']:,}"
    assert same == f"{own['mean']:.3f}, nine of ten from {own['5 %']:.2f} to {own['95 %']:.2f}"
    assert different == f"{others['mean']:.3f}, nine of ten from {others['5 %']:.2f} to {others['95 %']:.2f}"
    assert area == f"{facts['AUC']:.4f}"


def test_changed_portraits_are_as_measured() -> None:
    for change, values in MEASURED["changed portraits"].items():
        if change == "each other":
            assert f"The two have {values:.2f} to each other" in PAGE
        else:
            assert _row(change)[1:] == [f"{values['Collins']:.2f}", f"{values['Hopper']:.2f}"]


def test_painted_people_are_as_measured() -> None:
    facts = MEASURED["painted people"]
    assert f"a face was found on {facts['pictures'] - facts['without a face']} of {facts['pictures']}" in PAGE
    said = f"One person has {facts['one person']:.2f}, two people {facts['different people']:.2f}"
    assert said in PAGE.replace("\n", " ")
    assert facts["AUC"] == 1 and "every pair of one person is more alike than every pair of two" in PAGE


def test_the_scale_is_that_of_the_photos() -> None:
    """In the report of the node, and in its help page in both languages: the mean of one person and of strangers, and who is beyond."""
    same = (MEASURED["olivetti"]["one person"]["mean"] + MEASURED["deepface"]["one person"]["mean"]) / 2
    beyond = max(MEASURED[name]["different people"]["95 %"] for name in ("olivetti", "deepface"))
    strangers = [MEASURED[name]["different people"]["mean"] for name in ("olivetti", "deepface")]
    assert all(-0.05 < value < 0.1 for value in strangers) and beyond < 0.35 + 0.005
    help_pages = [REPOSITORY / "web" / "docs" / name for name in ("CrossInitLikeness.md", "CrossInitLikeness/zh.md")]
    for text in (SCALE, *(path.read_text(encoding="utf-8") for path in help_pages)):
        numbers = re.findall(r"\d\.\d+", text)
        assert f"{same:.2f}" in numbers and {"0.0", "0.1", "0.35"} <= set(numbers)


def test_the_protocol_is_as_written() -> None:
    assert f"({RESAMPLES:,} resamples" in PAGE


def test_the_drawn_worlds_numbers_are_those_of_its_page() -> None:
    page = (REPOSITORY / "docs" / "paper-claims.md").read_text(encoding="utf-8")
    claims = page.split("## Initializations and steps")[1]
    likeness = [
        re.search(rf"^\| {way} \| 320 \| (0\.\d+) ", claims, re.MULTILINE)
        for way in ("plain textual inversion", "cross initialization, names")
    ]
    plain, names = (found[1] for found in likeness if found)
    assert f"40 people have {plain} and {names}" in " ".join(PAGE.split())
