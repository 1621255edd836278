"""Where `crossinit generate` puts its pictures, which of them it makes, and how many at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, cli, load_learned_token, save_learned_token
from crossinit_core.commands.pictures import PlacedPrompt, plan_pictures
from crossinit_core.commands.sampling import Sampler
from crossinit_core.commands.sampling_settings import Sampling
from crossinit_core.tokens.metadata import START, packed

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",  # inside diffusers
    "ignore::FutureWarning",  # the tiny model's scheduler is as old as the published code
)
Run = Callable[..., tuple[int, str, str]]
QUICK = ("--steps", 2, "--resolution", 64, "--device", "cpu")


@pytest.fixture(params=["tiny-eps", pytest.param("tiny-xl", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tiny_models: Path) -> Path:
    return tiny_models / str(request.param)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `generate` in a folder with tokens for each model and a photo: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name, widths in (("tiny-eps", (32,)), ("tiny-xl", (64, 128)), ("bob", (32,))):
        vectors = torch.randn(2, sum(widths), generator=torch.Generator().manual_seed(1))
        base = "width-" + "+".join(map(str, widths))
        save_learned_token(LearnedToken(vectors, name, base, widths=widths), Path(f"{name}.safetensors"))
    Image.new("RGB", (32, 32)).save("me.png")

    def call(model: Path, *arguments: object) -> tuple[int, str, str]:
        code = cli.main(["generate", str(model), f"{model.name}.safetensors", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def _made(folder: str) -> list[str]:
    home = Path(folder)
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def _pixels(path: Path | str) -> Any:
    return np.asarray(Image.open(path)).astype(int)


def test_the_dial_changes_the_picture(run: Run, model: Path) -> None:
    """`--strength` is that of the node: 1 changes nothing, and a token without its start has no other."""
    token = load_learned_token(Path(f"{model.name}.safetensors"))
    assert run(model, *QUICK, "--out", "plain")[0] == 0
    code, _, err = run(model, *QUICK, "--strength", 0.5, "--out", "refused")
    assert code == 2 and "its file does not say where its learning started" in err and not Path("refused").exists()
    known = replace(token, metadata={START: packed(token.vectors.flip(0))})
    save_learned_token(known, Path(f"{model.name}.safetensors"))
    assert run(model, *QUICK, "--strength", 1, "--out", "one")[0] == 0
    assert run(model, *QUICK, "--strength", 0.5, "--out", "half")[0] == 0
    plain, one, half = (_pixels(next(Path(folder).rglob("*.png"))) for folder in ("plain", "one", "half"))
    assert (plain == one).all() and (plain != half).any()
    assert run(model, *QUICK, "--strength", 2)[0] == 2


def test_a_prompt_is_a_folder_as_published(run: Run, model: Path) -> None:
    code, out, err = run(model, *QUICK, "--layout", "published", "--count", 2, "--out", "images")
    assert code == 0, err
    assert _made("images") == ["a_photo_of_a_{}_person/0.png", "a_photo_of_a_{}_person/1.png"]
    assert [Path(line) for line in out.splitlines()] == [Path("images") / name for name in _made("images")]


def test_only_missing_pictures_are_made(run: Run, model: Path) -> None:
    command = (model, *QUICK, "--layout", "published", "--count", 3, "--skip-existing")
    assert run(*command)[0] == 0
    home = Path("pictures/a_photo_of_a_{}_person")
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    (home / "1.png").unlink()
    (home / "0.png").write_bytes(b"somebody's own")
    code, out, err = run(*command)
    assert (code, out.split()) == (0, [str(home / "1.png")])
    assert "2 of 3 pictures are there already." in err
    assert (home / "1.png").read_bytes() == before["1.png"] and (home / "0.png").read_bytes() == b"somebody's own"
    assert run(*command)[:2] == (0, "")


def test_a_batch_makes_the_same_pictures(run: Run, model: Path) -> None:
    assert run(model, *QUICK, "--count", 5, "--out", "one")[0] == 0
    assert run(model, *QUICK, "--count", 5, "--batch-size", 2, "--out", "two")[0] == 0
    assert _made("one") == _made("two") and len(_made("one")) == 5
    for name in _made("one"):
        assert abs(_pixels(f"one/{name}") - _pixels(f"two/{name}")).max() <= 1
    first, second, *_ = _made("one")
    assert (_pixels(f"one/{first}") != _pixels(f"one/{second}")).any()


def test_a_batch_that_does_not_fit_is_made_one_by_one(
    run: Run, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, sizes = Sampler.pictures, []

    def small(sampler: Sampler, conditioning: Any, seeds: Any) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(sampler, conditioning, seeds)

    monkeypatch.setattr(Sampler, "pictures", small)
    code, out, err = run(tiny_models / "tiny-eps", *QUICK, "--count", 3, "--batch-size", 3)
    assert code == 0 and sizes == [3, 1, 1, 1] and len(out.splitlines()) == 3
    assert "not enough memory for 3 pictures at once" in err


PROMPTS = (
    'a {} person: eating <bread> in front of "the Eiffel Tower"? 1/2 | * \\',
    "A {} Person",
    "a {} person",
    "{} . ",
    "aux{}",
    "é{}" * 150,
    "é{}" * 150 + "!",
    "{}\u202e in 東京",
)


def test_every_prompt_has_a_folder_of_its_own() -> None:
    """That Windows and macOS take, too."""
    prompts = [PlacedPrompt.of(prompt, ["ann"]) for prompt in PROMPTS]
    planned = plan_pictures(prompts, Sampling(count=2), Path("out"), "published")
    folders = [picture.path.parent.name for picture in planned[::2]]
    assert [picture.path.parent.parent for picture in planned] == [Path("out")] * 16
    assert len({folder.casefold() for folder in folders}) == len(PROMPTS)
    for folder in folders:
        assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', folder) and folder == folder.rstrip(". ")
        assert len(folder.encode()) <= 160
    assert folders[1:3] == ["A_{}_Person", "a_{}_person-2"]
    alone = plan_pictures(prompts[6:7], Sampling(), Path("out"), "published")
    assert alone[0].path.parent.name == folders[6], "whatever else is asked for"


# A ControlNet


@pytest.fixture
def controlnet(model: Path, tmp_path: Path) -> Path:
    """The folder of one whose output is not zero, for `model`."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet: Any = UNet2DConditionModel.from_pretrained(model / "unet")
    torch.manual_seed(0)
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    for block in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(block.weight, std=0.3)
    net.save_pretrained(tmp_path / "controlnet")
    return tmp_path / "controlnet"


