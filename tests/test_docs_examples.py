"""The examples in `docs/python.md` do what the page says, on the miniature in place of a model of full size."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossinit_core import cli, load_learned_token

REPOSITORY = Path(__file__).resolve().parents[1]
MINIATURE = REPOSITORY / "miniature" / "weights"
PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
MODEL = "stable-diffusion-2-1-base"

pytestmark = pytest.mark.skipif(
    not (MINIATURE / "config.json").is_file(), reason="there are no weights of the miniature"
)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, in which the examples run."""
    picture = np.random.default_rng(0).integers(0, 255, (200, 160, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "me.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_examples_learn_and_save(folder: Path) -> None:
    names: dict[str, Any] = {}
    learn, framed = _blocks("python")
    for code, changes in (
        (learn, {MODEL: MINIATURE.as_posix(), "InversionSettings()": "InversionSettings(steps=2, batch_size=2)"}),
        # Nobody is on this photo, so the frame is set by hand.
        (
            framed,
            {"resolution=512": "resolution=128, by_hand=True", "v0, images": "v0, InversionSettings(steps=2), images"},
        ),
    ):
        for old, new in changes.items():
            assert old in code
            code = code.replace(old, new)
        script = folder / "example.py"
        script.write_text(code, encoding="utf-8")
        names = runpy.run_path(str(script), init_globals=names)
    assert load_learned_token(folder / "me.safetensors").vectors.shape[0] == 2
    assert names["faces"].images.shape == (1, 128, 128, 3)
    assert names["result"].token.name == "me"


def test_the_terminal_examples_run_one_after_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = _blocks("sh")
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["train", "generate", "convert", "inspect"]
    quick = {"train": ["--steps", "2", "--batch-size", "2"], "generate": ["--steps", "2"]}
    for command in commands:
        words = [MINIATURE.as_posix() if word == MODEL else word for word in command]
        assert cli.main(
            [*words, *quick.get(command[0], []), *(["--device", "cpu"] if command[0] in quick else [])]
        ) in (0, None)
    assert len(list((folder / "pictures").glob("*.png"))) == 4
    assert (load_learned_token(folder / "me.pt").vectors == load_learned_token(folder / "me.safetensors").vectors).all()
    assert "me.safetensors" in capsys.readouterr().out
