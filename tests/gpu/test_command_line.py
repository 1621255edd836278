"""The command line on a GPU: pictures on the way, drawn between recorded steps, leave the vectors as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from crossinit_core import cli, load_learned_token

WEIGHTS = Path(__file__).resolve().parents[2] / "miniature" / "weights"


def test_pictures_on_the_way_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)).save("me.png")
    command = [
        "train",
        str(WEIGHTS),
        "me.png",
        "--steps",
        "40",
        "--batch-size",
        "4",
        "--resolution",
        "128",
        "--no-resume",
    ]
    assert cli.main([*command, "--out", "plain.safetensors"]) == 0
    assert cli.main([*command, "--out", "ann.safetensors", "--sample-every", "10"]) == 0, capsys.readouterr().err
    assert torch.equal(load_learned_token("ann.safetensors").vectors, load_learned_token("plain.safetensors").vectors)
    made = sorted(Path("ann-samples").rglob("*.png"))
    assert [path.name for path in made] == ["00010.png", "00020.png", "00030.png", "00040.png"], capsys.readouterr().err
    assert (np.asarray(Image.open(made[0])) != np.asarray(Image.open(made[-1]))).any()


def test_a_batch_of_pictures_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)).save("me.png")
    assert cli.main(["train", str(WEIGHTS), "me.png", "--steps", "2", "--batch-size", "2"]) == 0
    command = ["generate", str(WEIGHTS), "me.safetensors", "--steps", "10", "--count", "4"]
    for size in ("1", "4"):
        assert cli.main([*command, "--batch-size", size, "--out", size]) == 0
    for path in Path("1").glob("*.png"):
        one, four = (np.asarray(Image.open(folder / path.name)).astype(int) for folder in (Path("1"), Path("4")))
        assert abs(one - four).mean() < 2  # in float16 a batch is added up in another order
