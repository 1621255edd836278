"""`crossinit blend`, `rescale`, `report`, `inspect`: what they write and print, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, cli, load_learned_token, save_learned_token
from crossinit_core.tokens.metadata import START, START_NORM, STEPS, THUMBNAIL, listed, packed
from crossinit_core.tokens.thumbnails import thumbnail_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = ended.code if isinstance(ended.code, int) else 1
        return code, *capsys.readouterr()

    return call


@pytest.fixture(params=[(1024,), (768, 1280)], ids=["SD 2", "SDXL"])
def widths(request: pytest.FixtureRequest) -> tuple[int, ...]:
    found: tuple[int, ...] = request.param
    return found


def _token(name: str, seed: int, widths: tuple[int, ...], **facts: str) -> LearnedToken:
    vectors = torch.randn(2, sum(widths), generator=torch.Generator().manual_seed(seed))
    token = LearnedToken(vectors, name, "sdxl" if len(widths) == 2 else "sd2", facts, widths=widths)
    save_learned_token(token, Path(f"{name}.safetensors"))
    return token


@pytest.mark.parametrize("method", ["arc", "line"])
def test_a_blend_goes_from_one_to_the_other(run: Run, widths: tuple[int, ...], method: str) -> None:
    ann, bob = _token("ann", 0, widths), _token("bob", 1, widths)
    for weight, wanted in ((0, ann.vectors), (1, bob.vectors)):
        code, out, err = run(
            *("blend", "ann.safetensors", "bob.safetensors", "both.safetensors", "--weight", weight, "--method", method)
        )
        assert code == 0, err
        assert "both.safetensors: 'both', 2 vectors" in out
        assert torch.allclose(load_learned_token("both.safetensors").vectors, wanted, atol=1e-5)


def test_half_of_each_is_the_default(run: Run, widths: tuple[int, ...]) -> None:
    ann, bob = _token("ann", 0, widths), _token("bob", 1, widths)
    command = ("blend", "ann.safetensors", "bob.safetensors", "both.safetensors", "--method", "line")
    assert run(*command)[0] == 0
    assert torch.allclose(load_learned_token("both.safetensors").vectors, (ann.vectors + bob.vectors) / 2, atol=1e-6)


def test_a_token_gets_the_length_of_its_start(run: Run, widths: tuple[int, ...]) -> None:
    token = _token("ann", 0, widths, **{START_NORM: listed(torch.full((2 * len(widths),), 7.0))})
    for amount, wanted in ((1, 7.0), (0, None)):
        code, _, err = run("rescale", "ann.safetensors", "same.safetensors", "--amount", amount)
        assert code == 0, err
        rescaled = load_learned_token("same.safetensors")
        for part, before in zip(rescaled.parts, token.parts, strict=True):
            expected = before.norm(dim=1) if wanted is None else torch.full((2,), wanted)
            assert torch.allclose(part.norm(dim=1), expected, rtol=1e-4)


def test_a_token_that_names_no_start_is_refused(run: Run) -> None:
    _token("ann", 0, (1024,))
    code, _, err = run("rescale", "ann.safetensors", "x.safetensors")
    assert code == 2 and err.count("\n") == 1
    assert "'ann.safetensors' does not say how long" in err and "Only a token that says so" in err
    assert not Path("x.safetensors").exists()


def test_a_report_prints_and_draws(run: Run, widths: tuple[int, ...]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not there; use: python3 run.py test")
    _token("ann", 0, widths, **{STEPS: "25"})
    _token("bob", 1, widths)
    code, out, err = run("report", "ann.safetensors", "bob.safetensors", "--out", "charts/report.png")
    assert code == 0, err
    assert "ann" in out and "bob" in out and "25" in out
    assert out.splitlines()[-1] == str(Path("charts/report.png"))
    assert np.asarray(Image.open("charts/report.png")).std() > 1


def test_inspect_shows_no_picture_as_text(run: Run) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    thumbnail = thumbnail_of(Image.fromarray(noise))
    assert len(thumbnail) > 2000
    _token("ann", 0, (1024,), **{THUMBNAIL: thumbnail, START: packed(torch.ones(2, 1024))})
    code, out, _ = run("inspect", "ann.safetensors", "--json")
    assert json.loads(out)["metadata"][START] == "vectors in 5464 characters"
    shown = json.loads(out)["metadata"][THUMBNAIL]
    assert code == 0 and len(out) < 2000
    assert shown.startswith("data:image/") and f"of {len(thumbnail.partition(',')[2])} characters" in shown
    code, out, _ = run("inspect", "ann.safetensors")
    assert code == 0 and len(out) < 2000 and "base64" in out


REFUSED = {
    "weight": (("blend", "ann.safetensors", "bob.safetensors", "x.safetensors", "--weight", 2), "--weight is 2.0"),
    "no weight": (
        ("blend", "ann.safetensors", "bob.safetensors", "x.safetensors", "--weight", "nan"),
        "--weight is nan",
    ),
    "amount": (("rescale", "ann.safetensors", "x.safetensors", "--amount", -1), "--amount is -1.0"),
    "blend of families": (("blend", "ann.safetensors", "xl.safetensors", "x.safetensors"), "Only tokens of one"),
    "blend into a folder": (("blend", "ann.safetensors", "bob.safetensors", "folder.pt"), "it is a folder"),
    "blend into a text": (("blend", "ann.safetensors", "bob.safetensors", "x.txt"), "must end in one of"),
    "blend into another ending": (
        ("blend", "ann.safetensors", "bob.safetensors", "x.bin", "--format", "pt"),
        "Name the file 'x.pt'",
    ),
    "name": (("blend", "ann.safetensors", "bob.safetensors", "x.pt", "--name", "a b"), "for example 'a-b'"),
    "nobody": (("blend", "ann.safetensors", "gone.safetensors", "x.pt"), "no token file at"),
    "report": (("report", "ann.safetensors", "--out", "x.jpg"), "must end in .png"),
    "report of nobody": (("report", "gone.safetensors"), "no token file at"),
    "address of a token": (("inspect", "https://example.org/ann.safetensors"), "nothing is downloaded"),
    "address to write": (("convert", "ann.safetensors", "s3://bucket/ann.pt"), "nothing is downloaded"),
    "address of a file": (("inspect", "file:///ann.safetensors"), "without file://"),
    "no path": (("inspect", ""), "it is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_inputs_are_said(case: str, run: Run) -> None:
    _token("ann", 0, (1024,))
    _token("bob", 1, (1024,))
    _token("xl", 1, (768, 1280))
    Path("folder.pt").mkdir()
    arguments, message = REFUSED[case]
    code, _, err = run(*arguments)
    assert code == 2 and message in err, err
    assert err.count("\n") == 1 and len(err) <= 600
    assert not list(Path().glob("x.*"))
