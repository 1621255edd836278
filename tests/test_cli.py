"""The command line: learn, draw, convert and inspect, and one clear line for every wrong input."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, StepReport, cli, load_learned_token, save_learned_token
from crossinit_core.commands import train as train_command
from crossinit_core.diffusers_backbone import DiffusersBackbone

REPOSITORY = Path(__file__).resolve().parents[1]
Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder: exit code, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = ended.code if isinstance(ended.code, int) else 1
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def model(tiny_models: Path) -> Path:
    return tiny_models / "tiny-eps"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return _photo(tmp_path / "photos" / "Ann Lee.jpg", seed=0)


def _photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (80, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _token(folder: Path, name: str = "ann", seed: int = 0, count: int = 2, width: int = 32) -> Path:
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    token = LearnedToken(vectors, name, f"width-{width}", {"crossinit.steps": "25"})
    return save_learned_token(token, folder / f"{name}.safetensors")


def _pixels(path: Path | str) -> np.ndarray:
    return np.array(Image.open(path))


# train


def test_a_photo_becomes_a_token_file(run: Run, model: Path, photo: Path) -> None:
    code, out, err = run("train", model, photo, "--steps", 2, "--resolution", 64, "--seed", 7, "--batch-size", 2)
    assert code == 0, err
    token = load_learned_token("Ann-Lee.safetensors")
    assert token.name == "Ann-Lee"
    assert token.vectors.shape == (2, 32)
    facts = token.metadata
    assert (facts["crossinit.steps"], facts["crossinit.seed"], facts["crossinit.batch_size"]) == ("2", "7", "2")
    assert facts["crossinit.names"] == "bundled"
    assert "Ann-Lee.safetensors: 2 vectors, 2 steps" in out
    assert "2/2" in err, "there was no progress bar"
    assert "Traceback" not in err


def test_a_folder_is_searched_for_photos(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    _photo(photo.with_name("b.png"), seed=1)
    photo.with_name(".DS_Store").write_bytes(b"no picture")
    photo.with_name("notes.txt").write_text("no picture", encoding="utf-8")
    (photo.parent / "more").mkdir()
    options = ("--steps", 1, "--resolution", 64, "--batch-size", 8)
    code, _, err = run("train", model, photo.parent, *options, "--out", "all.safetensors")
    assert code == 0, err
    assert "Skipping" in err
    assert "notes.txt" in err
    assert "b.png" not in err
    run("train", model, photo, *options, "--out", "one.safetensors")
    both, one = load_learned_token("all.safetensors"), load_learned_token("one.safetensors")
    assert not torch.equal(both.vectors, one.vectors)


def test_the_start_may_be_own_names_or_words(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Beyoncé\nAngelina Jolie\n", encoding="utf-8")
    base = ("train", model, photo, "--steps", 1, "--resolution", 64, "--batch-size", 1)
    assert run(*base, "--names", names, "--vectors", 1, "--out", "n.pt")[0] == 0
    assert load_learned_token("n.pt").vectors.shape == (1, 32)
    assert load_learned_token("n.pt").metadata["crossinit.names"] == "names.txt"
    assert run(*base, "--words", "a human face", "--name", "zoe", "--out", "w.bin")[0] == 0
    assert load_learned_token("w.bin").vectors.shape == (3, 32)
    assert load_learned_token("w.bin").name == "w"


def test_every_setting_arrives(run: Run, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def invert(_backbone: object, _v0: object, settings: object, **_: object) -> None:
        seen.append(settings)
        raise ValueError("enough")

    monkeypatch.setattr(train_command, "invert", invert)
    run("train", model, photo, "--preset", "fast")
    options = "--steps 5 --learning-rate 0.02 --seed 3 --batch-size 4 --micro-batch-size 2 --resolution 128"
    run("train", model, photo, *options.split(), "--precision", "bf16", "--gradient-checkpointing")
    fast, given = seen
    assert fast == cli.PRESETS["fast"]
    assert (given.steps, given.learning_rate, given.seed, given.batch_size) == (5, 0.02, 3, 4)
    assert (given.micro_batch_size, given.gradient_checkpointing) == (2, True)
    assert (given.precision, given.resolution) == ("bf16", 128)


@contextmanager
def _ctrl_c_after_two_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    learn = train_command.invert

    def interrupted(*inputs: Any, on_step: Callable[[StepReport], None], **more: Any) -> Any:
        def stop(report: StepReport) -> None:
            on_step(report)
            if report.step == 2:
                raise KeyboardInterrupt

        return learn(*inputs, on_step=stop, **more)

    with monkeypatch.context() as patch:
        patch.setattr(train_command, "invert", interrupted)
        yield


def test_ctrl_c_can_go_on(run: Run, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and the same command does go on."""
    command = ("train", model, photo, "--steps", 4, "--resolution", 64, "--batch-size", 2, "--out", "x.safetensors")
    with _ctrl_c_after_two_steps(monkeypatch):
        code, _, err = run(*command)
    assert code == 130
    assert "After step 2 of 4: the same command continues from here." in err
    assert "Traceback" not in err
    assert not Path("x.safetensors").exists()
    code, out, _ = run(*command)
    assert code == 0
    assert "2 of 4 steps came from an earlier run" in out
    resumed = load_learned_token("x.safetensors").vectors
    assert run(*command, "--resume-folder", "elsewhere")[0] == 0
    assert torch.equal(load_learned_token("x.safetensors").vectors, resumed)


