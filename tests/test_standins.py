"""The stand-in models are what ComfyUI's stock loaders take for the real thing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from devtools.standins import files as standins
from devtools.standins.unets import UNetShape

slow = pytest.mark.slow  # checkpoints with the sizes of real ones


@pytest.fixture(scope="module")
def sd2(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    yield from _loaded(tmp_path_factory, standins.make_sd2_checkpoint)


@pytest.fixture(scope="module")
def sd1(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    yield from _loaded(tmp_path_factory, standins.make_sd1_checkpoint)


def _loaded(tmp_path_factory: pytest.TempPathFactory, make: Any) -> Iterator[SimpleNamespace]:
    import comfy.sd

    path = make(tmp_path_factory.mktemp("checkpoint") / "standin.safetensors")
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    finally:
        logging.getLogger().removeHandler(handler)
    path.unlink()
    yield SimpleNamespace(model=model, clip=clip, vae=vae, messages=messages)


def _photo(size: int) -> torch.Tensor:
    """Something smooth with some detail, (1, size, size, 3) in 0..1."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, 3, size, size)
    for cells, weight in ((4, 0.2), (16, 0.1), (64, 0.05)):
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        picture += weight * torch.nn.functional.interpolate(noise, size=size, mode="bicubic")
    return (picture + 0.45).clamp(0, 1).movedim(1, -1)


def _sample(model: Any, positive: list, negative: list, latent: torch.Tensor) -> torch.Tensor:
    import comfy.sample

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    # One step without guidance: one pass through the UNet is enough to see a difference.
    return comfy.sample.sample(
        model, noise, 1, 1.0, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=0
    )


def _conditioning(clip: Any, text: str, **extra: Any) -> list:
    context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return [[context, {"pooled_output": pooled, **extra}]]


def _check_unet_step(model: Any, context: torch.Tensor) -> None:
    unet = model.model.diffusion_model
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    context = context.detach().float().clone().requires_grad_()
    output = unet(latents, torch.tensor([500.0]), context=context, transformer_options={})
    assert output.shape == latents.shape
    assert 0.2 < output.std() < 3
    torch.nn.functional.mse_loss(output, latents).backward()
    assert context.grad is not None
    assert torch.isfinite(context.grad).all()
    assert context.grad.norm() > 1e-3


def _check_vae(vae: Any) -> None:
    photo = _photo(128)
    with torch.no_grad():
        network = vae.first_stage_model
        mean, log_variance = network.quant_conv(network.encoder(photo.movedim(-1, 1) * 2 - 1)).chunk(2, dim=1)
        decoded = vae.decode(vae.encode(photo))
    assert 0.4 < (mean * 0.18215).std() < 2.5
    assert -10 < log_variance.mean() < -6
    assert decoded.shape == photo.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert decoded.std() > 0.05


def _check_text(clip: Any, width: int, pad: int) -> None:
    tokens = clip.tokenize("a photo of a man with a hat")
    (ids,) = tokens.values()
    assert ids[0][-1][0] == pad
    hat = clip.encode_from_tokens(tokens).float()
    dog = clip.encode_from_tokens(clip.tokenize("a photo of a man with a dog")).float()
    assert hat.shape == (1, 77, width)
    assert torch.isfinite(hat).all()
    assert 20 < hat.norm(dim=-1).mean() < 40
    assert torch.allclose(hat[0, :8], dog[0, :8], atol=1e-4), "attention is not causal"
    assert torch.cosine_similarity(hat[0, 8], dog[0, 8], dim=0) < 0.9
    assert torch.cosine_similarity(hat[0, 7], hat[0, 8], dim=0) < 0.9, "positions look alike"


@slow
def test_load_checkpoint_takes_it_for_sd2_and_nothing_is_missing(sd2: SimpleNamespace) -> None:
    import comfy.model_base
    import comfy.supported_models

    config = sd2.model.model.model_config
    assert type(config) is comfy.supported_models.SD20
    assert sd2.model.model.model_type == comfy.model_base.ModelType.EPS
    assert config.unet_config["context_dim"] == 1024
    assert config.unet_config["use_linear_in_transformer"]
    assert config.unet_config["num_head_channels"] == 64
    assert len(sd2.clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers) == 24
    assert not [message for message in sd2.messages if "missing" in message.lower() or "unexpected" in message]


