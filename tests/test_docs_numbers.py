"""Numbers in the README and in `docs`: each is what was measured, or what the code says."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.paper_claims.statistics import Estimate, Numbers, estimate
from benchmarks.ways.choice import chosen
from crossinit_core import load_celebrity_names
from crossinit_core.learning.settings import presets_of

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PERFORMANCE = DOCS / "measurements" / "performance"


def _text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def _measured(name: str) -> Any:
    return json.loads((PERFORMANCE / name).read_text(encoding="utf-8"))


def _rows(text: str) -> dict[str, list[str]]:
    """Of all tables: the first cell without its stars -> the other cells."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first.replace("*", ""): rest for first, *rest in cells}


def _rounded(said: str, measured: float) -> bool:
    """Whether a number as it is written, `12.6 s`, is the measured one, rounded to as many places."""
    number = re.match(r"[\d.,]+", said)
    assert number, said
    digits = number.group().replace(",", "")
    _, _, places = digits.partition(".")
    return abs(float(digits) - measured) <= 0.5 * 10.0 ** -len(places) + 1e-9


EXPECT = _rows(_text("docs/what-to-expect.md"))
SD2 = {
    "published recipe": "published",
    "Learn Face": "full preset",
    "Learn Face, memory low": "low memory, fast preset",
}
SDXL = {
    "published recipe, 768 px": "published",
    "Learn Face, 768 px": "full preset",
    "Learn Face, 768 px, memory low": "low memory",
    "Learn Face, 768 px, without Triton": "without Triton",
    "published recipe, 1024 px": "published, 1024 px",
    "Learn Face, 1024 px": "1024 px",
    "Learn Face, 1024 px, memory low": "1024 px, low memory",
}


@pytest.mark.parametrize("row", SDXL)
def test_sdxls_times_and_memory_were_measured(row: str) -> None:
    name = SDXL[row]
    ours, published = _measured("sdxl/ours.json"), _measured("sdxl/published.json")
    run = published.get(name) or ours["modes"][name]
    step, whole, peak = EXPECT[row]
    # The presets' own row tells of the whole run; a step is that of the short runs, which the profile agrees with.
    short = ours["modes"]["default, 10 steps"] if name == "full preset" else run
    assert _rounded(step, short["ms_a_step"])
    assert _rounded(peak, run["peak_gib"])
    seconds = run.get("seconds_400") or (run["seconds"] if run.get("steps") == 400 else None)
    assert _rounded(whole, seconds) if seconds else not whole


@pytest.mark.parametrize("row", [*SD2, "Learn Face without Triton, as on Windows"])
def test_sd2s_times_and_memory_were_measured(row: str) -> None:
    name = SD2.get(row, "without Triton, fast preset")
    modes, published = _measured("ours.json")["modes"], _measured("published.json")
    run = published.get(name) or modes[name]
    step, fast, full, peak = EXPECT[row]
    short = modes["default, 10 steps"] if name == "full preset" else run
    assert _rounded(step, short["ms_a_step"])
    assert _rounded(peak, run["peak_gib"])
    if row == "Learn Face":
        first, again = (modes[preset]["seconds"] for preset in ("fast preset again", "fast preset"))
        least, most = fast.removesuffix(" s").split(" to ")
        assert _rounded(least, first)
        assert _rounded(most, again)
    else:
        assert _rounded(fast, run.get("seconds_25") or run["seconds"])
    seconds = run.get("seconds_320") or (run["seconds"] if run.get("steps") == 320 else None)
    assert _rounded(full, seconds) if seconds else not full


def test_the_readmes_times_and_memory_were_measured() -> None:
    """Seconds of both full runs; the least memory, at most half a GiB more than what was reached."""
    text = " ".join(_text("README.md").split())
    times = re.search(r"on an H200 (\d+) seconds for SD 2\.1's full run and (\d+) for SDXL's", text)
    assert times
    for said, file in zip(times.groups(), ("ours.json", "sdxl/ours.json"), strict=True):
        assert _rounded(said, _measured(file)["modes"]["full preset"]["seconds"])
    memory = re.search(r"about (\d+) GiB of free video memory with SD 2\.1, ([\d.]+) with SDXL", text)
    assert memory
    reached = min(run["peak_gib"] for run in _measured("memory.json"))
    for said, least in zip(
        memory.groups(), (reached, _measured("sdxl/ours.json")["modes"]["low memory"]["peak_gib"]), strict=True
    ):
        assert least <= float(said) <= least + 0.5