def test_ctrl_c_without_a_resume_file(run: Run, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is promised if no resume file can be written."""
    Path("taken").write_text("a file where the folder should be", encoding="utf-8")
    options = ("--steps", 4, "--resolution", 64, "--batch-size", 2, "--resume-folder", "taken")
    with _ctrl_c_after_two_steps(monkeypatch):
        code, _, err = run("train", model, photo, *options)
    assert code == 130
    assert "could not be written" in err
    assert "continues from here" not in err


# generate


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the tiny model's scheduler is as old as the published code
def test_the_vectors_stand_where_the_braces_are(run: Run, model: Path, tmp_path: Path) -> None:
    """A token that is a word's own vector must draw what the word draws."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    backbone = DiffusersBackbone.from_pretrained(model)
    vector = backbone.embed(torch.tensor(backbone.tokenize("woman")))
    path = save_learned_token(LearnedToken(vector, "ann", "width-32"), tmp_path / "ann.safetensors")
    code, out, err = run("generate", model, path, "--prompt", "a photo of a {} person", "--steps", 4, "--seed", 5)
    assert code == 0, err
    (drawn,) = out.split()

    pipeline = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    expected = pipeline(
        "a photo of a woman person",
        num_inference_steps=4,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    assert np.abs(_pixels(drawn).astype(int) - np.array(expected).astype(int)).max() <= 1


def test_all_vectors_of_a_token_count(run: Run, model: Path, tmp_path: Path) -> None:
    first = load_learned_token(_token(tmp_path, "a"))
    other = LearnedToken(torch.stack([first.vectors[0], -first.vectors[1]]), "a", first.base)
    save_learned_token(other, tmp_path / "b.safetensors")
    pictures = []
    for name in ("a", "b"):
        code, out, err = run("generate", model, tmp_path / f"{name}.safetensors", "--steps", 2, "--out", name)
        assert code == 0, err
        pictures.append(_pixels(out.strip()))
    assert not np.array_equal(pictures[0], pictures[1])


def test_pictures_do_not_depend_on_others(run: Run, model: Path, tmp_path: Path) -> None:
    """They do not depend on the prompts before them."""
    token = _token(tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# both\na {} person on the beach\n\ncubism painting of a {} person\n", encoding="utf-8")
    code, out, err = run("generate", model, token, "--prompts", prompts, "--steps", 2, "--count", 2, "--out", "both")
    assert code == 0, err
    both = out.split()
    assert len(both) == len(set(both)) == 4
    code, out, _ = run(
        "generate", model, token, "--prompt", "cubism painting of a {} person", "--steps", 2, "--seed", 1
    )
    (alone,) = out.split()
    assert np.array_equal(_pixels(alone), _pixels(both[3]))
    assert not np.array_equal(_pixels(alone), _pixels(both[2])), "another seed gave the same picture"
    assert not np.array_equal(_pixels(alone), _pixels(both[1])), "another prompt gave the same picture"


def test_two_people_in_one_picture(run: Run, model: Path, tmp_path: Path) -> None:
    ann, bob = _token(tmp_path, "Ann"), _token(tmp_path, "ann-2", seed=1)
    pictures = []
    for prompt in ("{} and {}", "{Ann} and {ann-2}", "{ann-2} and {Ann}"):
        code, out, err = run("generate", model, ann, bob, "--prompt", prompt, "--steps", 2, "--resolution", 64)
        assert code == 0, err
        pictures.append(_pixels(out.strip()))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    code, _, err = run("generate", model, ann, bob, "--prompt", "a {} person")
    assert code == 2
    assert "has 1 times {}, but there are 2 tokens" in err
    code, _, err = run("generate", model, ann, bob, "--prompt", "a {carol} person")
    assert code == 2
    assert "{carol}" in err
    assert "Ann, ann-2" in err


# convert and inspect


def test_a_token_is_converted_there_and_back(run: Run, tmp_path: Path) -> None:
    source = _token(tmp_path, "Zoë")
    assert run("convert", source, "a.pt")[0] == 0
    code, out, _ = run("convert", "a.pt", "b.bin")
    assert code == 0 and ".bin keeps nothing of their origin" in out
    code, out, _ = run("convert", "b.bin", "c.safetensors", "--name", "ann")
    assert code == 0
    assert "ann" in out
    assert torch.equal(load_learned_token("c.safetensors").vectors, load_learned_token(source).vectors)
    assert load_learned_token("b.bin").name == "b"
    assert load_learned_token("c.safetensors").name == "c"


def test_the_published_file_becomes_one_that_others_read(run: Run, reference: Path) -> None:
    assert run("convert", reference / "learned-embeddings" / "28017.bin", "p.safetensors")[0] == 0
    assert load_learned_token("p.safetensors").vectors.shape == (2, 1024)


def test_inspect_shows_what_a_file_holds(run: Run, reference: Path, tmp_path: Path) -> None:
    path = reference / "learned-embeddings" / "28017.bin"
    code, out, _ = run("inspect", path)
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["name"] == "28017"
    assert lines["vectors"] == "2"
    assert lines["width"] == "1024 (SD 2.x)"
    assert lines["base"] == "sd2"
    assert [float(norm) for norm in lines["norms"].split()] == pytest.approx([32.94, 33.57], abs=0.01)
    token = LearnedToken(torch.ones(1, 768), "ann", "sd1", {"crossinit.steps": "25"})
    other = save_learned_token(token, tmp_path / "ann.safetensors")
    assert "crossinit.steps" in run("inspect", other)[1]
    code, out, _ = run("inspect", other, "--json")
    facts = json.loads(out)
    assert (facts["name"], facts["vectors"], facts["width"], facts["base"]) == ("ann", 1, 768, "sd1")
    assert facts["metadata"] == {"crossinit.steps": "25"}
    assert [fact["name"] for fact in json.loads(run("inspect", other, path, "--json")[1])] == ["ann", "28017"]


def test_inspect_and_convert_know_two_encoders(run: Run, tmp_path: Path) -> None:
    parts = [torch.full((2, width), length / width**0.5) for width, length in ((768, 3.0), (1280, 50.0))]
    for part, name in zip(parts, ("learned_embeds", "learned_embeds_2"), strict=True):
        torch.save({"<anna>": part}, tmp_path / f"{name}.bin")
    assert run("convert", tmp_path / "learned_embeds_2.bin", "anna.safetensors")[0] == 0
    code, out, _ = run("inspect", "anna.safetensors")
    assert code == 0
    for line in ("width 768 + 1280 (SDXL)", "norms, CLIP-L 3.0 3.0", "norms, CLIP-G 50.0 50.0", "base sdxl"):
        assert line in [" ".join(found.split()) for found in out.splitlines()]
    facts = json.loads(run("inspect", "anna.safetensors", "--json")[1])
    assert (facts["width"], facts["widths"], facts["base"]) == (2048, [768, 1280], "sdxl")
    assert facts["norms"] == pytest.approx([3, 3, 50, 50], abs=1e-3)


# Wrong inputs


def _wrong(model: Path, photo: Path, folder: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    token, large = _token(folder), _token(folder, "large", width=1024)
    notes = folder / "notes.txt"
    notes.write_text("no picture", encoding="utf-8")
    empty = folder / "empty"
    empty.mkdir()
    (folder / "xl").mkdir()
    return {
        "no photo": (("train", model, folder / "gone.jpg"), "gone.jpg"),
        "no picture": (("train", model, notes), "no usable photo"),
        "empty folder": (("train", model, empty), "no usable photo"),
        "no model": (("train", folder / "nowhere", photo), "nowhere' is not a diffusers model folder"),
        "no model to draw": (("generate", folder / "xl", token), "is not a diffusers model folder"),
        "no steps": (("train", model, photo, "--steps", 0), "steps is 0"),
        "no rate": (("train", model, photo, "--learning-rate", "nan"), "learning_rate is nan"),
        "odd resolution": (("train", model, photo, "--resolution", 100), "resolution is 100"),
        "no vectors": (("train", model, photo, "--vectors", 0), "vectors is 0"),
        "no device": (("train", model, photo, "--device", "toaster"), "toaster"),
        "odd suffix": (("train", model, photo, "--out", "x.zip"), "--out is 'x.zip'"),
        "odd name": (("train", model, photo, "--name", "a b"), "for example 'a-b'"),
        "no names": (("train", model, photo, "--names", folder / "gone.txt"), "gone.txt"),
        "many words": (("train", model, photo, "--words", "a b c d e f g h i"), "9 tokens long"),
        "words and count": (("train", model, photo, "--words", "face", "--vectors", 2), "1 tokens long"),
        "names and words": (("train", model, photo, "--words", "a", "--names", "b"), "not allowed with"),
        "no token": (("generate", model, folder / "gone.pt"), "no token file at"),
        "wrong token": (("generate", model, large), "CLIP has width 32"),
        "no braces": (("generate", model, token, "--prompt", "a photo"), "has no {} for the person"),
        "no prompts": (("generate", model, token, "--prompts", folder / "gone.txt"), "gone.txt"),
        "odd size": (("generate", model, token, "--resolution", 65), "65"),
        "no pictures": (("generate", model, token, "--count", 0), "--count"),
        "odd target": (("convert", token, "x.txt"), "must end in one of"),
        "broken file": (("inspect", notes), "'notes.txt' is damaged"),
        "no command": ((), "COMMAND"),
        "odd command": (("paint",), "paint"),
        "odd option": (("inspect", token, "--yaml"), "--yaml"),
    }


def test_every_wrong_input_ends_with_one_clear_line(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    for case, (arguments, message) in _wrong(model, photo, tmp_path).items():
        code, _, err = run(*arguments)
        assert code == 2, case
        assert "Traceback" not in err, case
        last = err.splitlines()[-1]
        assert message in last, f"{case}: {err}"
        assert "crossinit" in last, case
    assert not list(Path().glob("*.safetensors"))


def test_a_gpu_that_is_not_there_is_said(run: Run, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run("train", model, photo, "--device", "cuda")
    assert code == 2
    assert "no such GPU here. Use --device cpu" in err


# As a program


def _program(*arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    command = [sys.executable, "-m", "crossinit_core", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment, check=False)


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    """It writes UTF-8 on every system."""
    path = _token(tmp_path, "Zoë")
    done = _program("inspect", path, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "Zoë".encode() in done.stdout


def test_it_ends_with_code_2_as_a_module(tmp_path: Path) -> None:
    done = _program("inspect", tmp_path / "gone.pt")
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.splitlines() == [f"crossinit: There is no token file at '{tmp_path / 'gone.pt'}'.".encode()]
