"""The measurement of the dial between prompt and likeness."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import dial
from benchmarks.paper_claims.plan import Plan
from benchmarks.paper_claims.results import write_json
from crossinit_core.learning.settings import PRESETS
from miniature.training.pack import WEIGHTS


def _person(likeness: float) -> dict[str, object]:
    numbers = {"likeness": likeness, "editability": 1 - likeness}
    values = [*(f"{x:g}" for x in dial.STRENGTHS), *(f"late {x:g}" for x in dial.LATE)]
    return {"reference": numbers, **{way: dict.fromkeys(values, numbers) for way in dial.LEARNED}}


@pytest.mark.parametrize("name", ["swift", "best"])
def test_the_ways_are_the_presets(name: str) -> None:
    run, steps = dial.LEARNED[name]
    preset = PRESETS[name]
    assert (run.start, run.vectors, steps) == ("mean", 2, preset.steps)
    for name in ("learning_rate", "method", "prior", "schedule", "timesteps"):
        assert getattr(run, name) == getattr(preset, name), name


def test_the_numbers_are_means_over_the_people_who_are_there(tmp_path: Path) -> None:
    for who, likeness in ((0, 0.5), (2, 0.7)):
        write_json(tmp_path / "drawn" / f"{who:04d}.json", _person(likeness))
    dial.write(tmp_path / "docs", {"drawn": tmp_path / "drawn"}, Plan(4))
    found = json.loads((tmp_path / "docs" / "measurements" / "dial.json").read_text())["drawn"]
    assert found["people"] == 2 and found["swift"]["0.8"] == {"likeness": [0.6, 0.1], "editability": [0.4, 0.1]}
    assert not (tmp_path / "docs" / "images").exists(), "nobody kept pictures"


def test_a_world_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dial.main(["--world", f"other={tmp_path}", "--out", str(tmp_path / "out")]) == 2
    assert "has no config.json" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="there are no weights of the miniature")
def test_a_person_is_learned_turned_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = dial.LEARNED["swift"]
    monkeypatch.setattr(dial, "LEARNED", {"swift": (replace(run, vectors=1), 2)})
    monkeypatch.setattr(dial, "STRENGTHS", (0.0, 1.0))
    monkeypatch.setattr(dial, "LATE", (0.0, 0.4, 1.0))
    monkeypatch.setattr(dial, "SHEET", ("swift",))
    plan = Plan(1, seeds=1, sampling_steps=2)
    task = dial.measure(dial.Task(WEIGHTS, tmp_path / "drawn", plan, "cpu", 0))
    found = json.loads(task.file.read_text())
    assert set(found) == {"reference", "swift"}
    assert set(found["swift"]) == {"0", "1", "late 0", "late 0.4", "late 1"}
    assert found["swift"]["0"] != found["swift"]["1"] and 0 < found["swift"]["1"]["likeness"] < 1
    assert found["swift"]["late 0"] == found["swift"]["1"] and found["swift"]["late 1"] == found["swift"]["0"]
    assert found["swift"]["late 0.4"] not in (found["swift"]["0"], found["swift"]["1"])
    dial.write(tmp_path / "docs", {"drawn": tmp_path / "drawn"}, plan)
    sheet = Image.open(io.BytesIO((tmp_path / "docs" / "images" / "dial-drawn.png").read_bytes()))
    assert sheet.width > 400 and len(np.unique(np.asarray(sheet))) > 50
