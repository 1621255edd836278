"""Model folders as people have them: half precision alone, other families, half a download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossinit_core import InversionSettings, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from tests.tiny_models import make_tiny_xl

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def folder(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "tiny-eps", tmp_path / "model"))


@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_folder_of_one_variant_loads(folder: Path, variant: str) -> None:
    before = DiffusersBackbone.from_pretrained(folder)
    for part, stem in WEIGHTS.items():
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.{variant}.safetensors")
    after = DiffusersBackbone.from_pretrained(folder)
    ids = torch.arange(5)
    assert torch.equal(before.embed(ids), after.embed(ids))


def test_fp16_weights_in_bin_files_load(folder: Path) -> None:
    from safetensors.torch import load_file

    for part, stem in WEIGHTS.items():
        path = folder / part / f"{stem}.safetensors"
        name = "pytorch_model" if part == "text_encoder" else stem
        torch.save({key: value.half() for key, value in load_file(path).items()}, path.with_name(f"{name}.fp16.bin"))
        path.unlink()
    assert DiffusersBackbone.from_pretrained(folder).unet.dtype == torch.float32


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def _refiner(folder: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        (folder / part).rename(folder / f"{part}_2")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "unCLIP": (lambda f: _edit(f / "unet/config.json", class_embed_type="projection"), "unCLIP"),
    "refiner": (lambda f: _edit(f / "unet/config.json", addition_embed_type="text_time"), "SDXL family"),
    "inpainting": (lambda f: _edit(f / "unet/config.json", in_channels=9), "takes 9 channels"),
    "half of SDXL": (lambda f: (f / "text_encoder_2").mkdir(), "'tokenizer_2' is missing"),
    "refiner of SDXL": (_refiner, "the refiner of SDXL"),
    "SD3": (lambda f: (f / "text_encoder_3").mkdir(), "SD3"),
    "transformer": (lambda f: (f / "transformer").mkdir(), "SD3, Flux"),
    "empty": (_empty, "it is empty"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "'vae' is missing"),
    "no weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "holds no weights"),
    "pointer": (
        lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\n"
        ),
        "git lfs pull",
    ),
    "list": (lambda f: (f / "unet/config.json").write_text("[]", encoding="utf-8"), "JSON object"),
    "list for text": (lambda f: (f / "text_encoder/config.json").write_text("[]", encoding="utf-8"), "JSON object"),
    "list for schedule": (
        lambda f: (f / "scheduler/scheduler_config.json").write_text("[]", encoding="utf-8"),
        "JSON object",
    ),
    "cut": (lambda f: (f / "text_encoder/model.safetensors").write_bytes(b"\0" * 50), "cannot be loaded"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_folder_that_does_not_do_says_why(folder: Path, case: str) -> None:
    spoil, message = SPOILT[case]
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        DiffusersBackbone.from_pretrained(folder)
    assert len(str(caught.value)) <= 600


def test_a_checkpoint_or_hub_name_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "v1-5.ckpt"
    file.write_bytes(b"x")
    with pytest.raises(ValueError, match="checkpoint file"):
        DiffusersBackbone.from_pretrained(file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="hf download stabilityai/stable-diffusion-2-1 "):
        DiffusersBackbone.from_pretrained("stabilityai/stable-diffusion-2-1")
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON object"):
        DiffusersBackbone.from_pretrained(tmp_path)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_are_the_same_model(folder: Path, variant: str | None) -> None:
    """As `save_pretrained` writes large models: `-00001-of-0000N` and an index."""
    before = DiffusersBackbone.from_pretrained(folder)
    for part, stem in WEIGHTS.items():
        (folder / part / f"{stem}.safetensors").unlink()
        getattr(before, part).save_pretrained(folder / part, max_shard_size="200KB", variant=variant)
        assert len(list((folder / part).glob("*-of-*.safetensors"))) >= 2
        assert list((folder / part).glob("*.index*.json"))
    after = DiffusersBackbone.from_pretrained(folder)
    for part in WEIGHTS:
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)
    learned = []
    for backbone in (before, after):
        settings = InversionSettings(steps=1, batch_size=1, resolution=64)
        start = cross_initialize_words(backbone, "face")
        learned.append(invert(backbone, start, settings, images=torch.full((1, 64, 64, 3), 0.5)).token.vectors)
    # Where a weight lies in memory changes the order of a sum.
    torch.testing.assert_close(*learned, atol=1e-5, rtol=0)


def test_a_missing_shard_is_named(folder: Path) -> None:
    backbone = DiffusersBackbone.from_pretrained(folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    backbone.unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    next((folder / "unet").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"unet' cannot be loaded.*Download the model again") as caught:
        DiffusersBackbone.from_pretrained(folder)
    assert len(str(caught.value)) <= 600


JUNK: dict[str, tuple[str, str, object]] = {
    "no number for a width": ("text_encoder/config.json", "hidden_size", "x"),
    "no length of prompts": ("tokenizer/tokenizer_config.json", "model_max_length", {}),
    "no scale of latents": ("vae/config.json", "scaling_factor", None),
    "text for a schedule": ("scheduler/scheduler_config.json", "beta_start", "x"),
    "a list for a prediction": ("scheduler/scheduler_config.json", "prediction_type", [1]),
    "blocks of no kind": ("unet/config.json", "down_block_types", 3),
    "widths in a list": ("unet/config.json", "cross_attention_dim", [32, 32]),
}


@pytest.mark.parametrize("case", JUNK)
def test_a_wrong_value_in_a_configuration_is_said(case: str, folder: Path) -> None:
    """The command line shows a traceback for all but these kinds of errors: it would be a bug of ours."""
    path, key, value = JUNK[case]
    _edit(folder / path, **{key: value})
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        DiffusersBackbone.from_pretrained(folder)
    assert len(str(caught.value)) <= 600


def test_a_tokenizer_of_another_model_is_said(folder: Path) -> None:
    """Its tokens would be rows that the text encoder does not have."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["anna_v0"])
    tokenizer.save_pretrained(folder / "tokenizer")
    with pytest.raises(ValueError, match="do not belong together"):
        DiffusersBackbone.from_pretrained(folder)


