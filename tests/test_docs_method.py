"""docs/method.md says of the ways to learn what was measured, and so does the help of *Learn Face*."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks.paper_claims.statistics import Estimate, Numbers, estimate
from benchmarks.ways.choice import chosen
from crossinit_core.learning.settings import presets_of
from tests import pages

WAYS = {
    "published": "published",
    "textual inversion": "plain",
    "direction of the celebrity mean, 0.3 falling": "direction .3 falling most",
    "direction of the celebrity mean, 0.2 falling": "direction .2 falling most",
    "the same, one vector": "direction .3 falling most K1",
    "0.5 falling, one vector": "direction .5 falling most K1",
    "direction of Cross Initialization, 0.3 falling": "start's direction .3 falling most",
    "direction of the nearest celebrities, 0.2 falling": "nearest's direction .2 falling most",
    "direction of the nearest celebrities, 0.2 falling, one vector": "nearest's direction .2 falling most K1",
}
WORLDS = ("drawn", "contrast", "earlier contrast")


@pytest.fixture(scope="module")
def reported() -> dict[str, Numbers]:
    """What the search has of each world."""
    numbers = json.loads(pages.text("docs/ways.json"))
    assert tuple(numbers) == WORLDS
    return {name: Numbers(stages["report"]) for name, stages in numbers.items()}


@pytest.fixture(scope="module")
def claimed() -> dict[str, Numbers]:
    """What the page of the paper's claims has of them."""
    files = {"drawn": "paper-claims", "contrast": "paper-claims-contrast"}
    return {name: Numbers(json.loads(pages.text(f"docs/{file}.json"))) for name, file in files.items()}


def _pair(numbers: Numbers, config: str) -> str:
    return "{:.3f} / {:.3f}".format(*(numbers.mean(config, name).mean for name in ("likeness", "editability")))


def test_the_page_of_the_method_has_the_measured_numbers(
    reported: dict[str, Numbers], claimed: dict[str, Numbers]
) -> None:
    """In all worlds, and nothing where nothing was measured."""
    page = pages.text("docs/method.md")
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.count("|") == 6]
    rows = [[cell.strip() for cell in cells] for cells in lines if " / " in cells[2]]
    assert len(rows) == 19
    for way, steps, *cells in rows:
        way = way.split(" (*")[0]
        own = {"*the person repainted*": "reference", "*its own people, by name*": "named"}
        config = own[way] if way in own else f"{WAYS[way]}-{steps.replace(',', '')}"
        for world, cell in zip(WORLDS, cells, strict=True):
            sources = [
                each for each in (reported[world], claimed.get(world)) if each and each.column(config, "likeness")
            ]
            assert cell == (_pair(sources[0], config) if sources else ""), (config, world)
    text = " ".join(page.split())
    counts = {
        world: {len(each["identities"]) for name, each in reported[world].summary["configs"].items() if name in few}
        for world, few in (("contrast", ["published-320"]), ("earlier contrast", ["published-25", "published-320"]))
    }
    (full,) = counts["contrast"]
    long = claimed["contrast"].mean("plain-5000", "likeness").count
    assert f"In *contrast* {full} people were learned for 320 published steps, and {long} by 5,000 of textual" in text
    fewer = counts["earlier contrast"]
    assert f"In *earlier contrast* {min(fewer)} to {max(fewer)} people were learned as published" in text


def test_the_page_of_the_method_has_the_numbers_of_textual_inversion(
    reported: dict[str, Numbers], claimed: dict[str, Numbers]
) -> None:
    text = " ".join(pages.text("docs/method.md").split())

    def likeness(numbers: Numbers, steps: int) -> str:
        return f"{numbers.mean(f'plain-{steps}', 'likeness').mean:.3f}"

    earlier, contrast, drawn = reported["earlier contrast"], reported["contrast"], claimed["drawn"]
    assert f"({likeness(earlier, 25)} after 25 steps and {likeness(earlier, 1000)} after 1,000)" in text
    has = f"in *contrast* {likeness(contrast, 25)} after 25 and {likeness(contrast, 100)} after 100"
    assert f"In *drawn* it has {likeness(drawn, 25)} after 25 steps, {has}" in text


@pytest.mark.parametrize("page", ["web/docs/CrossInitLearn.md", "web/docs/CrossInitLearn/zh.md"])
def test_the_help_of_learn_face_has_the_evidence(page: str, reported: dict[str, Numbers]) -> None:
    gains = [
        f"{numbers.difference(config, 'published-320', 'likeness').mean:.2f}"
        for numbers in reported.values()
        for config in ("direction .2 falling most-100", "direction .3 falling most-25")
        if config in numbers
    ]
    (evidence,) = re.findall(
        r"\*\*(?:The evidence\.|依据。)\*\*(.*?)(?:That is not|这不是)", pages.text(page), re.DOTALL
    )
    assert re.findall(r"0\.\d\d", evidence) == gains


def _less(ways: Numbers, claims: Numbers, config: str, against: str, name: str) -> Estimate:
    """The difference of one person's numbers, of two measurements with other noise."""
    first, second = ways.column(config, name), claims.column(against, name)
    return estimate(np.array([first[i] - value for i, value in second.items() if i in first]))


