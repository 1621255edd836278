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

from crossinit_core.backbone import Encoded
from crossinit_core.diffusers_backbone import DiffusersBackbone, resolution_of
from crossinit_core.models.compact_folder import MERGES
from devtools.standins.files import make_sd1_checkpoint, make_sd2_checkpoint
from devtools.standins.unets import UNetShape

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
    ],
    ids=["SD 1.x", "SD 2.x", "SD 2.x of v"],
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
        assert (ours.bos, ours.eos, ours.pad) == (theirs.bos, theirs.eos, theirs.pad)
        ids = torch.tensor([ours.bos, *ours.tokenize(text), ours.eos])
        ids = torch.nn.functional.pad(ids, (0, 77 - len(ids)), value=ours.pad)
        assert torch.equal(ours.embed(ids), theirs.embed(ids))
        # ComfyUI keeps text encoders in half precision.
        context = ours.last_states(ours.embed(ids)[None])
        torch.testing.assert_close(theirs.last_states(theirs.embed(ids)[None]), context, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(ours.alphas_cumprod(), theirs.alphas_cumprod(), atol=1e-5, rtol=1e-4)
        photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours.posterior(photo).mean, theirs.posterior(photo).mean, atol=1e-2, rtol=1e-2)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        predicted = []
        for backbone in (ours, theirs):
            with backbone.training(precision="fp32", gradient_checkpointing=False) as frozen:
                predicted.append(frozen.predict(latents, torch.tensor([500]), Encoded(context)).cpu())
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


UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
VAE = "first_stage_model.decoder.conv_in.weight"


def _of(*keys: str, channels: int = 4) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(8, channels, 3, 3) if key == FIRST else torch.zeros(2) for key in keys}


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "SDXL": (_of(FIRST, VAE, "conditioner.embedders.0.model.ln_final.weight"), "is SDXL, which cannot learn a face"),
    "inpainting": (_of(FIRST, TEXT, VAE, channels=9), "takes 9 channels.*special version"),
    "unCLIP": (_of(FIRST, TEXT, VAE, f"{UNET}label_emb.0.0.weight"), "unCLIP, a special version"),
    "LoRA": (_of("lora_unet_down_blocks_0.lora_up.weight"), "is a LoRA"),
    "VAE alone": (_of(VAE), "not a checkpoint of SD 1.x or 2.x"),
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
        assert resolution_of(tmp_path / name) == 512


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
