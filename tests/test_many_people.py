"""`train-many` on a tiny model: the same bits as alone, who is finished, who is left alone, who fails, and the summary page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import cli, load_learned_token
from crossinit_core.commands import many_people
from crossinit_core.many.crew import Order, Report
from crossinit_core.many.learner import FaceLearner
from crossinit_core.many.progress import Progress, duration
from crossinit_core.many.work_list import Shard
from tests.many_stubs import Here, somebody

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--steps", 2, "--batch-size", 1, "--resolution", 64, "--device", "cpu")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers


@pytest.fixture
def model(tiny_models: Path) -> Path:
    return tiny_models / "tiny-eps"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three folders of one photo each."""
    for number, name in enumerate(("anna", "bob", "Zoë Lee")):
        _photo(tmp_path / "people" / name / "1.png", number)
    return tmp_path / "people"


def _photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Path,
    backbone: Any,
) -> Run:
    """`train-many` with a worker in this process: exit code, stdout, stderr."""

    def crew(options: Any, _: object) -> Here:
        learner = FaceLearner(Order(options.model, options.out, "cpu"), backbone)
        return Here(1, lambda worker, person: learner.learn(person) if person else Report("ready"))

    monkeypatch.setattr(many_people, "crew_for", crew)
    monkeypatch.chdir(tmp_path)

    def call(source: Path, *arguments: object) -> tuple[int, str, str]:
        words = ["train-many", source, "--model", model, "--out", tmp_path / "out", *SMALL, *arguments]
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as ended:  # argparse
            code = ended.code if isinstance(ended.code, int) else 1
        return code, *capsys.readouterr()

    return call


def _tokens(folder: Path) -> dict[str, torch.Tensor]:
    return {path.stem: load_learned_token(path).vectors for path in folder.glob("*.safetensors")}


def test_everybody_has_the_bits_of_a_run_alone(run: Run, people: Path, tmp_path: Path, model: Path) -> None:
    code, out, err = run(people)
    assert code == 0, err
    assert "3 learned, 0 finished before" in out
    many = _tokens(tmp_path / "out")
    assert sorted(many) == ["Zoë-Lee", "anna", "bob"]
    alone = [str(word) for word in ("train", model, people / "bob", *SMALL, "--out", tmp_path / "alone.safetensors")]
    assert cli.main(alone) == 0
    assert torch.equal(many["bob"], load_learned_token(tmp_path / "alone.safetensors").vectors)
    assert not torch.equal(many["bob"], many["anna"])
    assert not (tmp_path / "out/failures.jsonl").exists()
    assert list((tmp_path / "out/.resume").iterdir()) == []


