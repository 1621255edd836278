"""The method on ComfyUI's real modules: it is the published method, and the graph's own models do not notice."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

KINDS = ("eps", "v")


@pytest.fixture(autouse=True)
def inside_a_node(comfyui: Path) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=KINDS)
def traced(request: pytest.FixtureRequest, reference: Path, tiny_comfy: Any) -> SimpleNamespace:
    """A tiny model in ComfyUI's modules, and the trace that the published code recorded on it."""
    with torch.inference_mode():
        model, clip, vae = tiny_comfy(reference / f"tiny-{request.param}")
    trace = np.load(reference / f"trace-{request.param}.npz")
    return SimpleNamespace(model=model, clip=clip, vae=vae, trace=trace)


@pytest.fixture
def tiny(tiny_comfy: Any, tiny_models: Path) -> SimpleNamespace:
    """A fresh tiny model that a test may change."""
    model, clip, vae = tiny_comfy(tiny_models / "tiny-eps")
    return SimpleNamespace(model=model, clip=clip, vae=vae)


@pytest.fixture(params=["SD 2.x", "SDXL"])
def either(request: pytest.FixtureRequest, tiny: SimpleNamespace) -> SimpleNamespace:
    """A fresh tiny model of a family, and a weight of the UNet and of each text encoder."""
    unet = "diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
    text = "{}.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    if request.param == "SD 2.x":
        return SimpleNamespace(**vars(tiny), weights=(unet.format(1), text.format("clip_h")))
    from tests.tiny_sdxl import tiny_sdxl_clip, tiny_sdxl_model

    folder = request.getfixturevalue("reference") / "tiny-xl"
    weights = (unet.format(4), text.format("clip_l"), text.format("clip_g"))
    # ComfyUI knows no VAE as narrow as that of the reference.
    return SimpleNamespace(model=tiny_sdxl_model(folder), clip=tiny_sdxl_clip(folder), vae=tiny.vae, weights=weights)


def backbone(pack: ModuleType, parts: SimpleNamespace) -> Any:
    return pack.nodes.host.backbone.ComfyBackbone(parts.model, parts.clip, parts.vae)


def batches(pack: ModuleType, trace: Any) -> list[Any]:
    arrays = zip(trace["latents"], trace["noise"], trace["timesteps"], trace["input_ids"], strict=True)
    return [pack.crossinit_core.TrainingBatch(*map(torch.from_numpy, draws)) for draws in arrays]


def photo(size: int = 64) -> torch.Tensor:
    return torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(7))


def learn(pack: ModuleType, parts: SimpleNamespace, *, steps: int = 2, **options: Any) -> Any:
    core = pack.crossinit_core
    host = backbone(pack, parts)
    settings = core.InversionSettings(steps=steps, batch_size=2, resolution=64, precision="fp32")
    return core.invert(host, core.cross_initialize_words(host, "human face"), settings, images=photo(), **options)


def test_the_initialization_is_the_published_one(pack: ModuleType, traced: SimpleNamespace, reference: Path) -> None:
    core = pack.crossinit_core
    names = core.load_celebrity_names(reference / "celebrity-names.txt")
    v0 = core.cross_initialize(backbone(pack, traced), names.names, vectors=2)
    np.testing.assert_allclose(v0.numpy(), traced.trace["init"], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 3}, {"gradient_checkpointing": True}], ids=str)
def test_every_step_is_the_published_one(pack: ModuleType, traced: SimpleNamespace, options: dict[str, Any]) -> None:
    core, trace, vectors = pack.crossinit_core, traced.trace, []
    result = core.invert(
        backbone(pack, traced),
        torch.from_numpy(trace["init"]),
        core.InversionSettings(steps=len(trace["mse"]), precision="fp32", **options),
        batches=batches(pack, trace),
        on_step=lambda report: vectors.append(report.vectors),
    )
    np.testing.assert_allclose(torch.stack(vectors).numpy(), trace["embeds"], atol=1e-4)
    np.testing.assert_allclose(result.losses, trace["mse"], atol=1e-4)
    np.testing.assert_allclose(result.distances, trace["reg"], atol=1e-4)


def test_bfloat16_goes_the_same_way(pack: ModuleType, traced: SimpleNamespace) -> None:
    core, trace = pack.crossinit_core, traced.trace
    init = torch.from_numpy(trace["init"])
    settings = core.InversionSettings(steps=8, precision="bf16")
    token = core.invert(backbone(pack, traced), init, settings, batches=batches(pack, trace)).token
    exact = torch.from_numpy(trace["embeds"][7])
    moved, expected = (token.vectors - init).flatten(), (exact - init).flatten()
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.99
    assert 0.98 < moved.norm() / expected.norm() < 1.02
    assert token.metadata["crossinit.precision"] == "bfloat16"


