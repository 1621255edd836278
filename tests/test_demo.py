"""run.py demo: a drawn person, whom nobody has seen, learned through a live ComfyUI, drawn in prompts and judged."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossinit_core import load_learned_token
from devtools.demo import demo
from devtools.demo import miniature as demo_miniature
from devtools.demo.jury import Findings, Jury
from devtools.demo.miniature import PERSON
from devtools.demo.photo import put_checkpoint
from devtools.demo.sheet import Tile, contact_sheet
from devtools.page.driver import ComfyPage
from miniature.training import pack

PROMPTS = [
    prompt
    for prompt in demo_miniature.PROMPTS
    if not prompt.asks or prompt.asks.keys() & {"eyewear", "headphones", "style", "companion"}
]

needs_weights = pytest.mark.skipif(not pack.WEIGHTS.is_dir(), reason="there are no weights of the miniature")


@dataclass
class Shown:
    """What the demo left, where, and what it printed."""

    out: Path
    made: demo_miniature.Run
    findings: Findings
    jury: Jury


@pytest.fixture(scope="module")
def shown(live: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo with fewer prompts."""
    out = tmp_path_factory.mktemp("demo")
    made, findings = demo_miniature.show(live.client, live.base, out, PERSON, PROMPTS, {})
    print(made.learned, *demo_miniature.described(findings), sep="\n")
    return Shown(out, made, findings, Jury(pack.WEIGHTS, PERSON))


def test_a_place_that_takes_nothing_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before ComfyUI is started; what is full or forbidden at the end costs a minute."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "pictures"
    words = ["demo", "--comfyui", str(tmp_path), "--base", str(tmp_path / "base"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    assert demo.main() == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("The demo stopped: The demo's output") and str(out) in line
    assert not (tmp_path / "base").exists()


@needs_weights
def test_a_learned_person_is_nearest_to_the_truth(shown: Shown) -> None:
    """A learned person is nearer to the truth than any celebrity and most people."""
    found = shown.findings
    assert found.floor < found.nearest_name < found.likeness
    assert found.rank >= 0.95


@needs_weights
def test_prompts_still_change_the_scene(shown: Shown) -> None:
    assert shown.findings.editability >= 0.75
    plain = shown.jury.look(shown.made.pictures[0])
    for prompt in PROMPTS[1:]:
        assert not plain.shows(prompt.asks).any(), f"the plain picture shows what '{prompt.text}' asks"


@needs_weights
def test_the_pictures_are_clean_portraits(shown: Shown) -> None:
    assert (shown.jury.look(np.concatenate(shown.made.pictures)).clean > 0.5).mean() >= 0.9


@needs_weights
def test_a_person_can_go_on_with_what_the_demo_leaves(shown: Shown) -> None:
    names = {path.name for path in shown.out.iterdir()}
    assert names == {"contact-sheet.png", "portrait.png", "loss.png", "workflow.json", shown.made.file}
    token = load_learned_token(shown.out / shown.made.file)
    assert (token.base, token.width) == ("miniature", 256)
    workflow = json.loads((shown.out / "workflow.json").read_text(encoding="utf-8"))
    texts = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "CrossInitEncodePrompt"]
    assert texts == [PROMPTS[0].text, PROMPTS[-1].text]
    with Image.open(shown.out / "contact-sheet.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 600


@needs_weights
def test_the_page_opens_the_workflow_that_the_demo_leaves(classic: ComfyPage, shown: Shown) -> None:
    classic.load(shown.out / "workflow.json")
    assert not classic.errors()
    sent = classic.prompt().values()
    texts = [node["inputs"]["text"] for node in sent if node["class_type"] == "CrossInitEncodePrompt"]
    assert texts == [PROMPTS[0].text, PROMPTS[-1].text]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"photo": Path("me.jpg")}, "--photo needs --checkpoint"),
        ({"prompt": "a {} person"}, "--prompt needs --checkpoint"),
        ({"checkpoint": Path("sd.safetensors"), "person": 3}, "--person is for the miniature"),
        ({"person": -1}, "--person is -1"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = dict.fromkeys(("person", "checkpoint", "photo", "preset", "prompt"))
    options |= {"comfyui": tmp_path, "base": tmp_path / "base", "out": tmp_path / "out"} | given
    with pytest.raises(ValueError, match=message):
        demo.run(argparse.Namespace(**options))


def test_a_pack_without_its_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "WEIGHTS", tmp_path / "weights")
    options = dict.fromkeys(("person", "checkpoint", "photo", "preset", "prompt"))
    with pytest.raises(FileNotFoundError, match=r"holds no miniature.*download the pack again"):
        demo.run(
            argparse.Namespace(**{**options, "comfyui": tmp_path, "base": tmp_path / "base", "out": tmp_path / "out"})
        )


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_the_given_checkpoint_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """The checkpoint that was given is used, and no other of its name."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no right to make links")

    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    listed = tmp_path / "base" / "models" / "checkpoints"
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    for number, given in enumerate((first, second)):
        given.parent.mkdir()
        given.write_text(f"checkpoint {number}", encoding="utf-8")  # of one size, as two checkpoints have
        os.utime(given, (1e9 + 100 * number, 1e9 + 100 * number))
    listed.mkdir(parents=True)
    own = listed / "model.safetensors"
    own.write_text("the user's own", encoding="utf-8")

    def used(given: Path) -> str:
        return (listed / put_checkpoint(given, tmp_path / "base")).read_text(encoding="utf-8")

    assert used(first) == "checkpoint 0"
    assert used(second) == "checkpoint 1"
    assert used(second) == "checkpoint 1"
    first.write_text("checkpoint 0, trained on", encoding="utf-8")
    assert used(first) == "checkpoint 0, trained on"
    with pytest.raises(ValueError, match="no checkpoint at"):
        put_checkpoint(tmp_path / "gone.safetensors", tmp_path / "base")
    assert own.read_text(encoding="utf-8") == "the user's own"
    assert put_checkpoint(own, tmp_path / "base") == "model.safetensors", "what is listed already needs no second place"


def test_a_sheet_has_room_for_long_captions() -> None:
    """A sheet has room for long captions and a row that is not full."""
    picture = np.zeros((128, 128, 3), np.uint8)
    short = [Tile(picture, "a person", [("sad", True)])] * 3
    long = [*short, Tile(picture, "a person " * 20, [("sunglasses", True), ("beach", False), ("likeness 0.81", None)])]
    one, two = contact_sheet("Title", ["line"], short, 3), contact_sheet("Title", ["line"], long, 3)
    assert two.width == one.width
    assert two.height > one.height + (one.height - 100) + 60
