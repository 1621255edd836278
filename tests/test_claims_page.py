"""From the numbers of the experiment on the paper's claims to its verdicts, and what the page says of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.paper_claims.both_worlds import in_two_worlds, second_world
from benchmarks.paper_claims.cli import main
from benchmarks.paper_claims.document import document
from benchmarks.paper_claims.page import write_page
from benchmarks.paper_claims.plan import Plan
from benchmarks.paper_claims.results import (
    ASKING,
    EXPRESSIONS,
    JUDGED,
    Results,
    Summary,
    read_summary,
    write_json,
    write_summary,
)
from benchmarks.paper_claims.statistics import Numbers, estimate
from benchmarks.paper_claims.verdicts import best_rate, fast_learning_rate, verdicts
from miniature.training.captions import PROMPTS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def _summary(plan: Plan, people: int = 12, **changes: dict[str, float]) -> Summary:
    """Made-up numbers in which every claim holds; `changes` sets quantities of configurations (`-` is `_`)."""
    rng = np.random.Generator(np.random.PCG64(0))
    noise = rng.normal(size=people)

    def columns(**values: float) -> dict[str, Any]:
        spread = {
            name: (value + 0.005 * noise + 0.001 * rng.normal(size=people)).tolist() for name, value in values.items()
        }
        judged = {name: values for name, values in spread.items() if name in (*JUDGED, "floor")}
        other = {name: values for name, values in spread.items() if name not in judged}
        return {"identities": list(range(people)), **other, "judges": [copy.deepcopy(judged), judged]}

    def learned(**values: float) -> dict[str, Any]:
        usual = {
            "likeness": 0.8, "others": 0.6, "rank": 0.9, "editability": 0.8, "expressions": 0.9, "no_portrait": 0.01,
            "start_norm": 16.0, "norm": 16.0, "norm_ratio": 1.0, "angle": 10.0, "distance": 3.0, "seconds": 9.0,
        }  # fmt: skip
        return columns(**{**usual, **values})

    configs: dict[str, dict[str, float]] = {}
    for run in plan.runs():
        for steps in run.marks:
            configs[run.config(steps)] = {}
            if run.start in ("words", "mean"):
                configs[run.config(steps)] = {
                    "likeness": 0.7, "editability": 0.6, "expressions": 0.3, "norm_ratio": 20.0, "angle": 80.0,
                }  # fmt: skip
    configs[f"lambda-0-{plan.full}"] = {"editability": 0.7, "likeness": 0.82, "distance": 4.0}
    configs[f"lambda-0.01-{plan.full}"] = {"editability": 0.85, "likeness": 0.75, "distance": 1.0}
    configs[f"rate-0.02-{plan.fast}"] = {"likeness": 0.85}
    for name, values in changes.items():
        configs[name.replace("_", "-")] |= values
    reference = columns(
        likeness=0.9, others=0.6, rank=0.99, editability=0.95, expressions=0.97, no_portrait=0.0, floor=0.6
    )
    return {
        "plan": {}, "sessions": [], "devices": {}, "alone": None, "judges": None, "reference": reference,
        "configs": {name: learned(**values) for name, values in configs.items()},
    }  # fmt: skip


def _held(summary: Summary) -> list[bool | None]:
    return [verdict.holds for verdict in verdicts(Numbers(summary), Plan())]


def test_claims_hold_where_the_numbers_say_so() -> None:
    assert _held(_summary(Plan())) == [True] * 12


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"plain_5000": {"norm_ratio": 1.5}}, {0}),
        ({"plain_5000": {"angle": 30.0}}, {0}),
        ({"cross_names_320": {"norm_ratio": 3.0}}, {1}),
        ({"cross_names_320": {"angle": 85.0}}, {1}),
        ({"plain_5000": {"likeness": 0.85}}, {2, 3, 7}),
        ({"plain_5000": {"editability": 0.9}}, {2, 3, 7}),
        ({"plain_5000": {"likeness": 0.81}}, {3}),
        ({"plain_320": {"likeness": 0.8}}, {4, 5}),
        ({"plain-rate-0.04-320": {"likeness": 0.9, "editability": 0.9}}, {5}),
        ({"plain-rate-0.04-320": {"likeness": 0.9}, "rate-0.02-320": {"likeness": 0.95}}, set()),
        ({"mean_320": {"editability": 0.8}}, {6}),
        ({"lambda_0_320": {"editability": 0.8}}, {8}),
        ({"lambda_0_320": {"distance": 0.5}}, {9}),
        ({"lambda_0_320": {"likeness": 0.74}}, {9}),
        ({"cross_names_320": {"expressions": 0.45}}, {10}),
        ({"plain_5000": {"expressions": 0.6}}, {11}),
        ({"plain_5000": {"expressions": 0.45}, "cross_names_320": {"expressions": 0.45}}, {10, 11}),
    ],
)
def test_a_claim_falls_with_its_numbers(changes: dict[str, dict[str, float]], failing: set[int]) -> None:
    # The underscore of lambda-0.01 would be lost; those rows keep their values.
    held = _held(_summary(Plan(), **changes))  # type: ignore[arg-type]
    assert {i for i, holds in enumerate(held) if holds is False} == failing
    assert None not in held


def test_the_unmeasured_is_not_judged() -> None:
    """It is neither held nor refuted."""
    summary = _summary(Plan())
    del summary["configs"]["plain-5000"]
    assert _held(summary) == [True, True, None, None, True, True, True, None, True, True, True, None]
    for config in summary["configs"].values():
        config["identities"] = config["identities"][:1]
        for columns in (config, *config["judges"]):
            columns.update({name: values[:1] for name, values in columns.items() if isinstance(values[0], float)})
    assert _held(summary) == [None] * 12, "one person tells nothing about others"
    assert not any("nan" in verdict.evidence for verdict in verdicts(Numbers(summary), Plan()))


def test_differences_are_paired() -> None:
    """They are taken over the people who have both results."""
    summary = _summary(Plan())
    config = summary["configs"]["plain-320"]
    config["identities"] = [i + 6 for i in config["identities"]]
    found = Numbers(summary).difference("cross-names-320", "plain-320", "likeness")
    assert found.count == 6
    summary["configs"]["plain-320"]["seconds"][3] = None
    assert Numbers(summary).mean("plain-320", "seconds").count == 11


def _keep(summary: Summary, config: str, people: list[int]) -> None:
    """Leave out of a configuration everybody but these people (places in its lists)."""
    found = summary["configs"][config]
    for columns in (found, *found["judges"]):
        columns.update({name: [values[i] for i in people] for name, values in columns.items() if name != "judges"})


def test_the_best_rate_is_paired() -> None:
    """It is found over the people who have every rate."""
    plan = Plan()
    summary = _summary(plan)
    likeness = {
        config: summary["configs"][f"plain{config}-320"]["judges"][1]["likeness"] for config in ("", "-rate-0.02")
    }
    likeness[""][:4] = [0.85] * 4  # Four people are easy, at any rate, and 0.005 suits them best.
    likeness["-rate-0.02"][:4] = [0.8] * 4
    for rate in ("0.02", "0.04"):
        _keep(summary, f"plain-rate-{rate}-320", [0, 1, 2, 3])
    assert np.mean(likeness[""]) < 0.8, "the mean of all people at 0.005 is below that of the easy ones at 0.02"
    found, people = best_rate(Numbers(summary), plan, "words")
    assert found is not None and found.learning_rate == 0.005 and people == 4

    summary = _summary(plan)
    for rate, kept in (("0.02", [0, 1]), ("0.04", [2, 3])):
        _keep(summary, f"plain-rate-{rate}-320", kept)
    assert best_rate(Numbers(summary), plan, "words") == (None, 0), "nobody has every rate"
    assert _held(summary)[5] is None


def test_an_estimate_has_the_right_spread() -> None:
    values = np.random.Generator(np.random.PCG64(1)).normal(2.0, 1.0, size=400)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean()) and found.error == pytest.approx(0.05, abs=0.006)
    assert found.low == pytest.approx(values.mean() - 1.96 * found.error, abs=0.015)
    assert found.high == pytest.approx(values.mean() + 1.96 * found.error, abs=0.015)


def test_the_fast_rate() -> None:
    """It is the best rate, or the smallest that cannot be told apart from it."""
    plan = Plan()

    def chosen(**rates: dict[str, float]) -> float | None:
        summary = _summary(plan)
        for name, values in rates.items():
            config = summary["configs"][name.replace("r", "rate-0.0", 1) + "-25"]
            for quantity, value in values.items():
                column = config["judges"][1][quantity]
                config["judges"][1][quantity] = [value + x - column[0] for x in column]
        return fast_learning_rate(Numbers(summary), plan)[0]

    assert chosen() == 0.02
    assert chosen(r2={"likeness": 0.8}) == 0.005, "all the same: the paper's, which is the smallest"
    assert chosen(r4={"likeness": 0.88}) == 0.04
    assert chosen(r4={"likeness": 0.88, "editability": 0.4}) == 0.02, "likeness alone is not enough"
    assert chosen(r1={"likeness": 0.85}) == 0.01
    summary = _summary(plan)
    del summary["configs"]["rate-0.04-25"]
    assert fast_learning_rate(Numbers(summary), plan)[0] is None


def test_the_page_says_what_the_numbers_say() -> None:
    plan, images = Plan(), {"plot": ("a plot", "images/plot.png")}
    holding = document(_summary(plan), plan, images, "COMMAND")
    assert holding.count("**Holds.**") == 12 and "**0.02**" in holding
    assert (
        "| celebrity mean, no encoder pass | 320 | 0.70" in holding and "| plain textual inversion | 5,000 |" in holding
    )
    assert "| lambda 0 | 320 |" in holding and "| learning rate 0.04 | 25 |" in holding
    failing = document(_summary(plan, cross_names_320={"expressions": 0.3}), plan, images, "COMMAND")
    assert "Expressions can be edited. **Does not hold.** Share 0.3" in failing
    lines = [line for line in failing.splitlines() if line.startswith("| ")]
    widths = {line.count("|") for line in lines if "cross initialization, names | 320" in line}
    assert len(widths) == 2, "with and without the columns of movement"


def test_the_page_names_the_device() -> None:
    """The one that the seconds were measured on."""
    plan, images = Plan(), {"plot": ("a plot", "images/plot.png")}
    summary = _summary(plan)
    for devices, said in (({"NVIDIA H200": 1040}, False), ({"NVIDIA H200": 1040, "CPU (2 cores)": 6}, True)):
        page = document({**summary, "devices": devices}, plan, images, "COMMAND")
        sentence = "Of the results, 1,040 on NVIDIA H200, 6 on CPU (2 cores). Seconds are those of the first alone"
        assert (sentence in page) == said


def test_the_page_says_what_is_not_measured_yet() -> None:
    plan, images = Plan(identities=12), {"plot": ("a plot", "images/plot.png")}
    summary = _summary(plan)
    assert "Not all of it is measured yet" not in document(summary, plan, images, "COMMAND")
    for config in ("vectors-1-320", "vectors-3-320", "plain-K1-320"):
        del summary["configs"][config]
    _keep(summary, "plain-5000", [0, 1, 2])
    _keep(summary, "lambda-0.001-320", list(range(7)))
    page = document(summary, plan, images, "COMMAND")
    before, _, rest = page.partition("**Not all of it is measured yet.** Planned are 12 people")
    assert rest and "## Which claims hold" not in before, "it is said before any result"
    listed = [line for line in rest.partition("## Which claims hold")[0].splitlines() if line.startswith("- ")]
    assert listed == [
        "- other values of lambda: 7 to 12 people.",
        "- one and three vectors (K): nobody.",
        "- plain textual inversion's long run: 3 people.",
    ]


def _second(**changes: dict[str, float]) -> Summary:
    """A smaller measurement in a second world, without plain textual inversion's long run."""
    summary = _summary(Plan(), 8, **changes)
    del summary["configs"]["plain-5000"]
    return {**summary, "plan": {"identities": 8, "seeds": 2, "steps": [25, 100, 320]}, "devices": {"a GPU": 300}}


