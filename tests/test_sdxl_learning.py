"""Learning on SDXL: its presets, its photos, its noise schedules, and its VAE."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from crossinit_core import InversionSettings, cross_initialize, cross_initialize_words, invert, load_celebrity_names
from crossinit_core.backbone import Encoded
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.batches import batches_from_photos
from crossinit_core.learning.settings import PRESETS, Regularizer, presets_of
from tests.tiny_sdxl import tiny_sdxl_clip, tiny_sdxl_model

PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(7))
SMALL = InversionSettings(steps=2, batch_size=2, resolution=64, regularizer="squared")


@pytest.fixture
def folder(reference: Path) -> Path:
    return reference / "tiny-xl"


@pytest.fixture
def backbone(folder: Path) -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(folder)


def _comfy(pack: ModuleType, folder: Path, vae: Any = None, **model: Any) -> Any:
    with torch.inference_mode():
        parts = tiny_sdxl_model(folder, **model), tiny_sdxl_clip(folder)
        return pack.nodes.host.backbone.ComfyBackbone(*parts, vae)


# Presets


def test_the_published_sdxl_run_is_its_full_preset() -> None:
    full = presets_of("sdxl")["full"]
    assert (full.steps, full.batch_size, full.resolution, full.learning_rate) == (400, 4, 768, 0.02)
    assert (full.weight_decay, full.regularization, full.regularizer) == (0.01, 1e-5, "squared")
    assert full.flip_probability == 0
    assert presets_of("sdxl").keys() == PRESETS.keys() and presets_of("sd2") is PRESETS


@pytest.mark.parametrize(
    ("base", "widgets", "expected"),
    [
        (
            "sdxl",
            {},
            {"steps": 400, "batch_size": 4, "resolution": 768, "learning_rate": 0.02, "regularizer": "squared"},
        ),
        (
            "sd2",
            {},
            {"steps": 320, "batch_size": 8, "resolution": None, "learning_rate": 0.005, "regularizer": "distance"},
        ),
        ("sdxl", {"preset": "fast"}, {"steps": 50, "batch_size": 4, "resolution": 768}),
        ("sdxl", {"steps": 7, "learning_rate": 0.5}, {"steps": 400, "learning_rate": 0.02}),
        ("sdxl", {"resolution": 1024, "batch_size": 2}, {"resolution": 1024, "batch_size": 2, "steps": 400}),
        ("sdxl", {"batch_size": 8, "flip_probability": 0.5}, {"batch_size": 4, "flip_probability": 0.0}),
        ("sdxl", {"regularizer": "distance"}, {"regularizer": "distance"}),
        ("sd2", {"regularizer": "squared"}, {"regularizer": "squared"}),
        (
            "sdxl",
            {"preset": "custom", "steps": 7, "learning_rate": 0.5, "batch_size": 8, "flip_probability": 0.5},
            {"steps": 7, "learning_rate": 0.5, "batch_size": 8, "resolution": None, "regularizer": "squared"},
        ),
    ],
)
def test_a_preset_is_that_of_the_models_family(
    pack: ModuleType, base: str, widgets: dict[str, Any], expected: dict[str, Any]
) -> None:
    settings = pack.nodes.learn.inputs.settings_of(**{"preset": "full", "seed": 3, **widgets}, base=base)
    assert {key: getattr(settings, key) for key in expected} == expected
    assert settings.seed == 3


def test_the_family_and_its_settings_are_said(pack: ModuleType) -> None:
    in_a_line = pack.crossinit_core.learning.settings.in_a_line
    settings = pack.crossinit_core.learning.settings.presets_of("sdxl")["full"]
    assert in_a_line(settings, "sdxl") == "SDXL: 400 steps, batch 4, 768 px, rate 0.02"


def test_resume_files_of_before_still_belong() -> None:
    """A setting that did not exist yet changes nothing if it is left alone."""
    assert "regularizer" not in InversionSettings().identity()
    assert InversionSettings(regularizer="squared").identity()["regularizer"] == "squared"


# Photos


def test_both_regularizers_pull_towards_the_start(backbone: DiffusersBackbone) -> None:
    start = cross_initialize_words(backbone, "human face")
    kinds: tuple[Regularizer, ...] = ("distance", "squared")
    runs = {
        (kind, weight): invert(
            backbone, start, replace(SMALL, steps=6, regularizer=kind, regularization=weight), images=PHOTO
        ).token.vectors
        for kind in kinds
        for weight in (0.0, 10.0)
    }
    assert torch.equal(runs["distance", 0.0], runs["squared", 0.0])
    free, held = runs["squared", 0.0], runs["squared", 10.0]
    assert float((held - start).norm()) < float((free - start).norm())
    assert not torch.equal(held, runs["distance", 10.0])


def test_photos_are_learned_at_the_size_that_they_are_cut_to(backbone: DiffusersBackbone) -> None:
    settings = replace(SMALL, resolution=128)
    batches, _ = batches_from_photos(backbone, 2, settings, PHOTO, None)
    batch = next(batches)
    assert batch.latents.shape == (2, 4, 16, 16)
    assert batch.sizes is not None and batch.sizes.tolist() == [[128, 128, 0, 0, 128, 128]] * 2


def test_names_start_both_encoders(backbone: DiffusersBackbone) -> None:
    names = load_celebrity_names().names[:20]
    v0 = cross_initialize(backbone, names, 3)
    assert v0.shape == (3, 80) and bool(v0.isfinite().all())
    assert not torch.equal(v0, cross_initialize(backbone, names, 3, states="context"))
    with pytest.raises(ValueError, match="states is 'first'"):
        cross_initialize(backbone, names, 3, states="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"micro_batch_size": 1}, {"memory": "low"}, {"gradient_checkpointing": True}])
def test_saving_memory_changes_nothing_but_rounding(backbone: DiffusersBackbone, options: dict[str, Any]) -> None:
    start = cross_initialize_words(backbone, "human face")
    whole = invert(backbone, start, SMALL, images=PHOTO).token.vectors
    saved = invert(backbone, start, replace(SMALL, **options), images=PHOTO).token.vectors
    torch.testing.assert_close(saved, whole, atol=1e-4, rtol=0)


def test_fused_copies_learn_the_same(backbone: DiffusersBackbone) -> None:
    start = cross_initialize_words(backbone, "human face")
    plain = invert(backbone, start, SMALL, images=PHOTO).token.vectors
    backbone.fused = True
    torch.testing.assert_close(invert(backbone, start, SMALL, images=PHOTO).token.vectors, plain, atol=1e-4, rtol=0)


def _gradient(backbone: Any, encoded_as: Any, precision: str) -> torch.Tensor:
    """Of a loss by the token embeddings, through both encoders, the pooled output and the UNet."""
    generator = torch.Generator().manual_seed(0)
    embeddings, latents, target = (
        torch.randn(*shape, generator=generator) for shape in ((2, 77, 80), (2, 4, 8, 8), (2, 4, 8, 8))
    )
    embeddings = (embeddings * 0.3).requires_grad_()
    sizes, times = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2), torch.tensor([100, 700])
    with backbone.training(precision=precision, gradient_checkpointing=False) as model:
        encoded = model.encode(embeddings, torch.tensor([7, 9]))
        assert isinstance(encoded, encoded_as)
        error = model.predict(latents, times, encoded, sizes) - target
        return torch.autograd.grad(error.square().mean() * 2**10, embeddings)[0]


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("fp16", 0.999)])
def test_reduced_precision_goes_the_same_way(
    pack: ModuleType, folder: Path, backbone: DiffusersBackbone, precision: str, least: float
) -> None:
    backbone.fused = True
    for host, kind in ((_comfy(pack, folder), pack.crossinit_core.backbone.Encoded), (backbone, Encoded)):
        exact, rounded = (_gradient(host, kind, one).flatten() for one in ("fp32", precision))
        assert float(torch.cosine_similarity(exact, rounded, dim=0)) > least


# Noise schedules


def test_zero_terminal_snr_and_v_prediction_come_from_the_graph(pack: ModuleType, folder: Path, tmp_path: Path) -> None:
    comfy = _comfy(pack, folder, settings={"zsnr": True}, kind="V_PREDICTION")
    other = tmp_path / "zero-snr"
    shutil.copytree(folder, other)
    path = other / "scheduler/scheduler_config.json"
    path.chmod(0o644)
    path.parent.chmod(0o755)
    config = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    path.write_text(json.dumps({**config, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}))
    plain = DiffusersBackbone.from_pretrained(other)
    assert comfy.prediction_type == plain.prediction_type == "v_prediction"
    torch.testing.assert_close(comfy.alphas_cumprod(), plain.alphas_cumprod(), atol=1e-5, rtol=0)
    assert float(plain.alphas_cumprod()[999]) == 0
    # The last level is pure noise, from which v-prediction learns all the same.
    start = cross_initialize_words(plain, "human face")
    batches, _ = batches_from_photos(plain, 2, SMALL, PHOTO, None)
    last = [replace(next(batches), timesteps=torch.full((2,), 999)) for _ in range(2)]
    result = invert(plain, start, SMALL, batches=last)
    assert bool(result.token.vectors.isfinite().all()) and not torch.equal(result.token.vectors, start)


def test_pure_noise_is_learned_from_without_a_bad_number(backbone: DiffusersBackbone) -> None:
    """A schedule with zero terminal SNR on a model that predicts noise: there is nothing to see, and nothing breaks."""
    backbone._abar = backbone._abar.clone()
    backbone._abar[999] = 0
    reports: list[Any] = []
    batches, _ = batches_from_photos(backbone, 2, SMALL, PHOTO, None)
    last = [replace(next(batches), timesteps=torch.full((2,), 999)) for _ in range(2)]
    invert(backbone, cross_initialize_words(backbone, "human face"), SMALL, batches=last, on_step=reports.append)
    assert all(bool(report.denoised.isfinite().all()) for report in reports)


# The VAE


@pytest.fixture(scope="module")
def tiny_vae(tiny_comfy: Any, tiny_models: Path) -> Any:
    with torch.inference_mode():
        return tiny_comfy(tiny_models / "tiny-eps")[2]


LOUD = 3e5
"""What the first convolution is multiplied by: beyond float16's largest number, 65504."""


