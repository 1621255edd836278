"""The publication's table on the miniature with its own judge: everything is learned, drawn and measured, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossinit_core import cli, load_celebrity_names
from miniature.training import pack
from miniature.training.captions import PROMPTS
from miniature.training.recognizer import prompt_judge, recognizer
from miniature.world.people import held_out_person, named_vectors, portrait

JUDGE = "miniature.training.recognizer"
METHODS = ("names", "words", "plain", "direction")
PROMPT_TEXTS = (PROMPTS[0].text, PROMPTS[1].text)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of each of two painted people, and one of nobody."""
    folder = tmp_path_factory.mktemp("people")
    named = named_vectors(load_celebrity_names().names)
    for number in range(2):
        Image.fromarray(portrait(held_out_person(number, named), number)).save(folder / f"Person {number}.png")
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    Image.fromarray(noise).save(folder / "nobody.png")
    return folder


def _reproduce(people: Path, out: Path, *more: str) -> int:
    prompts = out.parent / "prompts.txt"
    prompts.write_text("\n".join(PROMPT_TEXTS), encoding="utf-8")
    arguments: dict[str, object] = {
        "--photos": people,
        "--model": pack.WEIGHTS,
        "--out": out,
        "--prompts": prompts,
        "--steps": 2,
        "--plain-steps": 3,
        "--sampling-steps": 2,
        "--device": "cpu",
        "--recognizer": f"{JUDGE}:recognizer",
        "--clip": f"{JUDGE}:prompt_judge",
    }
    arguments.update(zip(more[::2], more[1::2], strict=True))
    return cli.main(["reproduce", *(str(word) for pair in arguments.items() for word in pair)])


def _files(out: Path, *folders: str) -> dict[str, int]:
    found = [path for folder in folders for path in (out / folder).rglob("*.*")]
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_the_table_is_made_once(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was stopped goes on where it was, and one that is done does nothing again."""
    out = tmp_path / "out"
    assert _reproduce(people, out, "--methods", "names") == 0
    assert "'nobody' is left out: No face was found" in capsys.readouterr().err
    before = _files(out, "tokens", "pictures", "scores")
    assert len(before) == 2 * (2 + 2 + 1)
    # As after a crash: a token and a picture are lost, and a file of numbers is not whole.
    (out / "tokens" / "names" / "Person-1.safetensors").unlink()
    lost = next(path for path in before if path.startswith("pictures/names/Person-0/002"))
    content = (out / lost).read_bytes()
    (out / lost).unlink()

    assert _reproduce(people, out) == 0
    after = _files(out, "tokens", "pictures", "scores")
    assert len(after) == 4 * len(before)
    again = {"tokens/names/Person-1.safetensors", "tokens/names/Person-1.json", lost, "scores/names/Person-0.json"}
    assert {path for path, when in before.items() if after[path] != when} <= again
    assert (out / lost).read_bytes() == content

    page = (out / "index.md").read_text(encoding="utf-8")
    assert "2 people, 4 pictures of each method, on `weights`" in page and "- nobody: No face" in page
    facts = json.loads((out / "reproduction.json").read_text(encoding="utf-8"))
    assert tuple(facts["methods"]) == METHODS
    assert facts["recognizer"] == "the miniature's second judge"
    assert [facts["methods"][method]["steps"] for method in METHODS] == [2, 2, 3, 2]
    assert facts["photos of strangers"]["count"] == 2
    for method in METHODS:
        assert facts["methods"][method]["all"]["pictures"] == 4
        assert (out / "evaluation" / method / "evaluation.md").is_file()
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.size == (3 * 160, 2 * 4 * 160)

    assert _reproduce(people, out) == 0
    assert _files(out, "tokens", "pictures", "scores") == after


@pytest.mark.slow
def test_another_run_is_not_mixed_in(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same folder for other settings is refused, with both values, before anything is learned."""
    out = tmp_path / "out"
    assert _reproduce(people, out, "--methods", "names") == 0
    before = _files(out, "tokens", "pictures")
    capsys.readouterr()
    for option, value, message in (
        ("--steps", "3", "steps of 'names' is 2, but here it is 3"),
        ("--seed", "5", "seed is 0, but here it is 5"),
        ("--guidance", "3", "guidance is 7.5, but here it is 3.0"),
    ):
        assert _reproduce(people, out, "--methods", "names", option, value) == 2
        assert message in capsys.readouterr().err
    assert _files(out, "tokens", "pictures") == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--methods", "names,lora", "a list of names, words, plain, direction, swift, best is expected"),
        ("--photos", "absent", "--photos is 'absent'"),
        ("--model", "absent", "'absent'"),
        ("--count", "0", "--count must be at least 1"),
        ("--steps", "0", "steps is 0"),
    ],
)
def test_wrong_inputs_are_refused_at_once(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert _reproduce(people, tmp_path / "out", option, value) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_judge_tells_painted_people_apart(people: Path) -> None:
    """Behind the protocols it says what it says without them."""
    judge, prompts = recognizer(), prompt_judge()
    pictures: list[Any] = [np.asarray(Image.open(people / f"Person {number}.png")) for number in range(2)]
    first, second = (judge.embed(picture) for picture in pictures)
    assert judge.similarity(first, first)[0, 0] == pytest.approx(1)
    assert judge.similarity(first, second)[0, 0] < 0.8
    assert len(judge.embed(np.asarray(Image.open(people / "nobody.png")))) == 0
    larger = np.asarray(Image.fromarray(pictures[0]).resize((256, 256)))
    assert judge.similarity(judge.embed(larger), first)[0, 0] > 0.9
    sunglasses = next(prompt.text for prompt in PROMPTS if prompt.asks.get("eyewear") == "sunglasses")
    assert prompts.score(pictures[:1] * 3, [PROMPTS[0].text, sunglasses, "something else"]) == [None, 0.0, None]
