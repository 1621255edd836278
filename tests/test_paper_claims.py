"""The experiment on the paper's claims: a tiny one from end to end, one trajectory with its marks, and the plan."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paper_claims import studio as studio_module
from benchmarks.paper_claims.cli import main
from benchmarks.paper_claims.plan import Job, Plan, Run, jobs
from benchmarks.paper_claims.results import ASKING, Results, read_json, summarize, write_json
from benchmarks.paper_claims.studio import Clock, OutOfTimeError, Studio
from crossinit_core import InversionSettings, LearnedToken, invert
from miniature.training import pack
from miniature.training.captions import PROMPTS
from miniature.training.judge import build_judges
from miniature.training.model import TOY, VOCABULARY, build, configurations, table
from miniature.training.recipes import ROW_NORM

TINY = Plan(identities=2, seeds=1, steps=(1, 2), long=3, sampling_steps=2, examination=14)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy miniature that was never trained: everything runs on it, and nothing is recognized."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    configs = configurations(TOY)
    configs["vae"] |= {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 8}
    parts = build(configs)
    with torch.no_grad():
        table(parts.text_encoder).renorm_(2, 0, ROW_NORM)
    pack.export(
        folder, parts, build_judges(TOY.judges), configs=configs, judge_widths=TOY.judges,
        used=torch.arange(VOCABULARY) < 3000, other_row=torch.zeros(TOY.width), training={},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def studio(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(weights, TINY, Results(tmp_path_factory.mktemp("studio")), "cpu")


def _command(weights: Path, out: Path, *more: str) -> list[str]:
    tiny = ["--identities", "2", "--seeds", "1", "--steps", "1", "--long", "2", "--sampling-steps", "2"]
    return ["--weights", str(weights), "--out", str(out), "--devices", "cpu", *tiny, "--examination", "14", *more]


# ---- from end to end


@pytest.mark.slow
def test_a_tiny_experiment_writes_its_page(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is done twice."""
    out, page = tmp_path / "out", tmp_path / "docs" / "claims.md"
    command = _command(weights, out, "--workers", "1", "--only", "cross-names", "--docs", str(page))
    assert main(command) == 0
    done = {str(path.relative_to(out / "results")): path.stat().st_mtime_ns for path in out.glob("results/*/*.json")}
    assert set(done) == {
        "judges/0000.json",
        *(f"{config}/000{i}.json" for config in ("reference", "cross-names-1") for i in (0, 1)),
    }
    assert not list(out.glob("resume/*")), "finished runs need no resume files"

    text = page.read_text(encoding="utf-8")
    for heading in ("## Which claims hold", "## Lambda", "## The other judge", "## How good the judges are"):
        assert heading in text
    assert "| cross initialization, names | 1 | 0." in text and "norm of at most 0.4" in text
    assert "**Not measured.**" in text, "plain textual inversion was left out"
    assert (tmp_path / "docs/images/claims.png").is_file() and (tmp_path / "docs/images/claims-people.png").is_file()
    summary = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    column = summary["configs"]["cross-names-1"]
    result = read_json(out / "results/cross-names-1/0001.json")
    assert column["identities"] == [0, 1]
    assert column["angle"][1] == pytest.approx(np.mean(result["angle"]), rel=1e-4)
    shown = result["judges"][1]["shown"]
    assert column["judges"][1]["editability"][1] == pytest.approx(np.mean([shown[i] for i in ASKING]), abs=1e-4)
    assert [session["jobs"] for session in summary["sessions"]] == [5]

    assert main(command[:-2]) == 0
    assert "0 jobs" in capsys.readouterr().out
    assert all((out / "results" / name).stat().st_mtime_ns == at for name, at in done.items())


def test_seconds_of_different_devices_are_not_mixed(tmp_path: Path) -> None:
    results = Results(tmp_path)
    judged = {name: [0.5] * len(PROMPTS) for name in ("likeness", "others", "rank", "shown", "no_portrait")}
    moved = {name: [1.0] for name in ("start_norm", "norm", "norm_ratio", "angle", "distance")}
    for identity, (device, seconds) in enumerate([("a GPU", 3.0), ("a GPU", None), ("a CPU", 300.0)]):
        result = {**moved, "seconds": seconds, "device": device, "judges": [judged, judged]}
        write_json(results.path("vectors-1-320", identity), result)
    summary = summarize(results, Plan(identities=3))
    assert summary["devices"] == {"a GPU": 2, "a CPU": 1}
    column = summary["configs"]["vectors-1-320"]
    assert column["seconds"] == [3.0, None, None] and column["norm"] == [1.0] * 3
    unknown = {**moved, "seconds": 7.0, "judges": [judged, judged]}  # as before results named their device
    write_json(results.path("vectors-3-320", 0), unknown)
    assert summarize(results, Plan(identities=3))["configs"]["vectors-3-320"]["seconds"] == [None]


