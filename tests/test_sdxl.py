"""SDXL: the published run is reproduced by both backbones, from the start to the last step."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crossinit_core
from crossinit_core.diffusers_backbone import DiffusersBackbone
from tests.tiny_sdxl import tiny_sdxl_clip, tiny_sdxl_model

SETTINGS = {"steps": 16, "batch_size": 4, "learning_rate": 0.02, "regularizer": "squared", "resolution": 64}


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "tiny-xl"


@pytest.fixture(scope="module")
def trace(reference: Path) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(reference / "trace-xl.npz").items()}


@pytest.fixture(scope="module", params=["diffusers", "ComfyUI"])
def host(request: pytest.FixtureRequest, folder: Path) -> tuple[Any, Any, float]:
    """A core, a backbone, and how close it has to come."""
    if request.param == "diffusers":
        return crossinit_core, DiffusersBackbone.from_pretrained(folder), 1e-5
    pack: ModuleType = request.getfixturevalue("pack")
    backbone = pack.nodes.host.backbone.ComfyBackbone(tiny_sdxl_model(folder), tiny_sdxl_clip(folder))
    return pack.crossinit_core, backbone, 1e-4


def _both(trace: dict[str, Tensor], name: str) -> Tensor:
    return torch.cat([trace[f"{name}_1"], trace[f"{name}_2"]], dim=-1)


def _batches(core: Any, trace: dict[str, Tensor]) -> list[Any]:
    parts = zip(*(trace[key] for key in ("latents", "noise", "timesteps", "input_ids_1", "time_ids")), strict=True)
    return [core.TrainingBatch(*rest, sizes=sizes) for *rest, sizes in parts]


def test_the_published_start_is_reproduced(host: Any, trace: dict[str, Tensor]) -> None:
    core, backbone, tolerance = host
    v0 = core.cross_initialize_words(backbone, "human face")
    torch.testing.assert_close(v0, _both(trace, "init"), atol=tolerance, rtol=0)
    assert backbone.widths == (32, 48) and backbone.pads == (49407, 0)


def test_the_published_run_is_reproduced(host: Any, trace: dict[str, Tensor]) -> None:
    core, backbone, tolerance = host
    steps: list[Any] = []
    v0 = core.cross_initialize_words(backbone, "human face")
    settings = core.InversionSettings(**SETTINGS)
    result = core.invert(backbone, v0, settings, batches=_batches(core, trace), on_step=steps.append)
    vectors = torch.stack([step.vectors for step in steps])
    torch.testing.assert_close(vectors, _both(trace, "embeds"), atol=tolerance, rtol=0)
    assert result.losses == pytest.approx(trace["mse"].tolist(), abs=tolerance)
    assert result.token.widths == (32, 48) and result.token.base == "width-32+48"


def test_the_published_direction_is_reproduced(host: Any, reference: Path) -> None:
    core, backbone, tolerance = host
    trace = {key: torch.from_numpy(value) for key, value in np.load(reference / "trace-xl-direction.npz").items()}
    start = core.lookup_words(backbone, "face")
    torch.testing.assert_close(start, _both(trace, "class_rows"), atol=tolerance, rtol=0)
    steps: list[Any] = []
    settings = core.InversionSettings(
        steps=16, batch_size=4, learning_rate=0.04, method="direction", prior=1e-4, resolution=64
    )
    result = core.invert(backbone, start, settings, batches=_batches(core, trace), on_step=steps.append)
    for encoder, columns in (("1", slice(0, 32)), ("2", slice(32, 80))):
        directions = torch.stack([step.vectors[:, columns] for step in steps]) / trace[f"scale_{encoder}"]
        torch.testing.assert_close(directions, trace[f"directions_{encoder}"], atol=tolerance, rtol=0)
    assert result.losses == pytest.approx(trace["mse"].tolist(), abs=tolerance)


def test_the_published_pooled_output_is_reproduced(host: Any, trace: dict[str, Tensor]) -> None:
    """With the vectors that each step began with."""
    core, backbone, tolerance = host
    prompts = importlib.import_module(f"{core.__name__}.models.clip_text")
    splice = importlib.import_module(f"{core.__name__}.learning.objective").splice
    padding = prompts.padding_row(backbone.embed, backbone.widths, backbone.pads, torch.device("cpu"))
    learned = torch.cat([_both(trace, "init")[None], _both(trace, "embeds")])
    for step, ids in enumerate(trace["input_ids_1"]):
        ends = prompts.ends_of(ids, backbone.eos)
        rows = backbone.embed(ids.clamp_max(backbone.vocabulary_size - 1).flatten()).view(*ids.shape, -1)
        embedded = splice(learned[step], prompts.pad(rows, ends, padding), ids, backbone.vocabulary_size)
        pooled = backbone.encode(embedded, ends).pooled
        torch.testing.assert_close(pooled, trace["pooled"][step], atol=tolerance, rtol=0)


def test_the_second_encoder_pads_with_its_own_token(host: Any, trace: dict[str, Tensor]) -> None:
    core, backbone, _ = host
    prompts = importlib.import_module(f"{core.__name__}.models.clip_text")
    first, second = trace["input_ids_1"][0], trace["input_ids_2"][0]
    padding = prompts.padding_row(backbone.embed, backbone.widths, backbone.pads, torch.device("cpu"))

    def rows(ids: Tensor) -> Tensor:
        return backbone.embed(ids.clamp_max(49407).flatten()).view(*ids.shape, -1)

    padded = prompts.pad(rows(first), prompts.ends_of(first, backbone.eos), padding)
    assert torch.equal(padded[..., :32], rows(first)[..., :32])
    assert torch.equal(padded[..., 32:], rows(second)[..., 32:])


def test_the_pooled_output_carries_a_gradient(host: Any) -> None:
    _, backbone, _ = host
    embeddings = torch.randn(1, 77, 80, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with backbone.training(precision="fp32", gradient_checkpointing=False) as model:
        encoded = model.encode(embeddings, torch.tensor([5]))
        (gradient,) = torch.autograd.grad(encoded.pooled.sum(), embeddings)
        places = gradient.abs().sum(dim=-1)[0]
        assert bool((places[:6] > 0).all()) and not bool(places[6:].any())
        assert not bool(gradient[..., :32].any()), "the pooled output is CLIP-G's alone"
        # The UNet hears it: the same context with another pooled output gives another picture.
        latents, sizes = torch.zeros(1, 4, 8, 8), torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        said = [
            model.predict(latents, torch.tensor([500]), type(encoded)(encoded.context, pooled), sizes)
            for pooled in (encoded.pooled, encoded.pooled * 2)
        ]
        assert float((said[0] - said[1]).detach().abs().max()) > 1e-4


def test_both_backbones_predict_the_same_for_other_sizes(pack: ModuleType, folder: Path) -> None:
    comfy = pack.nodes.host.backbone.ComfyBackbone(tiny_sdxl_model(folder), tiny_sdxl_clip(folder))
    plain = DiffusersBackbone.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    context, pooled = (torch.randn(*shape, generator=generator) for shape in ((2, 77, 80), (2, 48)))
    latents, times = torch.randn(2, 4, 8, 16, generator=generator), torch.tensor([3, 700])
    sizes = torch.tensor([[1024, 768, 12, 200, 64, 128], [333, 4000, 0, 0, 512, 1536]]).float()
    found = []
    for backbone in (comfy, plain):
        with backbone.training(precision="fp32", gradient_checkpointing=False) as model:
            encoded = crossinit_core.backbone.Encoded(context, pooled)
            found.append(model.predict(latents, times, encoded, sizes))
            found.append(model.predict(latents, times, encoded, sizes.flip(0)))
    torch.testing.assert_close(found[0], found[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], found[3], atol=1e-5, rtol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 1e-3


def test_the_start_can_be_what_the_unet_sees(host: Any, folder: Path) -> None:
    core, backbone, tolerance = host
    ids = torch.tensor([[49406, *backbone.tokenize("human face"), 49407]])
    plain = DiffusersBackbone.from_pretrained(folder)
    with torch.no_grad():
        states = [
            encoder(ids, output_hidden_states=True).hidden_states[-2][0, 1:3]
            for encoder in (plain.text_encoder, plain.text_encoder_2)
        ]
    found = core.cross_initialize_words(backbone, "human face", states="context")
    torch.testing.assert_close(found, torch.cat(states, dim=1), atol=tolerance, rtol=0)


def test_batches_without_sizes_are_refused(host: Any, trace: dict[str, Tensor]) -> None:
    core, backbone, _ = host
    batch = _batches(core, trace)[0]
    bare = core.TrainingBatch(*batch.tensors()[:4])
    v0 = torch.zeros(2, 80)
    with pytest.raises(ValueError, match="has no sizes, but this model needs them"):
        core.invert(backbone, v0, core.InversionSettings(steps=1, resolution=64), batches=[bare])


def test_a_start_of_another_family_is_refused(host: Any) -> None:
    core, backbone, _ = host
    with pytest.raises(ValueError, match=r"width 32, but this model's text encoders have width 32 \+ 48"):
        core.invert(
            backbone, torch.zeros(2, 32), core.InversionSettings(resolution=64), images=torch.rand(1, 64, 64, 3)
        )