def test_the_vae_posterior_is_the_models_own(pack: ModuleType, traced: SimpleNamespace) -> None:
    posterior = backbone(pack, traced).posterior(photo())
    mode = traced.vae.encode(photo()) * 0.18215
    torch.testing.assert_close(posterior.mean, mode.float().cpu(), atol=1e-4, rtol=1e-4)
    assert (posterior.std > 0).all()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("a broken weight")])
def test_a_photo_too_large_to_encode_is_encoded_by_comfyui(
    pack: ModuleType, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import comfy.model_management as mm
    from comfy.ldm.modules.diffusionmodules.model import Encoder

    encode, tried = Encoder.forward, []

    def first_is_too_much(self: Any, *inputs: Any, **options: Any) -> torch.Tensor:
        tried.append(self)
        if len(tried) == 1:
            raise error
        return encode(self, *inputs, **options)

    whole = backbone(pack, tiny).posterior(photo())
    monkeypatch.setattr(Encoder, "forward", first_is_too_much)
    monkeypatch.delattr(mm, "raise_non_oom", raising=False)  # hosts before 0.17 do not have it
    if not isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="a broken weight"):
            backbone(pack, tiny).posterior(photo())
        return
    by_comfyui = backbone(pack, tiny).posterior(photo())
    torch.testing.assert_close(by_comfyui.mean, whole.mean, atol=1e-4, rtol=1e-4)
    assert len(tried) == 2 and not by_comfyui.std.any()


def test_the_graphs_models_are_as_before(pack: ModuleType, either: SimpleNamespace) -> None:
    weights = {
        id(module): {key: value.clone() for key, value in module.state_dict().items()}
        for module in (either.model.model, either.clip.cond_stage_model, either.vae.first_stage_model)
    }
    before = [_output(either), copy.deepcopy(either.model.model_options), dict(either.model.object_patches)]
    learn(pack, either)
    after = [_output(either), either.model.model_options, either.model.object_patches]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    for module in (either.model.model, either.clip.cond_stage_model, either.vae.first_stage_model):
        for key, value in module.state_dict().items():
            assert torch.equal(value, weights[id(module)][key]), key
            assert value.dtype == weights[id(module)][key].dtype
        assert not any("forward" in vars(part) for part in module.modules())
        assert not any(weight.grad is not None for weight in module.parameters())


def test_weights_that_were_loaded_in_inference_mode_do_no_harm(pack: ModuleType, either: SimpleNamespace) -> None:
    expected = learn(pack, either).token.vectors
    for module in (either.model.model, either.clip.cond_stage_model, either.vae.first_stage_model):
        for weight in module.parameters():
            weight.data = weight.data.clone()
    assert next(either.model.model.diffusion_model.parameters()).data.is_inference()
    assert torch.equal(learn(pack, either).token.vectors, expected)


def test_the_same_seed_gives_the_same_token(pack: ModuleType, either: SimpleNamespace) -> None:
    random_state = torch.get_rng_state()
    first, second = learn(pack, either), learn(pack, either)
    assert torch.equal(first.token.vectors, second.token.vectors)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_lora_on_the_graphs_models_counts(pack: ModuleType, either: SimpleNamespace) -> None:
    plain = learn(pack, either)
    for key in either.weights:
        patcher = either.model if key.startswith("diffusion_model.") else either.clip.patcher
        patched = patcher.clone()
        shape = patcher.model.state_dict()[key].shape
        assert patched.add_patches({key: (0.05 * torch.ones(shape),)}), f"{key} is no weight of this model"
        parts = SimpleNamespace(**vars(either))
        if patcher is either.model:
            parts.model = patched
        else:
            parts.clip = either.clip.clone()
            parts.clip.patcher = patched
        changed = learn(pack, parts)
        assert not torch.equal(changed.token.vectors, plain.token.vectors)
        assert changed.token.metadata["crossinit.base_hash"] != plain.token.metadata["crossinit.base_hash"]
    assert torch.equal(learn(pack, either).token.vectors, plain.token.vectors)