def _rows(section: str) -> dict[str, list[str]]:
    """Rows of tables by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in lines}


def test_two_worlds_stand_beside_each_other() -> None:
    plan, images = Plan(), {"plot": ("a plot", "images/plot.png")}
    first, second = _summary(plan), _second(lambda_0_320={"editability": 0.8})
    alone, both = (document(first, plan, images, "COMMAND", beside) for beside in (None, ("contrast", second)))
    before, _, rest = both.partition("## In two worlds\n\n")
    section, _, after = rest.partition("## Initializations and steps")
    assert f"{before}## Initializations and steps{after}" == alone, "nothing else changes"
    assert before.rpartition("\n## ")[2].startswith("Which claims hold")

    claims, theirs = verdicts(Numbers(first), plan), verdicts(Numbers(second), Plan(8, 2))
    rows = _rows(section)
    assert rows["claim"] == ["drawn", "contrast"]
    assert [rows[a.claim] for a in claims] == [
        [f"**holds**: {a.evidence}", f"**{b.word}**: {b.evidence}"] for a, b in zip(claims, theirs, strict=True)
    ]
    words = [rows[a.claim][1].split("**")[1] for a in claims]
    assert words == [
        *["holds"] * 2, *["not measured"] * 2, *["holds"] * 3, "not measured", "does not hold", *["holds"] * 2,
        "not measured",
    ]  # fmt: skip
    assert "same in both worlds for 7 of 12 claims and differs for 1; for 4 it is not measured in both." in section
    said = "It differs for “The regularizer at the published lambda of 1e-5 improves editability” (drawn: holds; contrast: does not hold)."
    assert said in section and "*contrast* has fewer people" in section
    assert "Every start in *contrast*: 8 people, 20 prompts sampled 2 times each, on a GPU." in section
    assert "`python -m benchmarks.paper_claims --identities 8 --seeds 2 --weights WORLD --out FOLDER`" in section
    assert rows["cross initialization, names"][0] == "320" and rows["cross initialization, names"][-1] == "8"
    assert "| plain textual inversion | 320 |" in section and "| plain textual inversion | 5,000 |" not in section


def test_worlds_that_agree_or_were_not_measured() -> None:
    plan, first = Plan(), _summary(Plan())
    section = "\n".join(in_two_worlds(first, plan, ("contrast", first)))
    assert "same in both worlds for 12 of 12 claims and differs for none." in section
    assert "It differs" not in section and "fewer people" not in section
    empty = "\n".join(in_two_worlds(first, plan, ("contrast", {**first, "configs": {}, "reference": None})))
    assert empty.count("**not measured**: The runs that it takes are missing. |") == 12
    assert "for 0 of 12 claims and differs for none; for 12 it is not measured in both." in empty
    assert "Every start in *contrast*: nobody" in empty and empty.endswith("Not measured.")


def test_a_claim_of_other_steps_is_named() -> None:
    """Where the second world was measured at other steps, its claims are not those of the first column."""
    plan, other = Plan(), Plan(long=1000)
    second = {**_summary(other), "plan": {"long": 1000}}
    rows = _rows("\n".join(in_two_worlds(_summary(plan), plan, ("contrast", second))))
    claim = "320 steps are enough where plain textual inversion takes {}."
    assert rows[claim.format("5,000")][1].startswith(f"*{claim.format('1,000')}* **holds**: ")


def test_the_judges_are_called_the_same_where_they_are() -> None:
    first, plan = _summary(Plan()), Plan()
    judges = [{"painted": {"beard": 0.9}, "through the VAE": {"beard": 0.8}}] * 2
    other = [judges[0], {"painted": {"beard": 0.93}, "through the VAE": {"beard": 0.8}}]
    told = "portraits, prompts and judges.", "; each has judges of its own.", "the judges are the same is not known."
    for theirs, end in zip((judges, other, None), told, strict=True):
        section = in_two_worlds({**first, "judges": judges}, plan, ("contrast", {**first, "judges": theirs}))
        assert section[1].endswith(end)


def _shipped() -> list[Path]:
    return [*DOCS.glob("paper-claims*.json"), *DOCS.glob("images/paper-claims*.png")]


def test_the_shipped_page_is_that_of_its_numbers(tmp_path: Path) -> None:
    """Those of a second world beside them included, if there are any."""
    page = tmp_path / "paper-claims.md"
    for path in _shipped():
        copied = tmp_path / path.relative_to(DOCS)
        copied.parent.mkdir(exist_ok=True)
        copied.write_bytes(path.read_bytes())
    assert main(["--docs", str(page), "--page-only"]) == 0
    assert page.read_text(encoding="utf-8") == (DOCS / "paper-claims.md").read_text(encoding="utf-8")
    assert all((tmp_path / path.relative_to(DOCS)).read_bytes() == path.read_bytes() for path in _shipped())
    others = {path.stem.removeprefix("paper-claims-") for path in DOCS.glob("paper-claims-*.json")}
    assert bool(others) == ("## In two worlds" in page.read_text(encoding="utf-8"))


def test_a_page_is_written_from_its_numbers(tmp_path: Path) -> None:
    """With the pictures that exist, and a second world that is found again."""
    page, summary = tmp_path / "claims.md", _summary(Plan())
    write_summary(page.with_suffix(".json"), summary)
    assert main(["--docs", str(page), "--page-only"]) == 0
    assert "![" not in page.read_text(encoding="utf-8")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "claims.png").write_bytes(b"")
    write_page(page, summary, ("contrast", _second()))
    kept = page.read_bytes()
    assert b"(images/claims.png)" in kept and b"claims-people" not in kept and b"## In two worlds" in kept
    assert main(["--docs", str(page), "--page-only"]) == 0
    assert page.read_bytes() == kept
    assert read_summary(page.with_suffix(".json")) == json.loads(json.dumps(summary))


def test_a_second_world_is_read_from_its_results(tmp_path: Path) -> None:
    """By its own plan."""
    results, page = Results(tmp_path / "other"), tmp_path / "claims.md"
    results.bind(Plan(3, 1), "weights")
    judged = {name: [0.5] * len(PROMPTS) for name in ("likeness", "others", "rank", "shown", "no_portrait")}
    moved = {name: [1.0] for name in ("start_norm", "norm", "norm_ratio", "angle", "distance")}
    for identity in range(3):
        result = {**moved, "seconds": 1.0, "device": "a GPU", "judges": [judged, judged]}
        write_json(results.path("cross-names-320", identity), result)
    write_summary(page.with_suffix(".json"), _summary(Plan()))
    assert main(["--docs", str(page), "--page-only", "--beside", f"contrast={results.folder}"]) == 0
    found = second_world(page)
    assert found and found[0] == "contrast" and found[1]["plan"]["identities"] == 3
    text = page.read_text(encoding="utf-8")
    assert "Every start in *contrast*: 3 people, 20 prompts sampled once, on a GPU." in text
    assert "| cross initialization, names | 320 | 0.500 ± 0.000 |" in text


def test_wrong_pages_and_worlds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, other = tmp_path / "claims.md", tmp_path / "other"
    write_json(other / "plan.json", {"identities": 2, "stage": "choose"})
    docs = ["--docs", str(page), "--page-only"]

    def said(*arguments: str) -> str:
        assert main(arguments) == 2
        return capsys.readouterr().err

    for world in ("contrast", "contrast=", "=other", f"moon={other}"):
        assert f"--beside is '{world}', but must be NAME=FOLDER, with the NAME contrast." in said(
            *docs, "--beside", world
        )
    assert "there is no plan.json" in said(*docs, "--beside", f"contrast={tmp_path}")
    assert "is not one of this benchmark" in said(*docs, "--beside", f"contrast={other}")
    (other / "plan.json").write_text("{", encoding="utf-8")
    assert "is not one of this benchmark" in said(*docs, "--beside", f"contrast={other}")
    assert "--page-only is about the page" in said("--page-only")
    assert "--beside is about the page" in said("--out", str(tmp_path), "--beside", "contrast=other")
    assert "leave out --docs-only" in said(*docs, "--docs-only") and "leave out --alone" in said(*docs, "--alone")
    assert "--out is missing" in said("--docs", str(page))
    assert "claims.json' to write the page from" in said(*docs)
    for wrong, message in (("[]", "does not hold the numbers"), ("{", "does not hold"), ('{"plan": {}}', "lacks ")):
        page.with_suffix(".json").write_text(wrong, encoding="utf-8")
        assert message in said(*docs)
    write_summary(page.with_suffix(".json"), _summary(Plan()))
    write_summary(tmp_path / "claims-moon.json", _summary(Plan()))
    assert "has numbers of the world 'moon', but the page knows only contrast." in said(*docs)
    assert not page.exists()


def test_prompts_fall_into_named_groups() -> None:
    assert len(PROMPTS) == 20 and len(ASKING) == 19
    assert [PROMPTS[i].asks["expression"] for i in EXPRESSIONS] == ["sad", "happy", "surprised", "angry"]
