"""Checkpoint files on the command line: no network, and the same model that ComfyUI makes of them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossinit_core import cross_initialize_words
from crossinit_core.diffusers_backbone import DiffusersBackbone, resolution_of, widths_of
from crossinit_core.models.compact_folder import MERGES
from devtools.standins.files import make_sd1_checkpoint, make_sd2_checkpoint
from devtools.standins.sdxl import SSD1B_UNET, VEGA_UNET, make_sdxl_checkpoint
from devtools.standins.unets import UNetShape
from tests.tiny_checkpoint import sdxl_state
from tests.tiny_models import make_tiny_xl

slow = pytest.mark.slow
SMALL = UNetShape(context_dim=768, linear_projection=False, model_channels=64)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@slow
@pytest.mark.parametrize(
    ("make", "options", "facts"),
    [
        (make_sd1_checkpoint, {}, ("sd1", "epsilon", 512)),
        (make_sd2_checkpoint, {"prediction": "epsilon"}, ("sd2", "epsilon", 512)),
        (make_sd2_checkpoint, {"prediction": "v"}, ("sd2", "v_prediction", 768)),
        (make_sdxl_checkpoint, {}, ("sdxl", "epsilon", 1024)),
        (make_sdxl_checkpoint, {"prediction": "v", "zero_terminal_snr": True}, ("sdxl", "v_prediction", 1024)),
        (make_sdxl_checkpoint, {"unet": SSD1B_UNET}, ("sdxl", "epsilon", 1024)),
        (make_sdxl_checkpoint, {"unet": VEGA_UNET}, ("sdxl", "epsilon", 1024)),
    ],
    ids=["SD 1.x", "SD 2.x", "SD 2.x of v", "SDXL", "SDXL of v with zero SNR", "SSD-1B", "Segmind-Vega"],
)
def test_it_is_the_model_that_comfyui_makes_of_it(
    pack: ModuleType, comfyui: Path, tmp_path: Path, make: Callable[..., Path], options: dict[str, Any], facts: Any
) -> None:
    import comfy.sd

    path = make(tmp_path / "model.safetensors", **options)
    ours = DiffusersBackbone.from_pretrained(path)
    assert (ours.base, ours.prediction_type, ours.resolution) == facts
    assert (resolution_of(path), ours.checkpoint) == (facts[2], "model")
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
        theirs = pack.nodes.host.backbone.ComfyBackbone(model, clip, vae)
        text = "a photo of Angelina Jolie, naïve 2 faces"
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert (ours.bos, ours.eos, ours.pads, ours.widths) == (theirs.bos, theirs.eos, theirs.pads, theirs.widths)
        ids = torch.tensor([ours.bos, *ours.tokenize(text), ours.eos])
        end = torch.tensor([len(ids) - 1])
        ids = torch.nn.functional.pad(ids, (0, 77 - len(ids)), value=ours.pad)
        assert torch.equal(ours.embed(ids), theirs.embed(ids))
        # ComfyUI keeps text encoders in half precision.
        states = [backbone.last_states(backbone.embed(ids)[None]) for backbone in (theirs, ours)]
        torch.testing.assert_close(*states, atol=2e-2, rtol=2e-2)
        encoded, other = (backbone.encode(backbone.embed(ids)[None], end) for backbone in (ours, theirs))
        torch.testing.assert_close(other.context, encoded.context, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(other.pooled, encoded.pooled, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(ours.alphas_cumprod(), theirs.alphas_cumprod(), atol=1e-5, rtol=1e-4)
        photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours.posterior(photo).mean, theirs.posterior(photo).mean, atol=1e-2, rtol=1e-2)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        sizes = torch.tensor([[1024.0, 1024, 0, 0, 64, 64]]) if ours.base == "sdxl" else None
        predicted = []
        for backbone in (ours, theirs):
            with backbone.training(precision="fp32", gradient_checkpointing=False) as frozen:
                predicted.append(frozen.predict(latents, torch.tensor([500]), encoded, sizes).cpu())
    torch.testing.assert_close(*predicted, atol=1e-3, rtol=1e-3)


@slow
def test_an_old_ckpt_is_the_same_model(tmp_path: Path) -> None:
    """With its weights under `state_dict`, numbers beside them, and the text encoder's old names."""
    path = make_sd1_checkpoint(tmp_path / "model.safetensors", unet=SMALL)
    state = {key.replace("transformer.text_model.", "transformer."): value for key, value in load_file(path).items()}
    state["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save({"global_step": 470000, "state_dict": state}, tmp_path / "model.ckpt")
    new, old = (DiffusersBackbone.from_pretrained(tmp_path / name) for name in ("model.safetensors", "model.ckpt"))
    for part in ("text_encoder", "unet", "vae"):
        before, after = getattr(new, part).state_dict(), getattr(old, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


# SDXL


@pytest.fixture(scope="module")
def xl(tiny_models: Path) -> dict[str, torch.Tensor]:
    """The tiny model with SDXL's structure as a checkpoint file has it."""
    return sdxl_state(tiny_models / "tiny-xl")


PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")


def _assert_same(one: DiffusersBackbone, other: DiffusersBackbone) -> None:
    for part in PARTS:
        before, after = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before), part


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_sdxl_is_the_model_of_its_folder(
    xl: dict[str, torch.Tensor], tiny_models: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    # Numbers that older files hold beside the weights.
    state = {**xl, "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    state["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        save_file(state, path)
    found, folder = DiffusersBackbone.from_pretrained(path), DiffusersBackbone.from_pretrained(tiny_models / "tiny-xl")
    _assert_same(found, folder)
    assert (found.widths, found.pads, found.bos, found.eos) == (folder.widths, folder.pads, folder.bos, folder.eos)
    assert (found.resolution, resolution_of(path), widths_of(path)) == (1024, 1024, (64, 128))
    assert (found.prediction_type, found.vae.config.scaling_factor) == ("epsilon", 0.13025)
    torch.testing.assert_close(found.alphas_cumprod(), folder.alphas_cumprod())
    start = [cross_initialize_words(backbone, "human face") for backbone in (found, folder)]
    assert torch.equal(*start)
    ids = torch.tensor([found.bos, *found.tokenize("a face"), found.eos, *[0] * 73])[None]
    encoded = found.encode(found.embed(ids), torch.tensor([3]))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    predicted = []
    for backbone in (found, folder):
        with backbone.training(precision="fp32", gradient_checkpointing=False) as frozen:
            predicted.append(frozen.predict(latents, torch.tensor([500]), encoded, sizes).detach())
    # Where a weight lies in memory changes the order of a sum.
    torch.testing.assert_close(*predicted, atol=1e-5, rtol=1e-5)


def test_sdxl_in_half_precision_is_kept_so(xl: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in xl.items()}, tmp_path / "model.safetensors")
    found = DiffusersBackbone.from_pretrained(tmp_path / "model.safetensors", dtype=torch.float16)
    for part in PARTS:
        assert {value.dtype for value in getattr(found, part).parameters()} == {torch.float16}
    assert torch.isfinite(cross_initialize_words(found, "face")).all()


@pytest.mark.parametrize(
    ("keys", "prediction", "zero"),
    [((), "epsilon", False), (("v_pred",), "v_prediction", False), (("v_pred", "ztsnr"), "v_prediction", True)],
)
def test_keys_say_what_sdxl_predicts(
    xl: dict[str, torch.Tensor], tmp_path: Path, keys: tuple[str, ...], prediction: str, zero: bool
) -> None:
    """As NoobAI's v-prediction checkpoints hold them: empty tensors."""
    save_file({**xl, **{key: torch.tensor([]) for key in keys}}, tmp_path / "noob.safetensors")
    found = DiffusersBackbone.from_pretrained(tmp_path / "noob.safetensors")
    assert found.prediction_type == prediction
    assert (found.alphas_cumprod()[-1] == 0) == zero


def test_a_v_prediction_name_without_its_key_is_told(xl: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for keys, warned in (((), True), (("v_pred",), False)):
        path = tmp_path / "noobaiXL_vPred10Version.safetensors"
        save_file({**xl, **{key: torch.tensor([]) for key in keys}}, path)
        warnings = DiffusersBackbone.from_pretrained(path).warnings()
        assert [("predicts noise" in line, len(line) <= 600) for line in warnings] == [(True, True)] * warned


SMALLER: dict[str, dict[str, Any]] = {
    # As segmind/SSD-1B: fewer transformer blocks, not alike in a level, and a middle without any.
    "SSD-1B": {
        "transformer_layers_per_block": [1, [2, 2], [3, 3]],
        "reverse_transformer_layers_per_block": [[3, 3, 4], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    # As segmind/Segmind-Vega: no middle block.
    "Segmind-Vega": {
        "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
        "mid_block_type": None,
    },
    # As etri-vilab/koala-700m: one residual block a level.
    "KOALA": {"layers_per_block": 1, "transformer_layers_per_block": [1, 2, 5], "mid_block_type": None},
}


@pytest.mark.parametrize("name", SMALLER)
def test_smaller_children_of_sdxl_load(name: str, tmp_path: Path) -> None:
    folder = make_tiny_xl(tmp_path / "folder", SMALLER[name])
    save_file(sdxl_state(folder, SMALLER[name].get("layers_per_block", 2)), tmp_path / "model.safetensors")
    _assert_same(*(DiffusersBackbone.from_pretrained(tmp_path / name) for name in ("model.safetensors", "folder")))


def test_weights_without_a_place_are_not_dropped(xl: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """diffusers leaves out what it does not know, and the model would be another one."""
    extra = f"{UNET}input_blocks.4.1.transformer_blocks.7.attn1.to_q.weight"
    save_file({**xl, extra: torch.zeros(128, 128)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded"):
        DiffusersBackbone.from_pretrained(tmp_path / "model.safetensors")


UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
VAE = "first_stage_model.decoder.conv_in.weight"


def _of(*keys: str, channels: int = 4) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(8, channels, 3, 3) if key == FIRST else torch.zeros(2) for key in keys}


LABEL = f"{UNET}label_emb.0.0.weight"
TEXTS = ("conditioner.embedders.0.transformer.x.weight", "conditioner.embedders.1.model.ln_final.weight")
SDXL = (FIRST, VAE, LABEL, *TEXTS)


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "half of SDXL": (_of(*SDXL), "its weights are not all there"),
    "refiner": (_of(FIRST, VAE, LABEL, "conditioner.embedders.0.model.ln_final.weight"), "is the refiner of SDXL"),
    "SDXL for inpainting": (_of(*SDXL, channels=9), "takes 9 channels.*special version"),
    "SDXL for editing": (_of(*SDXL, channels=8), "takes 8 channels.*special version"),
    "Playground 2.5": (_of(*SDXL, "edm_mean", "edm_std"), "is Playground 2.5"),
    "CosXL": (_of(*SDXL, "edm_vpred.sigma_max", "edm_vpred.sigma_min"), "is CosXL"),
    "float8": ({**_of(*SDXL), f"{UNET}out.2.weight": torch.zeros(2).to(torch.float8_e4m3fn)}, "of float8_e4m3fn"),
    "float8 in text": ({**_of(*SDXL), TEXTS[0]: torch.zeros(2).to(torch.float8_e5m2)}, "is quantized"),
    "nf4": ({**_of(*SDXL), f"{UNET}out.2.weight": torch.zeros(2, dtype=torch.uint8)}, "of uint8"),
    "SDXL without CLIP-G": (_of(FIRST, VAE, LABEL, TEXTS[0]), r"no text encoder 'conditioner\.embedders\.1"),
    "SDXL without CLIP-L": (_of(FIRST, VAE, LABEL, TEXTS[1]), r"no text encoder 'conditioner\.embedders\.0"),
    "SDXL without VAE": (_of(FIRST, LABEL, *TEXTS), "holds no VAE"),
    "SDXL's text alone": (_of(FIRST, VAE, *TEXTS), "but not its UNet"),
    "inpainting": (_of(FIRST, TEXT, VAE, channels=9), "takes 9 channels.*special version"),
    "unCLIP": (_of(FIRST, TEXT, VAE, f"{UNET}label_emb.0.0.weight"), "unCLIP, a special version"),
    "LoRA": (_of("lora_unet_down_blocks_0.lora_up.weight"), "is a LoRA"),
    "VAE alone": (_of(VAE), "not a checkpoint of SD 1.x, SD 2.x or SDXL"),
    "UNet alone": (_of(FIRST, VAE), "holds no text encoder"),
    "no VAE": (_of(FIRST, TEXT), "holds no VAE"),
    "half of it": (_of(FIRST, TEXT, VAE), "its weights are not all there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_of_something_else_is_named(case: str, tmp_path: Path) -> None:
    tensors, message = REFUSED[case]
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "model.ckpt")
    for name in ("model.safetensors", "model.ckpt"):
        with pytest.raises(ValueError, match=message) as caught:
            DiffusersBackbone.from_pretrained(tmp_path / name)
        assert name in str(caught.value)
        assert len(str(caught.value)) <= 600 and "\n" not in str(caught.value)
        assert (resolution_of(tmp_path / name), widths_of(tmp_path / name)) in ((512, ()), (1024, ()))


class _Foreign:
    def __reduce__(self) -> Any:
        return (print, ("foreign code ran",))


def test_foreign_code_in_a_ckpt_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": _Foreign()}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"could run foreign code.*Use a \.safetensors file"):
        DiffusersBackbone.from_pretrained(tmp_path / "model.ckpt")
    assert "foreign" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"x", b"PK\3\4" + b"\0" * 60, b"\x40" + b"\0" * 7 + b"{" * 60, b"\x80\2}"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_broken_file_is_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"model{suffix}' (cannot be read|is damaged)") as caught:
        DiffusersBackbone.from_pretrained(path)
    assert len(str(caught.value)) <= 600


def test_the_tokenizer_is_clips(comfyui: Path) -> None:
    """The merges are those that ComfyUI has, line by line."""
    theirs = comfyui / "comfy" / "sd1_tokenizer" / "merges.txt"
    assert MERGES.read_text(encoding="utf-8").split() == theirs.read_text(encoding="utf-8").split()
