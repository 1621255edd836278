"""Numbers in the README and in `docs`: each is what was measured, or what the code says."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from typing import Any

import pytest

from benchmarks.paper_claims.statistics import Numbers
from crossinit_core import load_celebrity_names
from crossinit_core.learning.settings import presets_of
from tests import pages

EXPECT = pages.rows(pages.text("docs/what-to-expect.md"))
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
    ours, published = pages.measured("sdxl/ours.json"), pages.measured("sdxl/published.json")
    run = published.get(name) or ours["modes"][name]
    step, whole, peak = EXPECT[row]
    # The presets' own row tells of the whole run; a step is that of the short runs, which the profile agrees with.
    short = ours["modes"]["default, 10 steps"] if name == "full preset" else run
    assert pages.rounded(step, short["ms_a_step"])
    assert pages.rounded(peak, run["peak_gib"])
    seconds = run.get("seconds_400") or (run["seconds"] if run.get("steps") == 400 else None)
    assert pages.rounded(whole, seconds) if seconds else not whole


@pytest.mark.parametrize("row", [*SD2, "Learn Face without Triton, as on Windows"])
def test_sd2s_times_and_memory_were_measured(row: str) -> None:
    name = SD2.get(row, "without Triton, fast preset")
    modes, published = pages.measured("ours.json")["modes"], pages.measured("published.json")
    run = published.get(name) or modes[name]
    step, fast, full, peak = EXPECT[row]
    short = modes["default, 10 steps"] if name == "full preset" else run
    assert pages.rounded(step, short["ms_a_step"])
    assert pages.rounded(peak, run["peak_gib"])
    if row == "Learn Face":
        first, again = (modes[preset]["seconds"] for preset in ("fast preset again", "fast preset"))
        least, most = fast.removesuffix(" s").split(" to ")
        assert pages.rounded(least, first)
        assert pages.rounded(most, again)
    else:
        assert pages.rounded(fast, run.get("seconds_25") or run["seconds"])
    seconds = run.get("seconds_320") or (run["seconds"] if run.get("steps") == 320 else None)
    assert pages.rounded(full, seconds) if seconds else not full


def test_the_readmes_times_and_memory_were_measured() -> None:
    """Seconds of both full runs and of *best*; the least memory, at most half a GiB more than what was reached."""
    text = " ".join(pages.text("README.md").split())
    times = re.search(
        r"on an H200 (\d+) seconds for SD 2\.1's full run and (\d+) for SDXL's, (\d+) and (\d+) with \*best\*", text
    )
    assert times
    full = [pages.measured(file)["modes"]["full preset"]["seconds"] for file in ("ours.json", "sdxl/ours.json")]
    for said, seconds in zip(times.groups(), [*full, *_seconds("best")], strict=True):
        assert pages.rounded(said, seconds)
    memory = re.search(r"about (\d+) GiB of free video memory with SD 2\.1, ([\d.]+) with SDXL", text)
    assert memory
    reached = min(run["peak_gib"] for run in pages.measured("memory.json"))
    for said, least in zip(
        memory.groups(), (reached, pages.measured("sdxl/ours.json")["modes"]["low memory"]["peak_gib"]), strict=True
    ):
        assert least <= float(said) <= least + 0.5


@pytest.mark.parametrize("page", ["web/docs/CrossInitLearn.md", "web/docs/CrossInitLearn/zh.md"])
def test_the_help_pages_least_memory_was_measured(page: str) -> None:
    """What *memory* low takes, at most a quarter of a GiB more or less."""
    (entry,) = [entry for entry in pages.text(page).split("\n- ") if "*low*" in entry and "*normal*" in entry]
    said = [float(number) for number in re.findall(r"([\d.]+)\s+GiB", entry)]
    measured = [pages.measured(name)["modes"]["low memory"]["peak_gib"] for name in ("ours.json", "sdxl/ours.json")]
    assert said == pytest.approx(measured, abs=0.25)


def _seconds(preset: str) -> list[float]:
    """Of a preset with SD 2.1 and with SDXL."""
    files = (f"presets/{family}/ours.json" for family in ("sd2", "sdxl"))
    return [pages.measured(file)["modes"][f"{preset} preset"]["seconds"] for file in files]


def test_the_presets_take_as_long_as_said() -> None:
    swift, best = _seconds("swift"), _seconds("best")
    for page, sentence in {
        "docs/what-to-expect.md": "*swift* took {:.1f} s and *best* {:.1f} with SD 2.1, and {:.1f} s and {:.1f} with SDXL at 768 px",
        "CHANGELOG.md": "On an H200 *swift* takes {:.1f} s and *best* {:.1f} with SD 2.1, and {:.1f} and {:.1f} with SDXL",
    }.items():
        told = sentence.format(swift[0], best[0], swift[1], best[1])
        assert told in " ".join(pages.text(page).split()), page


def test_the_second_worlds_verdicts_are_those_of_the_page() -> None:
    page = " ".join(pages.text("docs/paper-claims.md").split())
    text = " ".join(pages.text("docs/what-to-expect.md").split())
    same = re.search(r"The verdict is the same in both worlds for (\d+ of \d+) claims", page)
    assert same and f"was, {same[1]} verdicts are the same for six people" in text
    contrast = Numbers(json.loads(pages.text("docs/paper-claims-contrast.json")))
    crossed, plain = (contrast.mean(f"{name}-320", "likeness") for name in ("cross-names", "plain"))
    assert crossed.count == plain.count == 6 and f": {crossed.mean:.3f} against {plain.mean:.3f}." in text


def test_memory_of_other_sizes_was_measured() -> None:
    said = re.search(
        r"768 px SD 2\.1 needs ([\d.]+) GiB, or ([\d.]+) with \*memory\* low\. With a batch of 1 and \*memory\* low it needs "
        r"([\d.]+) GiB at 512 px\. In fp32 low memory means ([\d.]+) GiB",
        " ".join(pages.text("docs/what-to-expect.md").split()),
    )
    assert said
    wanted: list[dict[str, Any]] = [
        {"batch_size": 8, "resolution": 768, "memory": "normal"},
        {"batch_size": 8, "resolution": 768, "memory": "low"},
        {"batch_size": 1, "memory": "low"},
        {"batch_size": 8, "memory": "low", "precision": "float32"},
    ]
    runs = [{"resolution": 512, **run} for run in pages.measured("memory.json")]
    for number, one in zip(said.groups(), wanted, strict=True):
        one = {"resolution": 512, "precision": "float16", **one}
        (peak,) = {run["peak_gib"] for run in runs if one.items() <= run.items() and not run.get("micro_batch_size")}
        assert pages.rounded(number, peak)


def test_bf16_on_sdxl_is_as_coarse_as_said() -> None:
    """The range of the cosine of movement over all of SDXL's modes and the benchmark's own run."""
    said = re.search(
        r"bf16 is coarser: ([\d.]+) to ([\d.]+) with SDXL", " ".join(pages.text("docs/what-to-expect.md").split())
    )
    assert said
    modes = [mode for name, mode in pages.measured("modes.json").items() if name.startswith("sdxl")]
    reached = [mode["bf16"]["cosine_of_movement"] for mode in modes]
    reached.append(pages.measured("sdxl/ours.json")["modes"]["bf16"]["cosine_of_movement"])
    assert pages.rounded(said[1], min(reached))
    assert pages.rounded(said[2], max(reached))
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
    for line in pages.text("docs/paper-claims.md").split("## Initializations and steps")[1].splitlines():
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
        assert pages.rounded(norm, measured[2])
    text = " ".join(pages.text("docs/what-to-expect.md").split())
    slow, fast = (_claim(f"learning rate {rate}", "25")[0] for rate in ("0.005", "0.02"))
    assert f"a likeness of {fast:.3f} where 0.005 gave {slow:.3f}" in text
    assert f"From *full* expect more: {_claim('cross initialization, names', '320')[0]:.3f}" in text


def test_the_comparisons_own_numbers_are_ours() -> None:
    """Steps, seconds and the drawn world's numbers."""
    text = " ".join(pages.text("docs/compared.md").split())
    steps = [preset.steps for base in ("sd2", "sdxl") for preset in presets_of(base).values()]
    assert f"two vectors, {min(steps)} to {max(steps)} steps" in text
    seconds = re.search(r"full run took ([\d.]+) s here on an H200, where the published recipe takes (\d+) s", text)
    assert seconds
    assert pages.rounded(seconds[1], pages.measured("ours.json")["modes"]["full preset"]["seconds"])
    assert pages.rounded(seconds[2], pages.measured("published.json")["published"]["seconds_320"])
    plain, crossed = (_claim(name, "320") for name in ("plain textual inversion", "cross initialization, names"))
    assert f"likeness {plain[0]:.3f} against {crossed[0]:.3f}" in text
    assert f"editability {plain[1]:.3f} against {crossed[1]:.3f}" in text
    size = re.search(r"a file of \d+ to \d+ KB", pages.text("README.md"))
    assert size and size.group() in text


