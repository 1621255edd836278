"""The command line on SDXL: presets of the family, both encoders, pictures in every precision, and what it says about models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from crossinit_core import (
    InversionSettings,
    LearnedToken,
    cli,
    cross_initialize_words,
    invert,
    load_learned_token,
    save_learned_token,
)
from crossinit_core.commands import train as train_command
from crossinit_core.diffusers_backbone import DiffusersBackbone, resolution_of, widths_of
from tests.overflowing_vae import make_overflowing
from tests.tiny_checkpoint import sdxl_state
from tests.tiny_models import make_tiny_xl

Run = Callable[..., tuple[int, str, str]]
WIDTHS = (64, 128)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder that has a photo `me.png`: exit code, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("me.png")

    def call(*arguments: object) -> tuple[int, str, str]:
        return cli.main([str(argument) for argument in arguments]), *capsys.readouterr()

    return call


@pytest.fixture
def model(tiny_models: Path) -> Path:
    return tiny_models / "tiny-xl"


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With text encoders as wide as SDXL's, which tell its family."""
    return make_tiny_xl(tmp_path_factory.mktemp("wide") / "sd_xl_base", {"sample_size": 128}, widths=(768, 1280))


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def _token(name: str = "ann", seed: int = 0, **facts: str) -> Path:
    vectors = torch.randn(2, sum(WIDTHS), generator=torch.Generator().manual_seed(seed)) / 10
    token = LearnedToken(vectors, name, "width-64+128", facts, widths=WIDTHS)
    return save_learned_token(token, Path(f"{name}.safetensors"))


def _pixels(out: str) -> Any:
    """Of the last picture that was printed."""
    return np.asarray(Image.open(out.split("\n")[-2])).astype(int)


SMALL = ("--resolution", 64, "--batch-size", 1)


# train


def test_a_face_is_learned_on_sdxl(run: Run, model: Path) -> None:
    code, out, err = run("train", model, "me.png", "--steps", 2, *SMALL, "--vectors", 3)
    assert code == 0, err
    token = load_learned_token("me.safetensors")
    assert (token.vectors.shape, token.widths) == ((3, 192), WIDTHS)
    assert "me.safetensors: 3 vectors, 2 steps" in out
    assert "width-64+128: 2 steps, batch 1, 64 px, rate 0.005" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "SDXL: 400 steps, batch 4, 768 px, rate 0.02"),
        (("--preset", "fast"), "SDXL: 50 steps, batch 4, 768 px, rate 0.04"),
        (("--steps", 7, "--resolution", 1024, "--learning-rate", 0.01), "SDXL: 7 steps, batch 4, 1024 px, rate 0.01"),
    ],
)
def test_the_preset_is_that_of_the_family(
    run: Run, wide: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], said: str
) -> None:
    seen: list[InversionSettings] = []

    def stop(_backbone: object, _v0: object, settings: InversionSettings, **_: object) -> None:
        seen.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "invert", stop)
    code, _, err = run("train", wide, "me.png", *options)
    assert code == 130
    assert said in err.splitlines()
    assert (seen[0].regularizer, seen[0].flip_probability) == ("squared", 0)


def test_given_options_replace_the_presets(run: Run, wide: Path) -> None:
    options = ("--regularizer", "distance", "--flip-probability", 0.25, "--seed", 3)
    code, _, err = run("train", wide, "me.png", "--steps", 1, *SMALL, *options)
    assert code == 0, err
    facts = load_learned_token("me.safetensors").metadata
    assert (facts["crossinit.steps"], facts["crossinit.seed"], facts["crossinit.base"]) == ("1", "3", "sdxl")
    other = run("train", wide, "me.png", "--steps", 1, *SMALL, "--flip-probability", 2)
    assert other[0] == 2 and "flip_probability is 2.0" in other[2]
    assert run("train", wide, "me.png", "--steps", 0)[2].count("\n") == 1


def test_the_start_may_be_what_the_unet_sees(run: Run, model: Path) -> None:
    starts = {}
    for states in ("last", "context"):
        code, _, err = run("train", model, "me.png", "--steps", 1, *SMALL, "--states", states, "--words", "human face")
        assert code == 0, err
        starts[states] = load_learned_token("me.safetensors")
        Path("me.safetensors").unlink()
    assert not torch.allclose(starts["last"].vectors, starts["context"].vectors, atol=0.1)
    assert starts["context"].metadata["crossinit.initialization"].endswith("(what the UNet sees) from words")
    assert "(" not in starts["last"].metadata["crossinit.initialization"]