def test_a_controlnet_follows_its_picture(run: Run, model: Path, controlnet: Path) -> None:
    Image.linear_gradient("L").resize((200, 100)).save("edges.png")
    Image.radial_gradient("L").save("circle.png")
    command = (model, *QUICK, "--controlnet", controlnet, "--control-image")
    assert run(model, *QUICK, "--out", "plain")[0] == 0
    code, _, err = run(*command, "edges.png", "--out", "edges")
    assert code == 0, err
    assert run(*command, "circle.png", "--out", "circle", "--batch-size", 2, "--count", 2)[0] == 0
    assert run(*command, "circle.png", "--control-strength", 0, "--out", "none")[0] == 0
    pictures = {name: _pixels(f"{name}/{_made(name)[0]}") for name in ("plain", "edges", "circle", "none")}
    assert all(picture.shape == (64, 64, 3) for picture in pictures.values())
    apart = {name: abs(picture - pictures["plain"]).mean() for name, picture in pictures.items()}
    assert 10 * apart["none"] < apart["edges"] and 10 * apart["none"] < apart["circle"], apart
    assert (pictures["edges"] != pictures["circle"]).any()


def test_a_controlnet_of_another_family_is_refused(run: Run, tiny_models: Path, model: Path, controlnet: Path) -> None:
    other = tiny_models / ("tiny-xl" if model.name == "tiny-eps" else "tiny-eps")
    code, _, err = run(other, *QUICK, "--controlnet", controlnet, "--control-image", "me.png")
    assert code == 2 and "Choose a ControlNet of the same family" in err and len(err) <= 600


# The evaluation of Celeb Basis


