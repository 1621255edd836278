"""What the command line says before long work, and what it keeps when it is stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, cli, load_learned_token, save_learned_token
from crossinit_core.commands import show
from crossinit_core.commands import train as train_command
from crossinit_core.tokens import saving
from crossinit_core.tokens.layouts import FORMATS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers


@pytest.fixture
def model(tiny_models: Path) -> Path:
    return tiny_models / "tiny-eps"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, two tokens, a file `taken`; it is the current one."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.jpg")
    for name in ("ann", "bob"):
        save_learned_token(LearnedToken(torch.ones(2, 32), name, "width-32"), tmp_path / f"{name}.safetensors")
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    (tmp_path / "folder.pt").mkdir()
    return tmp_path


TRAIN = ("train", "nowhere", "me.jpg")
DRAW = ("generate", "nowhere", "ann.safetensors")
REFUSED = {
    "guidance nan": ((*DRAW, "--guidance", "nan"), "--guidance is nan"),
    "guidance inf": ((*DRAW, "--guidance", "inf"), "--guidance is inf"),
    "guidance negative": ((*DRAW, "--guidance=-1"), "--guidance is -1.0"),
    "resolution negative": ((*DRAW, "--resolution=-64"), "--resolution is -64"),
    "resolution odd": ((*DRAW, "--resolution", "100"), "--resolution is 100"),
    "seed": ((*DRAW, "--seed=-1"), "--seed from 0"),
    "train resolution": ((*TRAIN, "--resolution=-64"), "resolution is -64"),
    "batch": ((*TRAIN, "--batch-size", "100000000"), "--batch-size is 100000000"),
    "device gpu": ((*TRAIN, "--device", "gpu"), "--device is 'gpu'"),
    "device xpu": ((*TRAIN, "--device", "xpu"), "--device is 'xpu'"),
    "device mps": ((*DRAW, "--device", "mps"), "--device is 'mps'"),
    "device cuda:99": ((*DRAW, "--device", "cuda:99"), "--device is 'cuda:99'"),
    "out is a folder": ((*TRAIN, "--out", "folder.pt"), "it is a folder"),
    "out under a file": ((*TRAIN, "--out", "taken/me.pt"), "is a file, not a folder"),
    "pictures under a file": ((*DRAW, "--out", "taken"), "is a file, not a folder"),
    "convert to a folder": (("convert", "ann.safetensors", "folder.pt"), "it is a folder"),
    "names not UTF-8": ((*TRAIN, "--names", "gone\udcff.txt"), "gone?.txt"),
    "hub id": (("train", "stabilityai/stable-diffusion-2-1", "me.jpg"), "hf download"),
    "published flag": (("train", "--pretrained_model_name_or_path=x"), "the model folder comes first"),
    "published flag of its test": (("generate", "--prompt_file", "x"), "--prompts FILE"),
    "published flag of SDXL": (("train", "--init_method", "xinit"), "--words TEXT"),
    "published flag of SDXL alone": (("train", "--reg_lambda=1e-5"), "Leave it out"),
    "flip": ((*TRAIN, "--flip-probability", "1.5"), "flip_probability is 1.5"),
    "published flag without a like": (("train", "--reg_weight", "1e-5"), "Leave it out"),
    "format of another ending": (
        ("convert", "ann.safetensors", "a.pt", "--format", "bin-for-the-published-script"),
        "Name the file 'a.bin'",
    ),
    "too many steps": ((*TRAIN, "--steps", "9" * 40), "at most 1000000"),
    "last seed": ((*DRAW, "--seed", str(2**63 - 1), "--count", "2"), "beyond 2^63"),
    "place of nobody": ((*DRAW, "--prompt", "a {carol} person"), "carol"),
    "person in no prompt": (
        ("generate", "nowhere", "ann.safetensors", "bob.safetensors", "--prompt", "a {ann} person"),
        "No prompt places 'bob'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_are_said_at_once(case: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model does not exist: what is said first was found before it was looked for."""
    arguments, message = REFUSED[case]
    if "device" in case and getattr(torch, arguments[-1].partition(":")[0], None) and case != "device cuda:99":
        module = getattr(torch, arguments[-1])
        if module.is_available():
            pytest.skip(f"there is a device {arguments[-1]} here")
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert len(err) <= 600


def _learn(model: Path, *more: str) -> int:
    return cli.main(
        [
            "train",
            str(model),
            "me.jpg",
            "--steps",
            "3",
            "--batch-size",
            "1",
            "--resolution",
            "64",
            "--out",
            "me.pt",
            *more,
        ]
    )


