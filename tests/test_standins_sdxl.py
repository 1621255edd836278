"""The stand-ins of the SDXL family are what ComfyUI's stock loaders take for the real thing."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from devtools.standins import sdxl as standins

pytestmark = pytest.mark.slow  # checkpoints with the sizes of real ones

LATENT_SCALE = 0.13025
ALONE: dict[str, Any] = {"text": False, "vae": False}
"""A UNet alone, by which ComfyUI tells what a checkpoint is."""


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What ComfyUI logs."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield said
    logging.getLogger().removeHandler(handler)


def _complaints(messages: list[str]) -> list[str]:
    words = ("missing", "unexpected", "no match", "not loaded", "could not be applied")
    return [message for message in messages if any(word in message.lower() for word in words)]


@pytest.fixture(scope="module")
def xl(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    import comfy.sd

    path = standins.make_sdxl_checkpoint(tmp_path_factory.mktemp("checkpoint") / "standin.safetensors")
    assert path.stat().st_size < 2.5e9
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    path.unlink()
    return SimpleNamespace(model=model, clip=clip, vae=vae)


def _conditioning(clip: Any, text: str, **extra: Any) -> list[Any]:
    context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return [[context, {"pooled_output": pooled, **extra}]]


def _sample(model: Any, positive: list[Any], negative: list[Any]) -> torch.Tensor:
    import comfy.sample

    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent = torch.zeros_like(noise)
    found: torch.Tensor = comfy.sample.sample(
        model, noise, 1, 1.0, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=0
    )
    return found


def _change(new: torch.Tensor, old: torch.Tensor) -> float:
    assert torch.isfinite(new).all()
    return float((new - old).norm() / old.norm())


def _photo(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 16, 16, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bicubic")
    return (0.2 * smooth + 0.45).clamp(0, 1)


def test_a_checkpoint_is_taken_for_sdxl(
    comfyui: Path, tmp_path: Path, messages: list[str], xl: SimpleNamespace
) -> None:
    import comfy.model_base
    import comfy.supported_models

    inner = xl.model.model
    assert type(inner.model_config) is comfy.supported_models.SDXL
    assert inner.model_type == comfy.model_base.ModelType.EPS
    assert inner.diffusion_model.in_channels == 4
    assert inner.adm_channels == 2816
    assert len(xl.clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers) == 12
    assert len(xl.clip.cond_stage_model.clip_g.transformer.text_model.encoder.layers) == 32
    assert not _complaints(messages)


Make = Callable[[Path], Path]
KINDS: dict[str, tuple[Make, str, str]] = {
    "v-prediction": (
        lambda path: standins.make_sdxl_checkpoint(path, prediction="v", unet=standins.SHALLOW_SDXL_UNET, **ALONE),
        "SDXL",
        "V_PREDICTION",
    ),
    "inpainting": (
        lambda path: standins.make_sdxl_checkpoint(path, unet=standins.SDXL_INPAINT_UNET, **ALONE),
        "SDXL",
        "EPS",
    ),
    "SSD-1B": (
        lambda path: standins.make_sdxl_checkpoint(path, unet=standins.SSD1B_UNET, **ALONE),
        "SSD1B",
        "EPS",
    ),
    "Segmind-Vega": (
        lambda path: standins.make_sdxl_checkpoint(path, unet=standins.VEGA_UNET, **ALONE),
        "Segmind_Vega",
        "EPS",
    ),
    "refiner": (lambda path: standins.make_sdxl_refiner(path, **ALONE), "SDXLRefiner", "EPS"),
}


def _unet(path: Path) -> Any:
    import comfy.sd

    model, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)
    path.unlink()
    return model.model


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_told_apart(comfyui: Path, tmp_path: Path, messages: list[str], kind: str) -> None:
    make, config, prediction = KINDS[kind]
    inner = _unet(make(tmp_path / "standin.safetensors"))
    assert type(inner.model_config).__name__ == config
    assert inner.model_type.name == prediction
    assert not _complaints(messages)
    unet = inner.diffusion_model
    assert unet.in_channels == (9 if kind == "inpainting" else 4)
    latents = torch.randn(1, unet.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    context, extra = (
        torch.randn(1, 77, inner.model_config.unet_config["context_dim"]),
        torch.randn(1, inner.adm_channels),
    )
    with torch.no_grad():
        output = unet(latents, torch.tensor([500.0]), context=context, y=extra, transformer_options={})
    assert output.shape == (1, 4, 8, 8)
    assert 0.2 < output.std() < 3


@pytest.mark.parametrize("zero", [True, False])
def test_zero_terminal_snr_is_read_from_the_file(comfyui: Path, tmp_path: Path, zero: bool) -> None:
    path = standins.make_sdxl_checkpoint(
        tmp_path / "v.safetensors",
        prediction="v",
        zero_terminal_snr=zero,
        unet=standins.SHALLOW_SDXL_UNET,
        **ALONE,
    )
    assert (_unet(path).model_sampling.sigma_max > 1000) == zero


@torch.no_grad()
def test_both_text_encoders_tell_words_apart(xl: SimpleNamespace) -> None:
    tokens = xl.clip.tokenize("a photo of a man with a hat")
    assert [tokens[key][0][-1][0] for key in ("l", "g")] == [49407, 0]
    hat, pooled_hat = (value.float() for value in xl.clip.encode_from_tokens(tokens, return_pooled=True))
    dog, pooled_dog = xl.clip.encode_from_tokens(xl.clip.tokenize("a photo of a man with a dog"), return_pooled=True)
    assert hat.shape == (1, 77, 2048)
    assert torch.isfinite(hat).all()
    assert torch.allclose(hat[0, :8], dog[0, :8], atol=1e-3), "attention is not causal"
    for part in (slice(0, 768), slice(768, 2048)):
        assert torch.cosine_similarity(hat[0, 8, part], dog[0, 8, part], dim=0) < 0.9
        assert torch.cosine_similarity(hat[0, 7, part], hat[0, 8, part], dim=0) < 0.9, "positions look alike"
    assert pooled_hat.shape == (1, 1280)
    assert 0.5 < pooled_hat.std() < 2
    assert torch.cosine_similarity(pooled_hat, pooled_dog.float()) < 0.98


def test_words_pooled_output_and_sizes_change_the_picture(xl: SimpleNamespace) -> None:
    face, dog = _conditioning(xl.clip, "a face"), _conditioning(xl.clip, "a dog on the beach")
    plain = _sample(xl.model, face, face)
    assert _change(_sample(xl.model, [[dog[0][0], face[0][1]]], face), plain) > 0.02
    assert _change(_sample(xl.model, [[face[0][0], dog[0][1]]], face), plain) > 0.02
    small = _conditioning(xl.clip, "a face", width=256, height=256)
    assert _change(_sample(xl.model, small, face), plain) > 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_the_unet_are_finite(xl: SimpleNamespace, dtype: torch.dtype) -> None:
    # A copy, and in one piece: ComfyUI's layers cast themselves.
    unet = copy.deepcopy(xl.model.model.diffusion_model).to(dtype)
    unet.dtype = dtype
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 16, 16, generator=generator).to(dtype)
    context = xl.clip.encode("a photo of a face").detach().to(dtype).clone().requires_grad_()
    extra = torch.randn(1, 2816, generator=generator).to(dtype).requires_grad_()
    output = unet(latents, torch.tensor([500.0]), context=context, y=extra, transformer_options={})
    assert 0.2 < output.float().std() < 3
    torch.nn.functional.mse_loss(output.float(), latents.float()).backward()
    for gradient in (context.grad, extra.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient.float().norm() > 1e-3


@torch.no_grad()
def test_the_vae_has_realistic_latents(xl: SimpleNamespace) -> None:
    photo = _photo(128)
    network = xl.vae.first_stage_model
    mean, log_variance = network.quant_conv(network.encoder(photo * 2 - 1)).chunk(2, dim=1)
    assert 0.4 < (mean * LATENT_SCALE).std() < 2.5
    assert -10 < log_variance.mean() < -6
    decoded = xl.vae.decode(xl.vae.encode(photo.movedim(1, -1)))
    assert decoded.shape == (1, 128, 128, 3)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert decoded.std() > 0.05


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "finite"), [(torch.float16, False), (torch.bfloat16, True), (torch.float32, True)])
def test_a_vae_can_overflow_in_float16_alone(comfyui: Path, tmp_path: Path, dtype: torch.dtype, finite: bool) -> None:
    import comfy.sd
    import comfy.utils

    path = standins.make_sdxl_checkpoint(
        tmp_path / "standin.safetensors", text=False, unet=standins.VEGA_UNET, vae_gain=5e4
    )
    states = comfy.utils.load_torch_file(str(path))
    path.unlink()
    states = comfy.utils.state_dict_prefix_replace(states, {"first_stage_model.": ""}, filter_keys=True)
    encoder = comfy.sd.VAE(sd=states).first_stage_model.encoder.to(dtype)
    assert bool(torch.isfinite(encoder((_photo(64) * 2 - 1).to(dtype))).all()) == finite


def test_the_controlnet_steers(xl: SimpleNamespace, tmp_path: Path, messages: list[str]) -> None:
    import comfy.controlnet

    control = comfy.controlnet.load_controlnet(str(standins.make_sdxl_controlnet(tmp_path / "controlnet.safetensors")))
    assert isinstance(control, comfy.controlnet.ControlNet)
    applied = control.copy().set_cond_hint(_photo(128), 1.0, (0.0, 1.0))
    face = _conditioning(xl.clip, "a face")
    plain = _sample(xl.model, face, face)
    assert _change(_sample(xl.model, _conditioning(xl.clip, "a face", control=applied), face), plain) > 0.05
    assert not _complaints(messages)
    assert len(control.control_model.zero_convs) == len(xl.model.model.diffusion_model.output_blocks)


def test_the_lora_changes_both_texts_and_the_picture(xl: SimpleNamespace, tmp_path: Path, messages: list[str]) -> None:
    import comfy.sd
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(standins.make_sdxl_lora(tmp_path / "lora.safetensors")))
    before = _conditioning(xl.clip, "a face")
    plain = _sample(xl.model, before, before)
    model, clip = comfy.sd.load_lora_for_models(xl.model, xl.clip, lora, 1.0, 1.0)
    after = _conditioning(clip, "a face")
    assert not _complaints(messages)
    for part in (slice(0, 768), slice(768, 2048)):
        assert _change(after[0][0][..., part], before[0][0][..., part]) > 0.05
    assert _change(after[0][1]["pooled_output"], before[0][1]["pooled_output"]) > 0.05
    assert _change(_sample(model, before, before), plain) > 0.05


def test_what_comfyui_would_not_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "standin.safetensors"
    with pytest.raises(ValueError, match="prediction"):
        standins.make_sdxl_checkpoint(path, prediction="velocity")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zero_terminal_snr needs"):
        standins.make_sdxl_checkpoint(path, zero_terminal_snr=True)
    with pytest.raises(ValueError, match=r"\.safetensors"):
        standins.make_sdxl_lora(tmp_path / "lora.pt")