def test_a_vae_that_overflows_in_half_precision_does_no_harm(tiny_models: Path) -> None:
    backbone = DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps")
    with torch.no_grad():
        backbone.vae.encoder.conv_in.weight.mul_(LOUD)
    expected = backbone.posterior(PHOTO)
    backbone.vae.half()
    pixels = PHOTO.movedim(-1, 1).half() * 2 - 1
    assert not bool(backbone.vae.encode(pixels).latent_dist.mean.isfinite().all()), "it does not overflow"
    found = backbone.posterior(PHOTO)
    assert backbone.vae.dtype == torch.float16
    torch.testing.assert_close(found.mean, expected.mean, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found.std, expected.std, atol=2e-2, rtol=2e-2)


def test_the_graphs_vae_that_overflows_does_no_harm(pack: ModuleType, tiny_comfy: Any, tiny_models: Path) -> None:
    with torch.inference_mode():
        parts = SimpleNamespace(
            **dict(zip(("model", "clip", "vae"), tiny_comfy(tiny_models / "tiny-eps"), strict=True))
        )
        backbone = pack.nodes.host.backbone.ComfyBackbone(parts.model, parts.clip, parts.vae)
        stage = parts.vae.first_stage_model
        stage.encoder.conv_in.weight.data.mul_(LOUD)
        expected = backbone.posterior(PHOTO)
        stage.half()
        pixels = PHOTO.movedim(-1, 1).half() * 2 - 1
        assert not bool(stage.encode(pixels).isfinite().all()), "it does not overflow"
        found = backbone.posterior(PHOTO)
    torch.testing.assert_close(found.mean, expected.mean, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found.std, expected.std, atol=2e-2, rtol=2e-2)