def test_a_token_is_kept_elsewhere(
    model: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full when the token is saved."""
    save = saving.save_learned_token

    def full(token: LearnedToken, path: Path, *more: Any, **options: Any) -> Path:
        if Path(path) == Path("me.pt"):
            raise OSError(28, "No space left on device")
        return save(token, path, *more, **options)

    monkeypatch.setattr(saving, "save_learned_token", full)
    assert _learn(model, "--resume-folder", "kept") == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in err
    assert str(inputs / "kept" / "me.safetensors") in err
    assert load_learned_token("kept/me.safetensors").vectors.shape == (2, 32)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a program can catch")
def test_sigterm_keeps_what_was_learned(
    model: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = train_command.invert

    def interrupted(*given: Any, on_step: Any, **more: Any) -> Any:
        def stop(report: Any) -> None:
            on_step(report)
            if report.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return learn(*given, on_step=stop, **more)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "invert", interrupted)
        assert _learn(model) == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "the same command continues from here" in capsys.readouterr().err
    assert _learn(model) == 0
    assert "of 3 steps came from an earlier run" in capsys.readouterr().out


def test_a_picture_never_replaces_another(model: Path, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("generate", str(model), "ann.safetensors", "--steps", "1", "--prompt", "red " * 80 + "{} person")
    drawn = []
    for _ in range(2):
        assert cli.main(command) == 0
        drawn.append(Path(capsys.readouterr().out.strip()))
    assert drawn[0] != drawn[1]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()


def test_the_end_of_a_long_prompt_counts(model: Path, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    save_learned_token(LearnedToken(vectors, "eve", "width-32"), "eve.safetensors")
    pictures = []
    for name in ("ann", "eve"):
        prompt = "red " * 80 + "{} person"
        assert cli.main(("generate", str(model), f"{name}.safetensors", "--steps", "2", "--prompt", prompt)) == 0
        pictures.append(Path(capsys.readouterr().out.strip()).read_bytes())
    assert pictures[0] != pictures[1]


def test_inspect_shows_no_control_characters(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"crossinit.names": "\x1b[2Jgone\nname forged"}
    save_learned_token(LearnedToken(torch.ones(1, 32), "zoe", "width-32", facts), "zoe.safetensors")
    assert cli.main(("inspect", "zoe.safetensors")) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not any(line.startswith("name forged") for line in out.splitlines())


@pytest.mark.parametrize(
    "command",
    [
        ("train", "x" * 9000),
        (*TRAIN, "--steps", "9" * 9000),
        (*TRAIN, "--precision", "x " * 9000),
        (*TRAIN, "--device", "cuda:" + "9" * 4000),
        (*TRAIN, "--name", "x" * 9000),
        (*TRAIN, "--out", "x" * 9000),
        (*TRAIN, "--" + "x" * 9000),
        ("x" * 9000,),
        ("train", "x" * 9000, "me.jpg"),
        ("train", "nowhere", "x" * 9000),
        (*DRAW, "--resolution", "9" * 4000),
        (*DRAW, "--prompt", "{" + "x" * 9000 + "}"),
        ("convert", "ann.safetensors", "x.pt", "--format", "x" * 9000),
        ("inspect", "x" * 9000),
    ],
    ids=lambda command: " ".join(command)[:40],
)
def test_a_huge_value_gives_one_short_line(
    command: tuple[str, ...], inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(command)
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert len(err) <= 600
    assert "crossinit" in err


def test_a_bug_of_ours_shows_where_it_is(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise KeyError("gone")

    monkeypatch.setattr(show, "load_learned_token", broken)
    with pytest.raises(KeyError, match="gone"):
        cli.main(("inspect", "ann.safetensors"))


@pytest.mark.parametrize("name", FORMATS)
def test_convert_writes_each_format(name: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = FORMATS[name]
    out = f"new{known.suffix}"
    assert cli.main(("convert", "ann.safetensors", out, "--format", name.replace(" ", "-"))) == 0
    assert f"for {', '.join(known.readers)}" in capsys.readouterr().out
    direct = save_learned_token(load_learned_token("ann.safetensors"), Path(f"direct{known.suffix}"), known.layout)
    assert torch.equal(load_learned_token(out).vectors, load_learned_token(direct).vectors)
    keys = torch.load(out).keys() if known.suffix == ".bin" else ()
    assert sorted(keys) == {"bin": ["<ann>"], "bin for the published script": ["ann_v0", "ann_v1"]}.get(name, [])


@pytest.mark.parametrize("name", FORMATS)
def test_convert_writes_sdxl_or_says_why_not(name: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = LearnedToken(torch.randn(2, 2048), "anna", "sdxl", {"crossinit.steps": "400"})
    save_learned_token(token, inputs / "anna.safetensors")
    known, out = FORMATS[name], f"new{FORMATS[name].suffix}"
    code = cli.main(("convert", "anna.safetensors", out, "--format", name.replace(" ", "-")))
    said = capsys.readouterr()
    if known.sdxl_readers:
        assert code == 0 and f"for {', '.join(known.sdxl_readers)}" in said.out
        assert (f"({known.suffix} of SDXL keeps nothing" in said.out) == (known.suffix != ".safetensors")
        assert torch.equal(load_learned_token(out).vectors, token.vectors)
    else:
        assert code == 2 and not Path(out).exists()
        assert f"the format '{name}' holds the vectors of one. Choose 'safetensors'" in said.err


def test_the_help_says_who_reads_which_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(("convert", "--help"))
    out = capsys.readouterr().out
    for name, known in FORMATS.items():
        assert any(name.replace(" ", "-") in line and ", ".join(known.readers) in line for line in out.splitlines())