def test_a_model_says_its_family_unloaded(wide: Path, model: Path, tiny_models: Path, tmp_path: Path) -> None:
    assert [widths_of(path) for path in (wide, model, tiny_models / "tiny-eps")] == [(768, 1280), WIDTHS, (32,)]
    assert widths_of(tmp_path / "gone") == ()
    assert resolution_of(model) == 64


def test_a_unet_in_half_precision_learns_the_same(model: Path, tmp_path: Path) -> None:
    """As on a GPU, where a run learns on copies in half precision. A folder and a file."""
    save_file(sdxl_state(model), tmp_path / "model.safetensors")
    settings = InversionSettings(steps=2, batch_size=1, resolution=64, precision="fp16")
    learned = []
    for path, dtype in ((model, None), (model, torch.float16), (tmp_path / "model.safetensors", torch.float16)):
        backbone = DiffusersBackbone.from_pretrained(path, unet_dtype=dtype)
        assert (backbone.unet.dtype, backbone.text_encoder_2.dtype) == (dtype or torch.float32, torch.float32)
        backbone.fused = True
        start = cross_initialize_words(backbone, "face")
        learned.append(invert(backbone, start, settings, images=torch.full((1, 64, 64, 3), 0.5)).token.vectors)
    assert not torch.equal(learned[0], start)
    assert torch.equal(learned[0], learned[1])
    torch.testing.assert_close(learned[2], learned[0], atol=1e-3, rtol=0)


# generate


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_person_is_drawn_on_sdxl(run: Run, model: Path, precision: str) -> None:
    options = ("--steps", 2, "--precision", precision, "--prompt", "a photo of a {} person")
    pictures = []
    for seed, name in enumerate(("ann", "bob")):
        code, out, err = run("generate", model, _token(name, seed), *options)
        assert code == 0, err
        pictures.append(_pixels(out))
    assert pictures[0].shape == (64, 64, 3)
    assert pictures[0].std() > 5
    assert (pictures[0] != pictures[1]).any()


def test_a_picture_has_the_size_asked_for(run: Run, model: Path) -> None:
    code, out, err = run("generate", model, _token(), "--steps", 1, "--resolution", 136)
    assert code == 0, err
    assert _pixels(out).shape == (136, 136, 3)


def test_both_encoders_columns_are_drawn(run: Run, model: Path) -> None:
    first = load_learned_token(_token())
    pictures = []
    for change in (slice(0, 0), slice(0, 64), slice(64, 192)):
        vectors = first.vectors.clone()
        vectors[:, change] += 0.5
        save_learned_token(LearnedToken(vectors, "eve", first.base, widths=WIDTHS), Path("eve.safetensors"))
        code, out, err = run("generate", model, "eve.safetensors", "--steps", 1)
        assert code == 0, err
        pictures.append(_pixels(out))
    assert (pictures[0] != pictures[1]).any() and (pictures[0] != pictures[2]).any()


def test_the_end_of_a_long_prompt_counts(run: Run, model: Path) -> None:
    pictures = []
    for seed, name in enumerate(("ann", "bob")):
        prompt = "red " * 80 + "{} person"
        code, out, err = run("generate", model, _token(name, seed), "--steps", 1, "--prompt", prompt)
        assert code == 0, err
        pictures.append(_pixels(out))
    assert (pictures[0] != pictures[1]).any()


def test_a_token_of_another_family_is_refused(run: Run, folder: Path) -> None:
    """Before the model is loaded: its weights are not there."""
    save_learned_token(LearnedToken(torch.ones(2, 32), "old", "width-32"), Path("old.safetensors"))
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    code, _, err = run("generate", folder, "old.safetensors")
    assert code == 2
    assert "CLIP has width 64 + 128" in err and err.count("\n") == 1