def test_the_same_command_goes_on(run: Run, people: Path, tmp_path: Path) -> None:
    assert run(people)[0] == 0
    before = _tokens(tmp_path / "out")
    (tmp_path / "out/bob.safetensors").unlink()
    (tmp_path / "out/anna.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    code, out, err = run(people)
    assert code == 0, err
    assert "2 learned, 1 finished before" in out
    assert "'anna.safetensors' is not whole. It is set aside as 'anna.safetensors.damaged'" in err
    after = _tokens(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_stopped_person_goes_on_from_the_resume_file(
    run: Run, people: Path, tmp_path: Path, model: Path, backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossinit_core.learning.resume_files import ResumeFile

    write, written = ResumeFile.write_if_due, []

    def stop(self: ResumeFile, state: Any) -> None:
        write(self, state)
        written.append(state.step)
        if written == [1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumeFile, "write_if_due", stop)
    code, _, _ = run(people)
    assert code == 130
    assert list((tmp_path / "out/.resume/Zoë-Lee").iterdir()), "nothing was kept"
    assert run(people)[0] == 0
    assert written[:2] == [1, 2]
    stopped = _tokens(tmp_path / "out")
    assert run(people, "--replace", "--out", tmp_path / "anew")[0] == 0
    assert all(torch.equal(vectors, stopped[name]) for name, vectors in _tokens(tmp_path / "anew").items())


def test_a_token_with_other_settings_is_left_alone(run: Run, people: Path, tmp_path: Path) -> None:
    assert run(people)[0] == 0
    before = _tokens(tmp_path / "out")
    code, out, err = run(people, "--seed", 5)
    assert code == 0
    assert "anna is left alone: it was learned with seed 0, not 5." in err
    assert "3 people left alone" in err
    assert "0 learned, 0 finished before, 3 left alone" in out
    assert all(torch.equal(before[name], vectors) for name, vectors in _tokens(tmp_path / "out").items())
    assert "3 learned" in run(people, "--seed", 5, "--replace")[1]
    assert not torch.equal(before["anna"], _tokens(tmp_path / "out")["anna"])


def test_other_photos_are_noticed(run: Run, people: Path) -> None:
    assert run(people)[0] == 0
    _photo(people / "bob" / "2.png", 9)
    code, out, err = run(people)
    assert code == 0
    assert "bob is left alone: it was learned with other photos." in err
    assert "2 finished before" in out


def test_those_who_fail_are_listed_and_the_rest_go_on(run: Run, people: Path, tmp_path: Path) -> None:
    (people / "bob/1.png").write_bytes(b"no picture")
    (people / "nobody").mkdir()
    code, out, err = run(people)
    assert code == 0
    assert "2 learned, 0 finished before, 2 failed (see failures.jsonl)" in out
    lines = (tmp_path / "out/failures.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {line["name"]: line["reason"] for line in map(json.loads, lines)}
    assert sorted(reasons) == ["bob", "nobody"]
    assert "1.png" in reasons["bob"]
    assert "There is no usable photo" in reasons["nobody"]
    assert "bob failed: " in err
    _photo(people / "bob/1.png", 1)
    _photo(people / "nobody/1.png", 2)
    code, out, err = run(people)
    assert "2 learned, 2 finished before" in out
    assert not (tmp_path / "out/failures.jsonl").exists()


def test_photos_that_are_not_there_are_said_first(run: Run, people: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("name,photos\nanna,people/anna\ncarl,people/carl\n", encoding="utf-8")
    code, out, err = run(tmp_path / "list.csv")
    assert code == 0
    assert err.index("1 person cannot be learned: photos are missing") < err.index("1 person to learn")
    assert "1 learned" in out
    assert "There is no photo or folder at" in (tmp_path / "out/failures.jsonl").read_text(encoding="utf-8")


def test_options_of_a_person_count_before_those_of_all(run: Run, people: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "name,photos,steps,words,seed,learning rate\nanna,people/anna,3,old man,,\nbob,people/bob,,,7,0.01\n",
        encoding="utf-8",
    )
    assert run(tmp_path / "list.csv", "--vectors", 2)[0] == 0
    anna, bob = (load_learned_token(tmp_path / f"out/{name}.safetensors").metadata for name in ("anna", "bob"))
    assert (anna["crossinit.steps"], anna["crossinit.words"], anna["crossinit.seed"]) == ("3", "old man", "0")
    assert (bob["crossinit.steps"], bob["crossinit.seed"], bob["crossinit.learning_rate"]) == ("2", "7", "0.01")
    assert bob["crossinit.names"] == "bundled"


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("steps", "many", "line 2: steps is 'many', but a whole number was expected"),
        ("steps", "0", "line 2: steps is 0, but must be at least 1"),
        ("steps", "9" * 400, "a whole number was expected"),
        ("steps", "2.5", "a whole number was expected"),
        ("learning_rate", "nan", "learning_rate is nan"),
        ("vectors", "99", "vectors is 99, but must be from 1 to 8"),
        ("preset", "slow", "preset is 'slow', but one of best, swift, full, fast, fast-published was expected"),
        ("face", "maybe", "face is 'maybe', but yes, no, or a face's number was expected"),
        ("regularizer", "none", "regularizer is 'none'"),
        ("names", "none.txt", "There is no list of names"),
        ("states", "first", "states is 'first'"),
        ("resolution", "100", "100"),
    ],
)
def test_a_bad_option_is_said_before_long_work(
    run: Run, people: Path, tmp_path: Path, column: str, value: str, expected: str
) -> None:
    (tmp_path / "list.csv").write_text(f"name,photos,{column}\nanna,people/anna,{value}\n", encoding="utf-8")
    code, _, err = run(tmp_path / "list.csv")
    assert code == 2
    [line] = err.splitlines()
    assert expected in line
    assert "list.csv" in line
    assert len(line) < 600
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--shard", "0/8"), "I/N was expected"),
        (("--shard", "9/8"), "I/N was expected"),
        (("--shard", "two"), "I/N was expected"),
        (("--workers", 0), "--workers is 0"),
        (("--people-per-gpu", 1000), "--people-per-gpu is 1000"),
        (("--model", "nobody/model"), "There is no model at 'nobody/model'"),
        (("--out", "people/out"), "lies in the folder of people"),
        (("--words", "  "), "words is empty"),
        (("--names", "a", "--words", "b"), "not allowed with"),
        (("--steps", -1), "steps is -1"),
    ],
)
def test_a_bad_argument_gets_one_line(run: Run, people: Path, arguments: tuple[object, ...], expected: str) -> None:
    code, _, err = run(people, *arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()[-1]) < 600
    assert "Traceback" not in err


def test_two_faces_are_a_failure_with_the_reason(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossinit_core.photos import faces
    from crossinit_core.photos.face_detection import Face

    class Two:
        def find(self, photo: Any) -> list[Face]:
            return [Face(300, 250, 200, 0.0, ((260, 230), (340, 230))), Face(80, 100, 90, 0.0, ((60, 90), (100, 90)))]

    monkeypatch.setattr(faces, "face_detector", Two)
    photo = tmp_path / "people/anna/1.png"
    photo.parent.mkdir(parents=True)
    Image.effect_noise((600, 500), 60).convert("RGB").save(photo)
    assert "1 failed" in run(tmp_path / "people", "--face")[1]
    failures = (tmp_path / "out/failures.jsonl").read_text(encoding="utf-8")
    assert (
        "'1.png': 2 faces were found, but one was expected. Say which: 1 is the largest."
        in json.loads(failures)["reason"]
    )
    assert "1 learned" in run(tmp_path / "people", "--face", 1)[1]


def test_shards_share_the_people(run: Run, people: Path, tmp_path: Path) -> None:
    _, first, _ = run(people, "--shard", "1/2")
    _, second, _ = run(people, "--shard", "2/2")
    assert "2 learned, 0 finished" in first
    assert "1 learned, 0 finished" in second
    assert len(_tokens(tmp_path / "out")) == 3
    assert "3 of 3 people learned" in (tmp_path / "out/summary/index.html").read_text(encoding="utf-8")
    people_of_all = [somebody(str(number)) for number in range(10)]
    taken = [person.name for number in (1, 2, 3) for person in Shard.of(f"{number}/3").take(people_of_all)]
    assert sorted(taken) == [str(number) for number in range(10)]


def test_the_page_shows_everybody(run: Run, people: Path, tmp_path: Path) -> None:
    (people / "x <b>&'").mkdir()
    assert run(people)[0] == 0
    summary = tmp_path / "out/summary"
    text = (summary / "index.html").read_text(encoding="utf-8")
    assert "3 of 4 people learned on tiny-eps, 1 failed, 0 not yet" in text
    assert "<script" not in text
    assert "<b>&" not in text
    pictures = re.findall(r'<img src="([^"]+)"', text)
    assert pictures == ["pictures/Zo%C3%AB-Lee.jpg", "pictures/anna.jpg", "pictures/bob.jpg"]
    assert all(Image.open(path).size == (192, 192) for path in (summary / "pictures").glob("*.jpg"))
    assert text.count('loading="lazy"') == 3
    assert text.count("2 steps, moved") == 3


def test_the_rate_counts_from_the_first_worker() -> None:
    now = [0.0]
    progress = Progress(1000, lambda: now[0])
    assert progress.line() == "0 of 1000 people, no worker has loaded the model yet"
    now[0] = 100.0
    progress.begin()
    for _ in range(10):
        now[0] += 12.6
        progress.count(failed=False)
    progress.count(failed=True)
    assert progress.line() == "11 of 1000 people, 1 failed, 314 an hour, 3 h 09 min left"


def test_durations_are_read_at_a_glance() -> None:
    assert [duration(seconds) for seconds in (0, 89, 90, 3000, 125_820)] == [
        "0 s",
        "89 s",
        "2 min",
        "50 min",
        "34 h 57 min",
    ]


def test_a_full_disk_stops_the_work(run: Run, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossinit_core.many import learner

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learner, "save_learned_token", full)
    code, _, err = run(people)
    assert code == 2
    assert "could not be saved" in err.splitlines()[-1]
    assert "No space left on device" in err.splitlines()[-1]
    assert list((tmp_path / "out/.resume").rglob("*.safetensors")), "what was learned is lost"


@pytest.mark.slow
def test_processes_learn_what_one_alone_learns(
    run: Run, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(people, "--out", tmp_path / "here")[0] == 0
    monkeypatch.undo()
    code, _, err = run(people, "--workers", 2)
    assert code == 0, err
    assert "3 people to learn with 2 workers." in err
    assert "Traceback" not in err
    here, there = _tokens(tmp_path / "here"), _tokens(tmp_path / "out")
    assert sorted(here) == sorted(there) == ["Zoë-Lee", "anna", "bob"]
    # On a CPU, the number of threads decides the last bits.
    assert all(torch.allclose(here[name], there[name], atol=1e-4) for name in here)