# SDXL


@pytest.fixture
def xl(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "tiny-xl", tmp_path / "xl"))


def _more_tokens(folder: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["anna_v0"])
    tokenizer.save_pretrained(folder)


def _refiner_of_sdxl(folder: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)


SPOILT_XL: dict[str, tuple[Callable[[Path], object], str]] = {
    "refiner": (_refiner_of_sdxl, "is the refiner of SDXL, a special version"),
    "inpainting": (lambda f: _edit(f / "unet/config.json", in_channels=9), "takes 9 channels"),
    "editing": (lambda f: _edit(f / "unet/config.json", in_channels=8), "takes 8 channels"),
    "no second tokenizer": (lambda f: shutil.rmtree(f / "tokenizer_2"), "'tokenizer_2' is missing"),
    "no second encoder": (lambda f: shutil.rmtree(f / "text_encoder_2"), "'text_encoder_2' is missing"),
    "no weights": (lambda f: (f / "text_encoder_2/model.safetensors").unlink(), "text_encoder_2' holds no weights"),
    "4 bits": (
        lambda f: _edit(f / "unet/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "is quantized .its unet: bitsandbytes.",
    ),
    "quantized text": (
        lambda f: _edit(f / "text_encoder_2/config.json", quantization_config={"quant_method": "x" * 9000}),
        "is quantized .its text_encoder_2",
    ),
    "odd quantization": (lambda f: _edit(f / "vae/config.json", quantization_config=[1]), "is quantized"),
    "EDM": (
        lambda f: _edit(f / "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"),
        "samples by EDM .its scheduler is EDMEulerScheduler.",
    ),
    "flow": (
        lambda f: _edit(f / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "samples by flow matching",
    ),
    "more tokens": (lambda f: _more_tokens(f / "tokenizer_2"), "do not belong together|other tokens"),
    "no sizes": (lambda f: _edit(f / "unet/config.json", addition_embed_type=None), "its UNet takes 'None'"),
    "sizes of a refiner": (
        lambda f: _edit(f / "unet/config.json", projection_class_embeddings_input_dim=128 + 5 * 256),
        "cannot be loaded|numbers beside the prompt",
    ),
}


@pytest.mark.parametrize("case", SPOILT_XL)
def test_an_sdxl_folder_that_does_not_do_says_why(xl: Path, case: str) -> None:
    spoil, message = SPOILT_XL[case]
    spoil(xl)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        DiffusersBackbone.from_pretrained(xl)
    assert len(str(caught.value)) <= 600
    assert "\n" not in str(caught.value)


def test_an_sdxl_folder_of_half_precision_loads(xl: Path) -> None:
    """As SDXL's own repository is downloaded with `--include *.fp16.*`."""
    before = DiffusersBackbone.from_pretrained(xl)
    for part, stem in {**WEIGHTS, "text_encoder_2": "model"}.items():
        (xl / part / f"{stem}.safetensors").rename(xl / part / f"{stem}.fp16.safetensors")
    after = DiffusersBackbone.from_pretrained(xl)
    start = [cross_initialize_words(backbone, "human face") for backbone in (before, after)]
    assert torch.equal(*start)


def test_an_lcm_unet_learns_with_a_warning(tmp_path: Path) -> None:
    """It takes the guidance as a number, and works without."""
    folder = make_tiny_xl(tmp_path / "unet-of-few-words", {"time_cond_proj_dim": 32})
    backbone = DiffusersBackbone.from_pretrained(folder)
    (warning,) = backbone.warnings()
    assert "(LCM), says its configuration" in warning
    settings = InversionSettings(steps=2, batch_size=1, resolution=64)
    start = cross_initialize_words(backbone, "face")
    learned = invert(backbone, start, settings, images=torch.full((1, 64, 64, 3), 0.5)).token.vectors
    assert torch.isfinite(learned).all() and not torch.equal(learned, start)


@pytest.mark.parametrize(
    "unet",
    [
        {
            "transformer_layers_per_block": [1, [2, 2], [3, 3]],
            "reverse_transformer_layers_per_block": [[3, 3, 4], [2, 1, 1], 1],
            "mid_block_type": "UNetMidBlock2D",
        },
        {"layers_per_block": 1, "mid_block_type": None},
    ],
    ids=["as SSD-1B", "as KOALA"],
)
def test_smaller_children_of_sdxl_learn(tmp_path: Path, unet: dict[str, object]) -> None:
    backbone = DiffusersBackbone.from_pretrained(make_tiny_xl(tmp_path / "small", unet))
    start = cross_initialize_words(backbone, "face")
    learned = []
    for fused in (False, True):
        backbone.fused = fused
        settings = InversionSettings(steps=2, batch_size=1, resolution=64, precision="fp32")
        learned.append(invert(backbone, start, settings, images=torch.full((1, 64, 64, 3), 0.5)).token.vectors)
    assert not torch.equal(learned[0], start)
    torch.testing.assert_close(*learned, atol=1e-4, rtol=0)