@pytest.mark.parametrize("page", ["web/docs/CrossInitLearn.md", "web/docs/CrossInitLearn/zh.md"])
def test_the_help_pages_least_memory_was_measured(page: str) -> None:
    """What *memory* low takes, at most a quarter of a GiB more or less."""
    (entry,) = [entry for entry in _text(page).split("\n- ") if "*low*" in entry and "*normal*" in entry]
    said = [float(number) for number in re.findall(r"([\d.]+)\s+GiB", entry)]
    measured = [_measured(name)["modes"]["low memory"]["peak_gib"] for name in ("ours.json", "sdxl/ours.json")]
    assert said == pytest.approx(measured, abs=0.25)


def test_memory_of_other_sizes_was_measured() -> None:
    said = re.search(
        r"768 px SD 2\.1 needs ([\d.]+) GiB, or ([\d.]+) with \*memory\* low\. With a batch of 1 and \*memory\* low it needs "
        r"([\d.]+) GiB at 512 px\. In fp32 low memory means ([\d.]+) GiB",
        " ".join(_text("docs/what-to-expect.md").split()),
    )
    assert said
    wanted: list[dict[str, Any]] = [
        {"batch_size": 8, "resolution": 768, "memory": "normal"},
        {"batch_size": 8, "resolution": 768, "memory": "low"},
        {"batch_size": 1, "memory": "low"},
        {"batch_size": 8, "memory": "low", "precision": "float32"},
    ]
    runs = [{"resolution": 512, **run} for run in _measured("memory.json")]
    for number, one in zip(said.groups(), wanted, strict=True):
        one = {"resolution": 512, "precision": "float16", **one}
        (peak,) = {run["peak_gib"] for run in runs if one.items() <= run.items() and not run.get("micro_batch_size")}
        assert _rounded(number, peak)


def test_bf16_on_sdxl_is_as_coarse_as_said() -> None:
    """The range of the cosine of movement over all of SDXL's modes and the benchmark's own run."""
    said = re.search(
        r"bf16 is coarser: ([\d.]+) to ([\d.]+) with SDXL", " ".join(_text("docs/what-to-expect.md").split())
    )
    assert said
    modes = [mode for name, mode in _measured("modes.json").items() if name.startswith("sdxl")]
    reached = [mode["bf16"]["cosine_of_movement"] for mode in modes]
    reached.append(_measured("sdxl/ours.json")["modes"]["bf16"]["cosine_of_movement"])
    assert _rounded(said[1], min(reached))
    assert _rounded(said[2], max(reached))
    assert min(mode["cosine_of_movement"] for mode in modes) >= 0.9999


CLAIMS = {
    'the word "person", 320 (0.005)': ("plain textual inversion", "320"),
    'the word "person", 5,000 (0.005)': ("plain textual inversion", "5,000"),
    "celebrity mean without the encoder, 320 (0.005)": ("celebrity mean, no encoder pass", "320"),
    "cross initialization, 25 (0.005)": ("cross initialization, names", "25"),
    "cross initialization, 320 (0.005)": ("cross initialization, names", "320"),
    "cross initialization, 320 (0.005), three vectors instead of two": ("cross initialization, names, K = 3", "320"),
    "cross initialization, 320 (0.02)": ("cross initialization, names, rate 0.02", "320"),
    "cross initialization, 320 (0.04)": ("cross initialization, names, rate 0.04", "320"),
}