def test_a_lost_result_is_made_again(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other result is made again, and it is the same as before."""
    run = Run("again", "cross names", (1, 2), "main")
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = rng.integers(256, size=(20, 128, 128, 3), dtype=np.uint8)
    monkeypatch.setattr(studio, "pictures", lambda vectors, identity: drawn)
    studio.learn(run, 1)
    first, second = (studio.results.path(f"again-{steps}", 1) for steps in (1, 2))
    before, untouched = read_json(first), second.stat().st_mtime_ns
    first.unlink()
    assert studio.results.missing(Job("learn", 1, run)) == ("again-1",)
    studio.learn(run, 1)
    again = read_json(first)
    assert {**again, "seconds": 0} == {**before, "seconds": 0} and again["seconds"] > 0
    assert second.stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers is 0"),
        (["--devices", "cuda:99"], r"--devices has 'cuda:99', but this machine has"),
        (["--devices", "gpu"], "--devices has 'gpu'"),
        (["--only", "plan"], "--only is 'plan', but must be one of cross-names, "),
        (["--identities", "0"], "identities is 0"),
        (["--steps", "5", "3"], "they must grow"),
        (["--time-limit", "3"], "must be more than 20"),
        (["--weights", "nowhere"], "'nowhere' holds no miniature"),
    ],
)
def test_wrong_inputs_are_told_before_any_work(
    arguments: list[str], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_command(weights, tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results").exists()


def test_results_of_other_settings_are_not_mixed(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ["--docs-only", "--docs", str(tmp_path / "claims.md")]
    assert main(_command(weights, tmp_path / "out", *page)) == 0
    assert main(_command(weights, tmp_path / "out", *page, "--identities", "3")) == 0
    assert main(_command(weights, tmp_path / "out", *page, "--guidance", "5")) == 2
    assert "holds results for guidance = 3.0, but now it is 5.0" in capsys.readouterr().err


def test_a_page_keeps_its_second_world(weights: Path, tmp_path: Path) -> None:
    """Once it was given, it is on every page that is written from results."""
    page, other = tmp_path / "docs" / "claims.md", tmp_path / "other"
    command = _command(weights, tmp_path / "out", "--docs-only", "--docs", str(page))
    assert main(command) == 0
    assert "## In two worlds" not in page.read_text(encoding="utf-8")
    Results(other).bind(TINY, "weights")
    assert main([*command, "--beside", f"contrast={other}"]) == 0
    kept = page.read_bytes()
    assert b"## In two worlds" in kept and read_json(page.with_name("claims-contrast.json"))["plan"]["long"] == 3
    assert main(command) == 0
    assert page.read_bytes() == kept


# ---- one trajectory, looked at on the way


@pytest.mark.parametrize("name", ["plain", "cross-names"])
def test_marks_equal_separate_runs(name: str, studio: Studio, tmp_path: Path) -> None:
    """A run at each of its marks is what a separate run of as many steps gives."""
    run = next(run for run in TINY.runs() if run.name == name)
    start = studio.start(run)
    image = torch.from_numpy(studio.portrait(0).astype(np.float32) / 255)[None]
    for steps in (1, 3):
        token, seconds = studio.learned(run, 0, start, steps, tmp_path)
        settings = InversionSettings(
            steps=steps, resolution=128, precision="fp32", seed=0, regularization=run.regularization
        )
        assert torch.equal(token.vectors, invert(studio.backbone, start, settings, images=image).token.vectors)
        assert seconds is not None
    assert read_json(tmp_path / "seconds.json")["step"] == 3


def test_seconds_add_up(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They add up over the pieces of a run."""
    run = TINY.runs()[0]
    start = studio.start(run)
    studio.learned(run, 0, start, 1, tmp_path)
    write_json(tmp_path / "seconds.json", {"step": 1, "seconds": 1000.0})
    _, seconds = studio.learned(run, 0, start, 2, tmp_path)
    assert seconds is not None and 1000 < seconds < 1500
    write_json(tmp_path / "seconds.json", {"step": 1, "seconds": 1000.0})
    assert studio.learned(run, 0, start, 3, tmp_path)[1] is None, "nobody knows how long step 2 took"
    assert studio.learned(run, 1, start, 1, tmp_path / "other")[1] < 500  # type: ignore[operator]


def test_the_time_limit_changes_no_result(
    weights: Path, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops a run in the middle, which then goes on to the same result."""
    run = Run("limited", "cross names", (4,), "main")
    wanted, _ = studio.learned(run, 0, studio.start(run), 4, tmp_path / "whole")
    monkeypatch.setattr(studio, "results", Results(tmp_path))
    monkeypatch.setattr(studio, "clock", late := Clock(deadline=time.time() + 3600))
    steps = []

    def check() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise OutOfTimeError

    monkeypatch.setattr(late, "check", check)
    with pytest.raises(OutOfTimeError):
        studio.learn(run, 0)
    folder = tmp_path / "resume" / "limited-0000"
    assert read_json(folder / "seconds.json")["step"] == 2
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(studio, "clock", Clock())
    kept: list[LearnedToken] = []
    monkeypatch.setattr(studio, "_write", lambda *given: kept.append(given[4]))
    studio.learn(run, 0)
    assert torch.equal(kept[0].vectors, wanted.vectors) and not folder.exists()
    with pytest.raises(OutOfTimeError):
        Clock(deadline=time.time() - 1).check()


def test_a_worker_whose_driver_was_killed_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SimpleNamespace(is_alive=lambda: True)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: driver)
    Clock().check()
    driver.is_alive = lambda: False
    with pytest.raises(OutOfTimeError):
        Clock().check()


def test_plain_inversion_keeps_its_state(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long run continues from it."""
    monkeypatch.setattr(studio, "results", Results(tmp_path))
    monkeypatch.setattr(studio, "_write", lambda run, who, steps, *_: write_json(
        studio.results.path(run.config(steps), who), {}
    ))  # fmt: skip
    short, long = (run for run in TINY.runs() if run.name == "plain")
    begun: list[int] = []
    real = studio_module.invert

    def recorded(*given: Any, **named: Any) -> Any:
        result = real(*given, **named)
        begun.append(result.resumed_from)
        return result

    monkeypatch.setattr(studio_module, "invert", recorded)
    studio.learn(short, 0)
    assert (tmp_path / "resume" / "plain-0000").is_dir()
    studio.learn(long, 0)
    assert begun == [0, 1, 2] and not (tmp_path / "resume" / "plain-0000").exists()


# ---- the plan


def test_the_plan_and_its_order() -> None:
    """What is measured first makes stopping early useful."""
    plan = Plan()
    work = jobs(plan)
    made = {config for job in work for config in job.configs}
    assert made >= {f"{start}-{s}" for start in ("plain", "mean", "cross-words", "cross-names") for s in (25, 100, 320)}
    assert made >= {"plain-5000", "rate-0.01-25", "rate-0.02-25", "rate-0.04-25", "vectors-1-320", "vectors-3-320"}
    assert made >= {f"lambda-{weight}-320" for weight in ("0", "0.0001", "0.001", "0.01")}
    groups = [job.run.group for job in work if job.run]
    assert groups == sorted(groups, key=["main", "rates", "starts", "lambda", "vectors", "long"].index)
    first = [(job.identity, job.run.name) for job in work if job.run][:5]
    assert first == [(0, "plain"), (0, "mean"), (0, "cross-words"), (0, "cross-names"), (1, "plain")]
    assert [run.regularization for run, _ in plan.series("lambda")] == [0, 1e-5, 1e-4, 1e-3, 1e-2]
    assert [run.learning_rate for run, _ in plan.series("rates")] == [0.005, 0.01, 0.02, 0.04] * 3
    rates = [(run.start, run.learning_rate) for run, _ in plan.series("starts")]
    assert rates[:3] == [("words", 0.005), ("words", 0.02), ("words", 0.04)] and ("mean", 0.04) in rates
    assert rates[-4:] == [("cross names", rate) for rate in (0.005, 0.01, 0.02, 0.04)] and len(rates) == 13
    assert [run.vectors for run, _ in plan.series("vectors")] == [1, 2, 3, 1, 2]
    assert [steps for run, steps in plan.series("main") if run.name == "plain"] == [25, 100, 320, 5000]
    assert {job.run.name for job in jobs(plan, ["plain-5000"]) if job.run and job.run.group == "long"} == {"plain"}


def test_starts_of_k_vectors(studio: Studio) -> None:
    """The pass through the encoder makes them long."""
    starts = {run.name: studio.start(run) for run in TINY.runs()}
    assert {name: len(start) for name, start in starts.items() if name[-1] in "13" and "0" not in name} == {
        "vectors-1": 1, "vectors-3": 3, "plain-K1": 1,
    }  # fmt: skip
    person = studio.backbone.embed(torch.tensor(studio.backbone.tokenize("person")))
    assert torch.equal(starts["plain"], person.repeat(2, 1)) and torch.equal(starts["plain-K1"], person)
    assert starts["mean"].norm(dim=1).max() <= ROW_NORM + 1e-3
    assert starts["cross-names"].norm(dim=1).min() > 5 and starts["cross-words"].norm(dim=1).min() > 5