def test_what_others_measured_is_quoted_alike() -> None:
    """The tables of the comparison are those of `quoted.json`, with its sources, and what else quotes them agrees."""
    quoted = json.loads(pages.text("docs/measurements/quoted.json"))
    page, expect = pages.text("docs/compared.md"), " ".join(pages.text("docs/what-to-expect.md").split())
    photographs, others, objects = (quoted[name]["rows"] for name in ("photographs", "SDXL and Flux", "objects"))
    method = " ".join(pages.text("docs/method.md").split())
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
        assert list(pages.rows(page.split(title)[1].split("\n## ")[0]).items())[2:] == list(rows.items())
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
    text = " ".join(pages.text("docs/what-to-expect.md").split())
    said = re.search(
        r"very first learning takes about (\d+) s longer with SD 2\.1 and about half a minute with SDXL", text
    )
    assert said
    for seconds, name in ((float(said[1]), "ours.json"), (30.0, "sdxl/ours.json")):
        modes = pages.measured(name)["modes"]
        assert abs(modes["first run ever"]["seconds"] - modes["default, 10 steps"]["seconds"] - seconds) < 5


def test_a_step_from_python_takes_as_long_as_said() -> None:
    said = re.search(
        r"as the node does: (\d+) ms a step on an H200, where diffusers' own code takes (\d+)",
        " ".join(pages.text("docs/python.md").split()),
    )
    assert said
    ways = pages.measured("diffusers.json")["ways"]
    for number, way in zip(said.groups(), ("fused and recorded, fp16", "diffusers' own code, fp16"), strict=True):
        assert pages.rounded(number, ways[way]["ms_a_step"])