def test_cancel_stops_within_a_step_and_the_next_run_goes_on(
    pack: ModuleType, either: SimpleNamespace, tmp_path: Path
) -> None:
    import comfy.model_management as mm

    expected = learn(pack, either, steps=4).token.vectors
    steps: list[int] = []

    def press_cancel(report: Any) -> None:
        steps.append(report.step)
        if report.step == 2:
            mm.interrupt_current_processing()

    with pytest.raises(mm.InterruptProcessingException):
        learn(pack, either, steps=4, on_step=press_cancel, resume_folder=tmp_path)
    assert steps == [1, 2]
    resumed = learn(pack, either, steps=4, resume_folder=tmp_path)
    assert resumed.resumed_from == 2
    assert torch.equal(resumed.token.vectors, expected)


def test_a_host_attention_without_gradient_is_not_used(
    pack: ModuleType, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.ldm.modules.attention as attention

    expected = learn(pack, tiny).token.vectors

    @attention.wrap_attn
    def sage_like(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return q.detach()

    monkeypatch.setattr(attention, "optimized_attention", sage_like)
    monkeypatch.setattr(attention, "optimized_attention_masked", sage_like)
    assert torch.equal(learn(pack, tiny).token.vectors, expected)


def _output(parts: SimpleNamespace) -> torch.Tensor:
    """What a prompt node and one UNet step give in the graph."""
    tokens = parts.clip.tokenize("a photo of a person")
    context, pooled = parts.clip.encode_from_tokens(tokens, return_pooled=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    import comfy.model_management as mm

    mm.load_models_gpu([parts.model])
    model = parts.model.model
    y = model.encode_adm(pooled_output=pooled, width=64, height=64, device="cpu") if model.adm_channels else None
    return model.apply_model(latents, torch.tensor([3.0]), c_crossattn=context, y=y).clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: setattr(p.model.model, "model_config", _config("SDXLRefiner")), "MODEL is the SDXL refiner"),
        (lambda p: _as_upscaler(p.model.model), "MODEL is the SD 2.x upscaler, a special version"),
        (
            lambda p: vars(p.model.model).update(model_config=_config("LotusD"), adm_channels=4),
            "MODEL is LotusD, a special",
        ),
        (lambda p: setattr(p.model.model, "model_config", _config("Flux")), "MODEL is Flux"),
        (lambda p: setattr(p.model.model, "model_config", _config("SD3")), "MODEL is SD3"),
        (lambda p: vars(p.model.model).update(model_config=_config("SD21UnclipL"), adm_channels=1536), "unCLIP"),
        (lambda p: setattr(p.model.model.diffusion_model, "in_channels", 9), "inpainting"),
        (lambda p: setattr(p.model.model, "adm_channels", 1536), "special version"),
        (lambda p: p.clip.clip_layer(-1), "layer -1"),
        (lambda p: setattr(p.vae, "latent_channels", 16), "16 latent channels"),
        (lambda p: _to_float8(p.model.model.diffusion_model), "quantized"),
        (lambda p: p.model.add_object_patch("model_sampling", _sampling("LCM")), "MODEL samples in a way"),
        (lambda p: p.model.set_injections("bypass_lora", []), "bypass mode"),
        (lambda p: setattr(p.model.model.model_config, "unet_config", {"context_dim": 768}), "same checkpoint"),
    ],
)
def test_what_cannot_learn_is_refused_by_name(
    pack: ModuleType, tiny: SimpleNamespace, change: Any, message: str
) -> None:
    change(tiny)
    with pytest.raises(ValueError, match=message):
        backbone(pack, tiny)


def _config(name: str) -> Any:
    import comfy.supported_models

    config = object.__new__(getattr(comfy.supported_models, name))
    config.unet_config = {"context_dim": 32, "adm_in_channels": 1536 if "Unclip" in name else None}
    return config


def _as_upscaler(model: Any) -> None:
    model.model_config, model.diffusion_model.in_channels = _config("SD_X4Upscaler"), 7


def _to_float8(unet: Any) -> None:
    weight = unet.out[2].weight
    unet.out[2].weight = torch.nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)


def _sampling(kind: str) -> Any:
    import comfy_extras.nodes_model_advanced as advanced

    class Sampling(advanced.ModelSamplingDiscreteDistilled, getattr(advanced, kind)):  # type: ignore[misc]
        pass

    return Sampling()


def test_a_clip_that_is_missing_is_said_so(pack: ModuleType) -> None:
    with pytest.raises(ValueError, match="CLIP is empty"):
        pack.nodes.host.backbone.ComfyBackbone(None, None)