@slow
def test_load_checkpoint_takes_it_for_v_prediction(comfyui: Path, tmp_path: Path) -> None:
    import comfy.model_base
    import comfy.sd

    path = standins.make_sd2_checkpoint(tmp_path / "v.safetensors", prediction="v")
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)
    path.unlink()
    assert model.model.model_type == comfy.model_base.ModelType.V_PREDICTION


@slow
def test_load_checkpoint_takes_it_for_sd1_and_nothing_is_missing(sd1: SimpleNamespace) -> None:
    import comfy.supported_models

    config = sd1.model.model.model_config
    assert type(config) is comfy.supported_models.SD15
    assert config.unet_config["context_dim"] == 768
    assert not config.unet_config["use_linear_in_transformer"]
    assert config.unet_config["num_heads"] == 8
    assert not [message for message in sd1.messages if "missing" in message.lower() or "unexpected" in message]


@slow
def test_sd2_text_encoder_tells_words_apart(sd2: SimpleNamespace) -> None:
    _check_text(sd2.clip, width=1024, pad=0)
    table = sd2.clip.cond_stage_model.clip_h.transformer.get_input_embeddings().weight
    assert 0.3 < table[:1000].float().norm(dim=-1).mean() < 0.5


@slow
def test_sd1_text_encoder_tells_words_apart(sd1: SimpleNamespace) -> None:
    _check_text(sd1.clip, width=768, pad=49407)


@slow
def test_sd2_unet_hears_the_text(sd2: SimpleNamespace) -> None:
    _check_unet_step(sd2.model, sd2.clip.encode("a photo of a face"))


@slow
def test_sd1_unet_hears_the_text(sd1: SimpleNamespace) -> None:
    _check_unet_step(sd1.model, sd1.clip.encode("a photo of a face"))


@slow
def test_vae_encodes_a_photo_to_realistic_latents_and_back(sd2: SimpleNamespace) -> None:
    _check_vae(sd2.vae)