def _read_as_celeb_basis(folder: Path) -> list[tuple[str, str, list[Path]]]:
    """Prompt, source photo and pictures, as its `GeneratedDataset` finds them (evaluation/base_class.py)."""
    prompts = (folder / "prompts.txt").read_text(encoding="utf-8").splitlines()
    lines = (folder / "in_image_paths.txt").read_text(encoding="utf-8").splitlines()
    sources = [re.findall(r"[a-zA-Z\d#.:/_-]+", line) for line in lines]
    ids = [re.findall(r"\d+", line) for line in (folder / "in_image_ids.txt").read_text(encoding="utf-8").splitlines()]
    found = []
    for number, prompt in enumerate(prompts):
        home = folder / f"imgs/{number:05d}_id{int(ids[number][0]):05d}_{prompt}"
        found.append((prompt, sources[number][0], sorted(home.iterdir())))
    return found


def test_celeb_basis_is_never_given_two_people(run: Run, tiny_models: Path) -> None:
    """It counts every file in a prompt's folder."""
    command = (tiny_models / "tiny-eps", *QUICK, "--layout", "celeb-basis", "--photo", "me.png")
    assert run(*command)[0] == 0
    before = _made("pictures")
    code, _, err = run(*command)
    assert code == 2 and "holds pictures already" in err and len(err) <= 600
    code, _, err = run(*command, "--skip-existing", "--count", 2)
    assert code == 0 and len(_made("pictures")) == len(before) + 1


def test_celeb_basis_finds_every_picture(run: Run, model: Path, tmp_path: Path) -> None:
    prompts = ("--prompt", "a photo of a {} person", "--prompt", "a {1} person, 50% {best quality}")
    code, _, err = run(model, *QUICK, "--layout", "celeb-basis", "--photo", "me.png", "--count", 2, *prompts)
    assert code == 0, err
    first, second = _read_as_celeb_basis(Path("pictures"))
    assert first[0] == "a photo of a sks person" and second[0] == "a sks person, 50% {best quality}"
    for _, source, pictures in (first, second):
        assert Path(source) == (tmp_path / "me.png").resolve()
        assert [path.name for path in pictures] == ["00000.png", "00001.png"]
        assert all(Image.open(path).mode == "RGB" for path in pictures)


REFUSED = {
    "no photo": (("--layout", "celeb-basis"), "needs --photo FILE"),
    "photo that is gone": (("--layout", "celeb-basis", "--photo", "gone.png"), "there is no file at 'gone.png'"),
    "photo with a space": (("--layout", "celeb-basis", "--photo", "my me.png"), "reads only paths of letters"),
    "two people": (
        ("bob.safetensors", "--layout", "celeb-basis", "--photo", "me.png", "--prompt", "{1} and {2}"),
        "2 tokens were given",
    ),
    "a prompt that is no folder": (
        ("--layout", "celeb-basis", "--photo", "me.png", "--prompt", "{}, 1/2"),
        "Prompt 1 cannot be the name of a folder",
    ),
    "a long prompt": (
        ("--layout", "celeb-basis", "--photo", "me.png", "--prompt", "{} " + "é" * 150),
        "its length",
    ),
    "a photo for nothing": (("--photo", "me.png"), "for --layout celeb-basis alone"),
    "a ControlNet alone": (("--controlnet", "somewhere"), "belong together"),
    "a picture of no ControlNet": (("--control-image", "me.png"), "belong together"),
    "a ControlNet that is gone": (("--controlnet", "gone", "--control-image", "me.png"), "which is not there"),
    "a ControlNet in a file": (("--controlnet", "me.png", "--control-image", "me.png"), "which is a file"),
    "an odd strength": (("--control-strength", "nan"), "--control-strength is nan"),
    "nothing at once": (("--batch-size", 0), "--batch-size is 0"),
    "a crowd at once": (("--batch-size", 10**9), "--batch-size is 1000000000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_options_are_said_at_once(case: str, run: Run) -> None:
    """The model is not there: what is said first was found before it was looked for."""
    Path("me.png").rename("my me.png") if "space" in case else None
    more, message = REFUSED[case]
    code, _, err = run(Path("nowhere/tiny-eps"), *more)
    assert code == 2 and message in err, err
    assert err.count("\n") == 1 and len(err) <= 600
    assert not Path("pictures").exists()