def test_zero_terminal_snr_is_drawn_from_pure_noise(run: Run, tmp_path: Path) -> None:
    zero: dict[str, Any] = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    folder = make_tiny_xl(tmp_path / "noob", **zero)
    found = DiffusersBackbone.from_pretrained(folder)
    assert (found.prediction_type, float(found.alphas_cumprod()[-1])) == ("v_prediction", 0)
    code, out, err = run("generate", folder, _token(), "--steps", 2)
    assert code == 0, err
    assert _pixels(out).std() > 5
    code, _, err = run("train", folder, "me.png", "--steps", 2, *SMALL)
    assert code == 0, err
    assert torch.isfinite(load_learned_token("me.safetensors").vectors).all()


# A VAE that overflows in float16


@pytest.fixture
def overflowing(folder: Path) -> Path:
    return make_overflowing(folder)


def test_a_vae_that_overflows_draws_the_same(run: Run, model: Path, overflowing: Path) -> None:
    vae = DiffusersBackbone.from_pretrained(overflowing, dtype=torch.float16).vae
    with torch.no_grad():
        decoded = vae.decode(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()).sample
    assert not torch.isfinite(decoded).all(), "this VAE does not overflow"
    pictures = []
    for folder in (model, overflowing):
        code, out, err = run("generate", folder, _token(), "--steps", 2, "--precision", "fp16")
        assert code == 0, err
        pictures.append(_pixels(out))
    assert abs(pictures[0] - pictures[1]).max() <= 1


def test_a_vae_that_overflows_encodes_the_same(model: Path, overflowing: Path) -> None:
    photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    folders = (model, overflowing)
    half, scaled = (DiffusersBackbone.from_pretrained(folder, dtype=torch.float16) for folder in folders)
    with torch.no_grad():
        raw = scaled.vae.encode(photo.movedim(-1, 1).half() * 2 - 1).latent_dist.mean
    assert not torch.isfinite(raw).all(), "this VAE does not overflow"
    torch.testing.assert_close(scaled.posterior(photo).mean, half.posterior(photo).mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scaled.posterior(photo).std, half.posterior(photo).std, atol=1e-3, rtol=1e-3)


# What is said about models


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sdxl-turbo", "Turbo"), ("SDXL-Lightning", "Lightning"), ("LCM_Dreamshaper_v7", "LCM"), ("Hyper-SDXL", "Hyper")],
)
def test_a_distilled_model_learns_with_a_warning(run: Run, folder: Path, name: str, kind: str) -> None:
    code, _, err = run("train", folder.rename(folder.with_name(name)), "me.png", "--steps", 1, *SMALL)
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if "distilled" in line]
    assert f"The model '{name}' was distilled to few steps ({kind}), says its name." in line
    assert "was not measured. Learn on the base model" in line
    assert len(line) <= 600


def test_a_name_in_the_hubs_cache_counts(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "hub/models--stabilityai--sdxl-turbo/snapshots/71153311d3dbb46851df1931d3ca6e939de83304"
    place.parent.mkdir(parents=True)
    found = DiffusersBackbone.from_pretrained(folder.rename(place))
    assert found.checkpoint == "sdxl-turbo"
    assert "(Turbo)" in found.warnings()[0]


def test_a_scheduler_of_few_steps_is_told(folder: Path) -> None:
    _edit(folder / "scheduler/scheduler_config.json", _class_name="LCMScheduler")
    (line,) = DiffusersBackbone.from_pretrained(folder).warnings()
    assert "(LCM), says its configuration" in line


def test_nothing_is_said_of_an_ordinary_model(model: Path) -> None:
    assert DiffusersBackbone.from_pretrained(model).warnings() == []


SCHEDULERS: dict[str, tuple[dict[str, object], str]] = {
    "Playground 2.5": ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "EDM"),
    "CosXL": ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "EDM"),
    "CosXL in Euler": ({"timestep_type": "continuous", "prediction_type": "v_prediction"}, "EDM"),
    "flow": ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
    "flow in DPM": ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "flow matching"),
    "flow prediction": ({"prediction_type": "flow_prediction"}, "flow matching"),
    "sample": ({"prediction_type": "sample"}, "predicts 'sample'"),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_other_ways_to_sample_are_refused(run: Run, folder: Path, case: str) -> None:
    """Before the weights are read: there are none."""
    values, message = SCHEDULERS[case]
    _edit(folder / "scheduler/scheduler_config.json", **values)
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 50)
    code, _, err = run("train", folder, "me.png", "--steps", 1, *SMALL)
    assert code == 2
    assert message in err and err.count("\n") == 1 and len(err) <= 600