@slow
def test_controlnet_changes_the_picture(sd2: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import comfy.controlnet

    path = standins.make_sd2_controlnet(tmp_path / "controlnet.safetensors")
    control = comfy.controlnet.load_controlnet(str(path))
    assert isinstance(control, comfy.controlnet.ControlNet)
    applied = control.copy().set_cond_hint(_photo(128).movedim(-1, 1), 1.0, (0.0, 1.0))
    latent = torch.zeros(1, 4, 16, 16)
    negative = _conditioning(sd2.clip, "")
    plain = _sample(sd2.model, _conditioning(sd2.clip, "a face"), negative, latent)
    steered = _sample(sd2.model, _conditioning(sd2.clip, "a face", control=applied), negative, latent)
    assert torch.isfinite(steered).all()
    assert (steered - plain).norm() / plain.norm() > 0.05
    # ComfyUI only warns when control outputs and UNet do not fit.
    assert "could not be applied" not in caplog.text
    assert "missing controlnet keys" not in caplog.text
    unet_blocks = len(sd2.model.model.diffusion_model.output_blocks)
    assert len(control.control_model.zero_convs) == unet_blocks


@slow
def test_lora_changes_text_and_picture(sd2: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import comfy.sd
    import comfy.utils

    path = standins.make_lora(tmp_path / "lora.safetensors")
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    latent = torch.zeros(1, 4, 16, 16)
    before = _conditioning(sd2.clip, "a face")
    plain = _sample(sd2.model, before, before, latent)
    model, clip = comfy.sd.load_lora_for_models(sd2.model, sd2.clip, lora, 1.0, 1.0)
    assert "not loaded" not in caplog.text.lower()
    after = _conditioning(clip, "a face")
    assert (after[0][0] - before[0][0]).norm() / before[0][0].norm() > 0.05
    styled = _sample(model, before, before, latent)
    assert torch.isfinite(styled).all()
    assert (styled - plain).norm() / plain.norm() > 0.05


def test_a_seed_makes_the_same_file_again(tmp_path: Path) -> None:
    first = standins.make_lora(tmp_path / "first.safetensors", seed=3).read_bytes()
    assert standins.make_lora(tmp_path / "again.safetensors", seed=3).read_bytes() == first
    assert standins.make_lora(tmp_path / "other.safetensors", seed=4).read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.safetensors",
        "first.safetensors",
        "other.safetensors",
    ]


def test_what_comfyui_could_not_recognise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "standin.safetensors"
    with pytest.raises(ValueError, match="prediction"):
        standins.make_sd2_checkpoint(path, prediction="velocity")  # type: ignore[arg-type]
    short = UNetShape(context_dim=1024, linear_projection=True, channel_mult=(1, 2), num_res_blocks=1)
    with pytest.raises(ValueError, match="twelve output blocks"):
        standins.make_sd2_checkpoint(path, prediction="v", unet=short)
    with pytest.raises(ValueError, match=r"\.safetensors"):
        standins.make_lora(tmp_path / "lora.pt")
    with pytest.raises(ValueError, match="multiple of 64"):
        UNetShape(context_dim=1024, linear_projection=True, model_channels=100)


# ------------------------------------------------------------------------------------------ tiny diffusers


@pytest.fixture(scope="module", params=["tiny-eps", "tiny-v"])
def tiny(request: pytest.FixtureRequest, tiny_models: Path, tiny_comfy: Any) -> SimpleNamespace:
    folder = tiny_models / request.param
    model, clip, vae = tiny_comfy(folder)
    return SimpleNamespace(folder=folder, model=model, clip=clip, vae=vae)


@torch.no_grad()
def test_tiny_text_encoder_agrees_with_transformers(tiny: SimpleNamespace) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    text = "face of a person, wearing a red hat"
    reference = CLIPTextModel.from_pretrained(tiny.folder / "text_encoder", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tiny.folder / "tokenizer")
    ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    (ours,) = tiny.clip.tokenize(text).values()
    assert [token for token, _ in ours[0]] == ids[0].tolist()
    assert ours[0][-1][0] == 0
    context = tiny.clip.encode(text)
    assert context.dtype == torch.float32
    assert (context - reference(ids).last_hidden_state).abs().max() < 1e-4


@torch.no_grad()
def test_tiny_unet_agrees_with_diffusers(tiny: SimpleNamespace) -> None:
    from diffusers import UNet2DConditionModel

    reference = UNet2DConditionModel.from_pretrained(tiny.folder / "unet", torch_dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 77, 32, generator=generator)
    timesteps = torch.tensor([3, 977])
    expected = reference(latents, timesteps, encoder_hidden_states=context).sample
    unet = tiny.model.model.diffusion_model
    output = unet(latents, timesteps.float(), context=context, transformer_options={})
    assert (output - expected).abs().max() < 1e-4


@torch.no_grad()
def test_tiny_vae_agrees_with_diffusers(tiny: SimpleNamespace) -> None:
    from diffusers import AutoencoderKL

    reference = AutoencoderKL.from_pretrained(tiny.folder / "vae", torch_dtype=torch.float32).eval()
    photo = _photo(64)
    pixels = photo.movedim(-1, 1) * 2 - 1
    network = tiny.vae.first_stage_model
    moments = network.quant_conv(network.encoder(pixels))
    posterior = reference.encode(pixels).latent_dist
    assert (moments - posterior.parameters).abs().max() < 1e-4
    assert (tiny.vae.encode(photo) - posterior.mode()).abs().max() < 1e-4
    decoded = reference.decode(posterior.mode()).sample
    assert (network.decode(posterior.mode()) - decoded).abs().max() < 1e-4


def test_tiny_model_has_the_prediction_type_of_its_scheduler(tiny: SimpleNamespace) -> None:
    import comfy.model_base
    import comfy.supported_models

    config = json.loads((tiny.folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    kinds = {"epsilon": comfy.model_base.ModelType.EPS, "v_prediction": comfy.model_base.ModelType.V_PREDICTION}
    assert tiny.model.model.model_type == kinds[config["prediction_type"]]
    assert isinstance(tiny.model.model.model_config, comfy.supported_models.SD20)


def test_tiny_model_samples_and_can_be_copied(tiny: SimpleNamespace) -> None:
    latent = torch.zeros(1, 4, 8, 8)
    prompt = _conditioning(tiny.clip, "a face")
    samples = _sample(tiny.model, prompt, prompt, latent)
    assert torch.isfinite(samples).all()
    assert tiny.vae.decode(samples).shape == (1, 64, 64, 3)
    copy = tiny.model.clone(disable_dynamic=True, force_deepcopy=True)
    assert copy.model is not tiny.model.model
    assert torch.equal(_sample(copy, prompt, prompt, latent), samples)
    text = tiny.clip.patcher.clone(disable_dynamic=True, force_deepcopy=True)
    assert text.model is not tiny.clip.cond_stage_model
