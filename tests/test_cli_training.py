"""What `crossinit train` writes beside the token, and the settings that it takes; on SD and on SDXL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import PRESETS, InversionSettings, StepReport, cli, load_learned_token
from crossinit_core.commands import options
from crossinit_core.commands import train as train_command
from crossinit_core.commands.arguments import Parser
from crossinit_core.commands.training_settings import settings_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",  # inside diffusers
    "ignore::FutureWarning",  # the tiny model's scheduler is as old as the published code
)
Run = Callable[..., tuple[int, str, str]]
SMALL = ("--resolution", 64, "--batch-size", 1, "--device", "cpu")


@pytest.fixture(params=["tiny-eps", pytest.param("tiny-xl", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tiny_models: Path) -> Path:
    return tiny_models / str(request.param)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `train` in a folder with a photo, `me.png`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    _photo(Path("me.png"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["train", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def _photo(path: Path, seed: int = 0, size: tuple[int, int] = (80, 70)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def _vectors(path: str) -> torch.Tensor:
    return load_learned_token(path).vectors


def _stopping_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = train_command.invert

    def interrupted(*inputs: Any, on_step: Callable[[StepReport], None], **more: Any) -> Any:
        def stop(report: StepReport) -> None:
            on_step(report)
            if report.step == step:
                raise KeyboardInterrupt

        return learn(*inputs, on_step=stop, **more)

    monkeypatch.setattr(train_command, "invert", interrupted)


# --sample-every


def test_pictures_on_the_way_change_no_bit(run: Run, model: Path) -> None:
    assert run(model, "me.png", "--steps", 4, *SMALL, "--out", "plain.safetensors")[0] == 0
    code, _, err = run(
        *(model, "me.png", "--steps", 4, *SMALL, "--out", "ann.safetensors", "--sample-every", 2),
        *("--prompt", "a {} person: 5 o'clock?", "--prompt", "cubism painting of a {} person", "--no-resume"),
    )
    assert code == 0, err
    assert torch.equal(_vectors("ann.safetensors"), _vectors("plain.safetensors"))
    made = sorted(path.relative_to("ann-samples").as_posix() for path in Path("ann-samples").rglob("*.png"))
    assert made == [
        "a_{}_person__5_o'clock_/00002.png",
        "a_{}_person__5_o'clock_/00004.png",
        "cubism_painting_of_a_{}_person/00002.png",
        "cubism_painting_of_a_{}_person/00004.png",
    ]
    two, four = (np.asarray(Image.open(f"ann-samples/{path}")) for path in made[:2])
    assert two.shape == (64, 64, 3) and (two != four).any()


def test_the_last_picture_is_the_tokens(run: Run, tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_models / "tiny-eps"
    Path("prompts.txt").write_text("a photo of a {} person\n", encoding="utf-8")
    more = ("--out", "ann.safetensors", "--sample-every", 3, "--prompts", "prompts.txt", "--seed", 7)
    assert run(model, "me.png", "--steps", 3, *SMALL, *more)[0] == 0
    command = ["generate", model, "ann.safetensors", "--steps", "25", "--seed", "7", "--resolution", "64"]
    assert cli.main([*map(str, command), "--device", "cpu", "--layout", "published"]) == 0
    (sampled,), (generated,) = Path("ann-samples").rglob("*.png"), Path("pictures").rglob("*.png")
    assert (np.asarray(Image.open(sampled)) == np.asarray(Image.open(generated))).all()


def test_a_picture_that_cannot_be_written_ends_nothing(run: Run, tiny_models: Path) -> None:
    Path("me-samples").mkdir()
    Path("me-samples/a_photo_of_a_{}_person").write_text("in the way", encoding="utf-8")
    code, _, err = run(tiny_models / "tiny-eps", "me.png", "--steps", 2, *SMALL, "--sample-every", 1)
    assert code == 0, err
    assert err.count("could not be written") == 1 and "Learning goes on without pictures." in err
    assert Path("me.safetensors").is_file()


def test_too_little_memory_for_pictures_ends_nothing(
    run: Run, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("crossinit_core.commands.sampling.Sampler.pictures", full)
    code, _, err = run(tiny_models / "tiny-eps", "me.png", "--steps", 2, *SMALL, "--sample-every", 1)
    assert code == 0, err
    assert err.count("too little memory for pictures") == 1
    assert Path("me.safetensors").is_file()


def test_steps_of_an_earlier_run_have_no_pictures(run: Run, tiny_models: Path) -> None:
    """Which is said."""
    command = (tiny_models / "tiny-eps", "me.png", "--steps", 2, *SMALL)
    assert run(*command)[0] == 0
    code, out, err = run(*command, "--sample-every", 1)
    assert code == 0 and "2 of 2 steps came from an earlier run" in out
    assert "--sample-every did nothing for these steps. With --no-resume" in err
    assert not list(Path("me-samples").rglob("*.png"))


# --save-every


def test_a_copy_is_the_token_of_a_shorter_run(run: Run, model: Path) -> None:
    assert run(model, "me.png", "--steps", 5, *SMALL, "--save-every", 2, "--name", "ann")[0] == 0
    assert run(model, "me.png", "--steps", 2, *SMALL, "--out", "short.safetensors")[0] == 0
    assert sorted(path.name for path in Path().glob("ann*.safetensors")) == [
        "ann-2.safetensors",
        "ann-4.safetensors",
        "ann.safetensors",
    ]
    copy = load_learned_token("ann-2.safetensors")
    assert torch.equal(copy.vectors, _vectors("short.safetensors"))
    assert copy.metadata["crossinit.steps"] == "2" and copy.widths == load_learned_token("ann.safetensors").widths


def test_too_rare_copies_are_said(run: Run, tiny_models: Path) -> None:
    code, _, err = run(tiny_models / "tiny-eps", "me.png", "--steps", 2, *SMALL, "--save-every", 500)
    assert code == 0 and "--save-every is 500, but the run has 2 steps" in err


# --losses


def _log(path: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_the_log_has_every_step_once(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the run was stopped in between."""
    command = (model, "me.png", "--steps", 5, *SMALL, "--losses", "losses.jsonl")
    with monkeypatch.context() as patch:
        _stopping_after(2, patch)
        assert run(*command)[0] == 130
    assert [entry["step"] for entry in _log("losses.jsonl")] == [1, 2]
    code, out, err = run(*command)
    assert code == 0, err
    assert "2 of 5 steps came from an earlier run" in out
    entries = _log("losses.jsonl")
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0]["distance"] < 1e-4 < entries[-1]["distance"]
    assert run(*command, "--no-resume")[0] == 0
    assert _log("losses.jsonl") == entries