def test_pythons_are_those_that_are_allowed() -> None:
    """The nodes and the library run on what pyproject.toml says, run.py on what it asks for itself."""
    project = tomllib.loads(pages.text("pyproject.toml"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    asked = re.search(r"sys\.version_info < \((\d+), (\d+)\)", pages.text("run.py"))
    assert asked
    own = ".".join(asked.groups())
    assert f"Python {oldest} and PyTorch" in pages.text("README.md")
    assert f"With Python {own} or newer, in the folder of this repository" in pages.text("README.md")
    assert f"runs on Python {oldest} or newer" in pages.text("docs/install.md")
    assert f"(Python {oldest} or newer)" in pages.text("docs/python.md")
    assert f"On a bare machine with Python {own} or newer" in pages.text("docs/without-a-checkpoint.md")
    assert sys.version_info >= tuple(map(int, asked.groups()))


@pytest.mark.parametrize("page", ["docs/nodes.md", "web/docs/CrossInitCelebrityNames.md"])
def test_the_list_has_as_many_names_as_said(page: str) -> None:
    assert f"{len(load_celebrity_names().names)} people" in pages.text(page)


def test_the_miniature_is_as_small_as_said() -> None:
    weights = sum(
        path.stat().st_size for path in (pages.REPOSITORY / "miniature" / "weights").glob("model-*.safetensors")
    )
    said = re.search(r"kind, (\d+) MB,", " ".join(pages.text("docs/without-a-checkpoint.md").split()))
    assert said and pages.rounded(said[1], weights / 1e6)