def test_the_page_of_the_method_compares_best_and_swift(
    reported: dict[str, Numbers], claimed: dict[str, Numbers]
) -> None:
    text = " ".join(pages.text("docs/method.md").split())
    best, swift = "direction .2 falling most-100", "direction .3 falling most-25"
    alike, obeyed = (
        [_less(reported[world], claimed[world], best, "plain-5000", name) for world in ("drawn", "contrast")]
        for name in ("likeness", "editability")
    )
    less = f"{-alike[0].mean:.3f} less in *drawn*, {-alike[1].mean:.3f} ± {alike[1].error:.3f} less in *contrast*"
    more = f"{obeyed[0].mean:.3f} more in *drawn*, {obeyed[1].mean:.3f} ± {obeyed[1].error:.3f} in *contrast*"
    assert f"({less}) and obeys more prompts ({more})" in text
    own = [
        reported[world].mean("named", "likeness").mean - reported[world].mean(best, "likeness").mean
        for world in WORLDS
        if best in reported[world]
    ]
    assert f"within {max(own):.3f} of the people whom a world knows by name" in text
    choosing = {name: Numbers(stages["choose"]) for name, stages in json.loads(pages.text("docs/ways.json")).items()}
    assert f"{chosen(choosing, 100)}-100" == best, "the page says that the rule chooses the preset"
    for config in (swift, best):
        for world in (name for name in WORLDS if config in reported[name]):
            found = [
                reported[world].difference(config, "published-320", name).interval(sign=True)
                for name in ("likeness", "editability")
            ]
            assert " and ".join(found) in text, (config, world)
    steps = [choosing[name].mean("direction .1 most K1, settling-100", "steps").mean for name in WORLDS[1:]]
    assert f"after {steps[0]:.0f} and {steps[1]:.0f} of 100 steps" in text


def test_the_page_of_the_method_compares_both_starts(reported: dict[str, Numbers]) -> None:
    text = " ".join(pages.text("docs/method.md").split())
    mean, crossed = "direction .3 falling most", "start's direction .3 falling most"
    world = reported["earlier contrast"]
    alike = world.difference(f"{mean}-25", f"{crossed}-25", "likeness").mean
    obeyed = world.difference(f"{mean}-100", f"{crossed}-100", "editability").mean
    assert f"by {alike:.3f} of likeness after 25 steps and {obeyed:.3f} of editability after 100" in text


def test_the_page_of_the_method_says_what_was_reached(reported: dict[str, Numbers]) -> None:
    """As docs/ways.md has it: each line of its last table is a way in a world, and says 'reached' for what was."""
    text = " ".join(pages.text("docs/method.md").split())
    reached: dict[str, set[str]] = {world: set() for world in WORLDS}
    for line in pages.text("docs/ways.md").splitlines():
        found = re.match(r"\| (.*?), (\d+), \*(.*)\* \| .*(?:\d: reached)", line)
        if found:
            reached[found[1]].add(f"{found[3]}-{found[2]}")
    both = {f"direction {rate} falling most K1-{steps}" for rate in (".3", ".5") for steps in (25, 100)}
    assert both <= reached["drawn"] and "at 0.3 and at 0.5" in text
    anywhere = reached["contrast"] | reached["earlier contrast"]
    assert not reached["drawn"] & anywhere and "no way that was measured in two worlds reaches in both" in text
    aim = reported["contrast"].mean("reference", "likeness").mean - 0.004
    own = reported["contrast"].mean("named", "likeness").mean
    assert f"would be {aim:.3f}, and the world's own people have {own:.3f}" in text


def test_the_page_of_the_method_has_the_presets_own_numbers() -> None:
    rows = pages.rows(pages.text("docs/method.md"))
    for name in ("swift", "best"):
        preset = presets_of("sd2")[name]
        assert rows[name][:3] == [str(preset.steps), f"{preset.learning_rate:g}", "200 to 999"]
        seconds = [
            pages.measured(f"presets/{family}/ours.json")["modes"][f"{name} preset"]["seconds"]
            for family in ("sd2", "sdxl")
        ]
        assert [float(cell) for cell in rows[name][3:]] == [round(each, 1) for each in seconds]
        assert preset.timesteps == (200, 1000) and preset.schedule == "linear" and preset.method == "direction"


def test_the_page_of_the_method_has_the_dials_numbers() -> None:
    worlds = json.loads(pages.text("docs/measurements/dial.json"))
    assert {world["people"] for world in worlds.values()} == {40} and list(worlds) == ["drawn", "contrast"]
    text = " ".join(pages.text("docs/method.md").split())
    section = pages.text("docs/method.md").split("## One dial")[1].split("\n## ")[0]
    rows = {name: cells for name, cells in pages.rows(section).items() if any(" / " in cell for cell in cells)}
    ways = ("swift", "best", "plain textual inversion")
    names = [f"late {float(name.strip('%')) / 100:g}" if name.endswith("%") else name for name in rows]
    assert names == list(worlds["drawn"]["swift"])

    def pair(found: dict[str, list[float]]) -> str:
        return f"{found['likeness'][0]:.3f} / {found['editability'][0]:.3f}"

    for name, cells in zip(names, rows.values(), strict=True):
        assert cells == [pair(world[way][name]) for world in worlds.values() for way in ways], name
    assert "have {} and {}.".format(*(pair(world["reference"]) for world in worlds.values())) in text
    for world, sentence in {
        "drawn": "*best* at 0.8 gives up {:.3f} of likeness for {:.3f} of editability in *drawn*",
        "contrast": "and {:.3f} for {:.3f} in *contrast*",
    }.items():
        turned, whole = (worlds[world]["best"][strength] for strength in ("0.8", "1"))
        less, more = whole["likeness"][0] - turned["likeness"][0], turned["editability"][0] - whole["editability"][0]
        assert sentence.format(less, more) in text