def _claim(name: str, steps: str) -> tuple[float, float, float]:
    """Likeness, editability and growth of the norm of one row of the page that the benchmark writes, of the shipped world."""
    for line in _text("docs/paper-claims.md").split("## Initializations and steps")[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == [name, steps]:
            likeness, editability, growth = (float(cells[column].split(" ")[0]) for column in (2, 5, 9))
            return likeness, editability, growth
    raise AssertionError(f"{name}, {steps} steps, is not in docs/paper-claims.md")


def test_the_short_table_of_claims_is_the_long_ones() -> None:
    rows = {first: cells for first, cells in EXPECT.items() if re.search(r"\(0\.0\d+\)", first)}
    assert set(rows) == set(CLAIMS)
    for first, (likeness, editability, norm) in rows.items():
        measured = _claim(*CLAIMS[first])
        assert (float(likeness), float(editability)) == measured[:2]
        assert _rounded(norm, measured[2])
    text = " ".join(_text("docs/what-to-expect.md").split())
    slow, fast = (_claim(f"learning rate {rate}", "25")[0] for rate in ("0.005", "0.02"))
    assert f"a likeness of {fast:.3f} where 0.005 gave {slow:.3f}" in text
    assert f"From *full* expect more: {_claim('cross initialization, names', '320')[0]:.3f}" in text


def test_the_comparisons_own_numbers_are_ours() -> None:
    """Steps, seconds and the drawn world's numbers."""
    text = " ".join(_text("docs/compared.md").split())
    steps = [preset.steps for base in ("sd2", "sdxl") for preset in presets_of(base).values()]
    assert f"two vectors, {min(steps)} to {max(steps)} steps" in text
    seconds = re.search(r"full run took ([\d.]+) s here on an H200, where the published recipe takes (\d+) s", text)
    assert seconds
    assert _rounded(seconds[1], _measured("ours.json")["modes"]["full preset"]["seconds"])
    assert _rounded(seconds[2], _measured("published.json")["published"]["seconds_320"])
    plain, crossed = (_claim(name, "320") for name in ("plain textual inversion", "cross initialization, names"))
    assert f"likeness {plain[0]:.3f} against {crossed[0]:.3f}" in text
    assert f"editability {plain[1]:.3f} against {crossed[1]:.3f}" in text
    size = re.search(r"a file of \d+ to \d+ KB", _text("README.md"))
    assert size and size.group() in text


def test_what_others_measured_is_quoted_alike() -> None:
    """The tables of the comparison are those of `quoted.json`, with its sources, and what else quotes them agrees."""
    quoted = json.loads(_text("docs/measurements/quoted.json"))
    page, expect = _text("docs/compared.md"), " ".join(_text("docs/what-to-expect.md").split())
    photographs, others, objects = (quoted[name]["rows"] for name in ("photographs", "SDXL and Flux", "objects"))
    method = " ".join(_text("docs/method.md").split())
    for pair in objects.values():
        assert " / ".join(number.removeprefix("0") for number in pair) in method or pair == ["0.243", "0.466"]
    shortened = objects.pop("textual inversion, shortened afterwards")
    del objects["direction alone, without its prior"]
    titles = (
        "## Numbers on photographs",
        "## Other people's numbers for SDXL and Flux",
        "## Cross Initialization on SDXL",
    )
    for title, rows in zip(titles, (photographs, others, objects), strict=True):
        assert list(_rows(page.split(title)[1].split("\n## ")[0]).items())[2:] == list(rows.items())
    for name in ("RectifID (Sun et al., NeurIPS 2024)", "FreeCure (2025)", "Kim et al. (ICLR 2026, arXiv 2512.13672)"):
        assert name in page
        assert any(name in one["source"] for one in quoted.values() if isinstance(one, dict))

    _, identity, prompt, seconds = photographs["Cross Initialization, 320 steps"]
    assert f"an identity score of {identity} and a prompt score of {prompt}" in expect
    assert f"The {seconds} s above" in page
    _, identity, prompt, _ = photographs["Textual Inversion"]
    assert f"against {identity} and {prompt} for textual inversion" in expect
    image, similar = objects["Cross Initialization from the class word"]
    assert f"an image similarity of {image} and a text similarity of {similar}" in expect
    (whole, _), (short, _) = objects["textual inversion"], shortened
    assert f"image similarity {short} instead of {whole}" in page


def test_the_very_first_run_takes_as_much_longer_as_said() -> None:
    """Than the same run once its kernels are compiled."""
    text = " ".join(_text("docs/what-to-expect.md").split())
    said = re.search(
        r"very first learning takes about (\d+) s longer with SD 2\.1 and about half a minute with SDXL", text
    )
    assert said
    for seconds, name in ((float(said[1]), "ours.json"), (30.0, "sdxl/ours.json")):
        modes = _measured(name)["modes"]
        assert abs(modes["first run ever"]["seconds"] - modes["default, 10 steps"]["seconds"] - seconds) < 5


def test_a_step_from_python_takes_as_long_as_said() -> None:
    said = re.search(
        r"as the node does: (\d+) ms a step on an H200, where diffusers' own code takes (\d+)",
        " ".join(_text("docs/python.md").split()),
    )
    assert said
    ways = _measured("diffusers.json")["ways"]
    for number, way in zip(said.groups(), ("fused and recorded, fp16", "diffusers' own code, fp16"), strict=True):
        assert _rounded(number, ways[way]["ms_a_step"])


def test_pythons_are_those_that_are_allowed() -> None:
    """The nodes and the library run on what pyproject.toml says, run.py on what it asks for itself."""
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    asked = re.search(r"sys\.version_info < \((\d+), (\d+)\)", _text("run.py"))
    assert asked
    own = ".".join(asked.groups())
    assert f"Python {oldest} and PyTorch" in _text("README.md")
    assert f"With Python {own} or newer, in the folder of this repository" in _text("README.md")
    assert f"runs on Python {oldest} or newer" in _text("docs/install.md")
    assert f"(Python {oldest} or newer)" in _text("docs/python.md")
    assert f"On a bare machine with Python {own} or newer" in _text("docs/without-a-checkpoint.md")
    assert sys.version_info >= tuple(map(int, asked.groups()))


@pytest.mark.parametrize("page", ["docs/nodes.md", "web/docs/CrossInitCelebrityNames.md"])
def test_the_list_has_as_many_names_as_said(page: str) -> None:
    assert f"{len(load_celebrity_names().names)} people" in _text(page)


def test_the_miniature_is_as_small_as_said() -> None:
    weights = sum(path.stat().st_size for path in (REPOSITORY / "miniature" / "weights").glob("model-*.safetensors"))
    said = re.search(r"kind, (\d+) MB,", " ".join(_text("docs/without-a-checkpoint.md").split()))
    assert said and _rounded(said[1], weights / 1e6)


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
    numbers = json.loads(_text("docs/ways.json"))
    assert tuple(numbers) == WORLDS
    return {name: Numbers(stages["report"]) for name, stages in numbers.items()}


@pytest.fixture(scope="module")
def claimed() -> dict[str, Numbers]:
    """What the page of the paper's claims has of them."""
    pages = {"drawn": "paper-claims", "contrast": "paper-claims-contrast"}
    return {name: Numbers(json.loads(_text(f"docs/{page}.json"))) for name, page in pages.items()}


def _pair(numbers: Numbers, config: str) -> str:
    return "{:.3f} / {:.3f}".format(*(numbers.mean(config, name).mean for name in ("likeness", "editability")))


def test_the_page_of_the_method_has_the_measured_numbers(
    reported: dict[str, Numbers], claimed: dict[str, Numbers]
) -> None:
    """In all worlds, and nothing where nothing was measured."""
    page = _text("docs/method.md")
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
    text = " ".join(_text("docs/method.md").split())

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
    (evidence,) = re.findall(r"\*\*(?:The evidence\.|依据。)\*\*(.*?)(?:That is not|这不是)", _text(page), re.DOTALL)
    assert re.findall(r"0\.\d\d", evidence) == gains


def _less(ways: Numbers, claims: Numbers, config: str, against: str, name: str) -> Estimate:
    """The difference of one person's numbers, of two measurements with other noise."""
    first, second = ways.column(config, name), claims.column(against, name)
    return estimate(np.array([first[i] - value for i, value in second.items() if i in first]))


def test_the_page_of_the_method_compares_best_and_swift(
    reported: dict[str, Numbers], claimed: dict[str, Numbers]
) -> None:
    text = " ".join(_text("docs/method.md").split())
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
        for world in WORLDS[:2]
    ]
    assert f"within {max(own):.3f} of the people whom a world knows by name" in text
    choosing = {name: Numbers(stages["choose"]) for name, stages in json.loads(_text("docs/ways.json")).items()}
    assert f"{chosen(choosing, 100)}-100" == best, "the page says that the rule chooses the preset"
    for config in (swift, best):
        for world in ("drawn", "contrast"):
            found = [
                reported[world].difference(config, "published-320", name).interval(sign=True)
                for name in ("likeness", "editability")
            ]
            assert " and ".join(found) in text, (config, world)
    steps = [choosing[name].mean("direction .1 most K1, settling-100", "steps").mean for name in WORLDS[1:]]
    assert f"after {steps[0]:.0f} and {steps[1]:.0f} of 100 steps" in text


def test_the_page_of_the_method_has_the_presets_own_numbers() -> None:
    rows = _rows(_text("docs/method.md"))
    for name in ("swift", "best"):
        preset = presets_of("sd2")[name]
        assert rows[name][:3] == [str(preset.steps), f"{preset.learning_rate:g}", "200 to 999"]
        seconds = [
            _measured(f"presets/{family}/ours.json")["modes"][f"{name} preset"]["seconds"] for family in ("sd2", "sdxl")
        ]
        assert [float(cell) for cell in rows[name][3:]] == [round(each, 1) for each in seconds]
        assert preset.timesteps == (200, 1000) and preset.schedule == "linear" and preset.method == "direction"


def test_the_page_of_the_method_has_the_dials_numbers() -> None:
    worlds = json.loads(_text("docs/measurements/dial.json"))
    assert {world["people"] for world in worlds.values()} == {40} and list(worlds) == ["drawn", "contrast"]
    text = " ".join(_text("docs/method.md").split())
    section = _text("docs/method.md").split("## One dial")[1].split("\n## ")[0]
    rows = {name: cells for name, cells in _rows(section).items() if any(" / " in cell for cell in cells)}
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