def test_no_file_is_taken_for_a_log(run: Run, tiny_models: Path) -> None:
    before = Path("me.png").read_bytes()
    code, _, err = run(tiny_models / "tiny-eps", "me.png", "--losses", "me.png")
    assert code == 2 and "is not a log of losses" in err
    assert Path("me.png").read_bytes() == before


# --tensorboard


def test_tensorboard_reads_losses_and_pictures(run: Run, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not there; use: python3 run.py test")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = (tiny_models / "tiny-eps", "me.png", "--steps", 4, *SMALL, "--tensorboard", "runs", "--sample-every", 4)
    with monkeypatch.context() as patch:
        _stopping_after(3, patch)
        assert run(*command)[0] == 130
    assert run(*command, "--losses", "losses.jsonl")[0] == 0
    seen = EventAccumulator("runs/me")
    seen.Reload()
    assert seen.Tags()["images"] == ["a_photo_of_a_{}_person"]
    losses = [(event.step, event.value) for event in seen.Scalars("loss")]
    assert losses == [(entry["step"], pytest.approx(entry["loss"])) for entry in _log("losses.jsonl")]


def test_tensorboard_that_is_not_installed_is_named(
    run: Run, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    code, _, err = run(tiny_models / "tiny-eps", "me.png", "--tensorboard", "runs")
    assert code == 2 and re.search(r"-m pip install .*\[tensorboard\]", err) and len(err) <= 600


# --no-resume


def test_no_resume_starts_anew(run: Run, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models / "tiny-eps"
    command = (model, "me.png", "--steps", 4, *SMALL)
    with monkeypatch.context() as patch:
        _stopping_after(2, patch)
        assert run(*command)[0] == 130
    code, out, _ = run(*command, "--no-resume")
    assert code == 0 and "earlier run" not in out


# Settings


def _settings(*more: object) -> InversionSettings:
    command = Parser()
    options.of_train(command)
    return settings_of(command.parse_args(["model", "me.png", *map(str, more)]), base="sd2")


def test_every_setting_of_learning_arrives() -> None:
    text = (
        "--regularization 0.3 --regularizer squared --weight-decay 0.2 --timesteps 100 900 --flip-probability 0.25 "
        "--memory low --micro-batch-size 1 --schedule linear"
    )
    given = _settings(*text.split())
    assert (given.regularization, given.regularizer, given.weight_decay) == (0.3, "squared", 0.2)
    assert (given.timesteps, given.flip_probability) == ((100, 900), 0.25)
    assert (given.memory, given.micro_batch_size, given.method) == ("low", 1, "published")
    assert given.schedule == "linear"


def test_every_setting_has_an_option() -> None:
    """But for what no person chooses: templates, and how often a resume file is written."""
    command = Parser()
    options.of_train(command)
    known = {action.dest for action in command._actions}
    settings = {field.name for field in fields(InversionSettings)}
    assert settings - known == {"templates", "subject", "resume_every", "cuda_graph"}


def test_the_direction_has_its_published_rate() -> None:
    given = _settings("--method", "direction")
    assert (given.method, given.learning_rate, given.prior) == ("direction", 0.04, 1e-4)
    given = _settings("--method", "direction", "--prior", "0", "--learning-rate", "0.1")
    assert (given.learning_rate, given.prior) == (0.1, 0)


def test_the_direction_starts_at_token_rows(run: Run, tiny_models: Path) -> None:
    fast = (*SMALL, "--preset", "swift", "--steps", 1)
    code, *_ = run(tiny_models / "tiny-eps", "me.png", *fast, "--out", "a.safetensors")
    assert code == 0
    assert load_learned_token("a.safetensors").metadata["crossinit.initialization"] == "token rows from names"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_its_values(name: str) -> None:
    """Also those that learn the direction alone, whose rate is not that of --method direction."""
    preset = PRESETS[name]
    assert _settings("--preset", name) == preset
    own: dict[str, Any] = {"prior": 1e-4, "learning_rate": 0.04} if preset.method == "published" else {}
    given = _settings("--preset", name, "--method", "direction")
    assert given == replace(preset, method="direction", **own)
    more = ("--prior", 0.5) if preset.method == "direction" else ("--weight-decay", 0.5)
    given = _settings("--preset", name, *more)
    assert 0.5 in (given.prior, given.weight_decay)


@pytest.mark.slow
def test_each_setting_changes_what_is_learned(run: Run, model: Path) -> None:
    command = (model, "me.png", "--steps", 3, *SMALL)
    changes: dict[str, tuple[object, ...]] = {
        "plain": (),
        "lambda": ("--regularization", 100),
        "decay": ("--weight-decay", 10),
        "times": ("--timesteps", 900, 1000),
        "rate": ("--schedule", "linear"),
        "direction": ("--method", "direction"),
    }
    for name, more in changes.items():
        assert run(*command, *more, "--name", name)[0] == 0
    learned = {name: _vectors(f"{name}.safetensors") for name in changes}
    for name in changes:
        assert [other for other in changes if torch.equal(learned[name], learned[other])] == [name]


# Photos


def test_a_mask_of_onetrainer_counts(run: Run, tiny_models: Path) -> None:
    """It lies beside its photo, in a folder within the folder."""
    home = Path("photos/10_ann person")
    Image.open(_photo(home / "ann.png")).resize((64, 64)).convert("L").point(lambda value: 255 * (value > 128)).save(
        home / "ann-masklabel.png"
    )
    command = (tiny_models / "tiny-eps", "photos", "--steps", 2, *SMALL)
    assert run(*command, "--out", "masked.safetensors")[0] == 0
    (home / "ann-masklabel.png").unlink()
    assert run(*command, "--out", "plain.safetensors")[0] == 0
    assert not torch.equal(_vectors("masked.safetensors"), _vectors("plain.safetensors"))


@pytest.mark.slow
def test_a_face_is_framed(run: Run, tiny_models: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image's photo is not there; use: python3 run.py test")
    Image.fromarray(data.astronaut()).save("eileen.png")
    command = (tiny_models / "tiny-eps", "eileen.png", "--steps", 2, *SMALL)
    code, _, err = run(*command, "--face", "--out", "framed.safetensors")
    assert code == 0, err
    assert "eileen.png: " in err
    assert run(*command, "--out", "whole.safetensors")[0] == 0
    assert not torch.equal(_vectors("framed.safetensors"), _vectors("whole.safetensors"))
    code, _, err = run(*command, "--face-number", 9)
    assert code == 2 and "--face: 'eileen.png'" in err.splitlines()[-1] and len(err.splitlines()[-1]) <= 600


def test_a_photo_without_a_face_is_refused(run: Run, tiny_models: Path) -> None:
    Image.new("RGB", (80, 80), "grey").save("wall.png")
    code, _, err = run(tiny_models / "tiny-eps", "wall.png", "--face")
    assert code == 2 and err.splitlines()[-1].startswith("crossinit: --face: 'wall.png'")


# Refusals. The model is not there, so what is said first was found before it was looked for.

REFUSED = {
    "prior": (("--prior", 1), "only --method direction uses it"),
    "decay of a direction": (("--method", "direction", "--weight-decay", 1), "--method direction does not use it"),
    "decay of a preset's direction": (
        ("--preset", "swift", "--weight-decay", 1),
        "this preset, which learns the direction",
    ),
    "preset of another method": (
        ("--preset", "best", "--method", "published"),
        "--preset best learns the direction alone",
    ),
    "times": (("--timesteps", 900, 100), "timesteps is (900, 100)"),
    "times beyond": (("--timesteps", 0, 1001), "timesteps is (0, 1001)"),
    "lambda": (("--regularization", "nan"), "regularization is nan"),
    "decay": (("--weight-decay=-1",), "--weight-decay: weight_decay is -1"),
    "copies": (("--save-every", 0), "--save-every is 0"),
    "pictures": (("--sample-every", 0), "--sample-every is 0"),
    "prompt alone": (("--prompt", "a {} person"), "need --sample-every N"),
    "prompt of nobody": (("--sample-every", 5, "--prompt", "a person"), "has no {} for the person"),
    "no prompts": (("--sample-every", 5, "--prompts", "gone.txt"), "gone.txt"),
    "log and token": (("--losses", "me.safetensors"), "--losses and --out are both 'me.safetensors'"),
    "log under a file": (("--losses", "me.png/log"), "me.png"),
    "pictures under a file": (("--sample-every", 5, "--out", "you.safetensors"), "you-samples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_options_are_said_at_once(case: str, run: Run) -> None:
    Path("you-samples").write_text("in the way", encoding="utf-8")
    more, message = REFUSED[case]
    code, _, err = run("nowhere", "me.png", *more)
    assert code == 2 and message in err, err
    assert err.count("\n") == 1 and len(err) <= 600


def test_a_face_number_is_checked(run: Run, tiny_models: Path) -> None:
    code, _, err = run(tiny_models / "tiny-eps", "me.png", "--face-number", 0)
    assert code == 2 and "--face-number is 0" in err
