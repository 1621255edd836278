"""Learning: the published runs are reproduced, settings do what they say, and wrong inputs are refused early."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossinit_core import (
    InversionResult,
    InversionSettings,
    StepReport,
    TrainingBatch,
    cross_initialize,
    invert,
    load_celebrity_names,
)
from crossinit_core.backbone import Posterior
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.draws import PhotoDraws
from crossinit_core.numerics import Determinism, is_out_of_memory
from tests.tiny_models import MODELS, Draws, make_draws

SMALL = InversionSettings(steps=3, batch_size=4, resolution=64, seed=1)
PHOTO = torch.rand(1, 70, 80, 3, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Published:
    """A model and what the published code did with it."""

    backbone: DiffusersBackbone
    names: tuple[str, ...]
    trace: dict[str, Any]

    @property
    def start(self) -> Tensor:
        return torch.from_numpy(self.trace["init"])

    def batches(self, steps: int = 24) -> list[TrainingBatch]:
        arrays = [torch.from_numpy(self.trace[key]) for key in ("latents", "noise", "timesteps", "input_ids")]
        return [TrainingBatch(*(array[step] for array in arrays)) for step in range(steps)]


def _published(reference: Path, kind: str) -> Published:
    return Published(
        DiffusersBackbone.from_pretrained(reference / f"tiny-{kind}"),
        load_celebrity_names(reference / "celebrity-names.txt").names,
        dict(np.load(reference / f"trace-{kind}.npz")),
    )


@pytest.fixture(scope="module")
def eps(tiny_models: Path) -> Draws:
    return make_draws(DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps"))


@pytest.fixture(scope="module", params=["eps", "v"])
def published(request: pytest.FixtureRequest, reference: Path) -> Published:
    return _published(reference, request.param)


class Watched:
    """A backbone whose UNet is called through `around(predict, noisy_latents, timesteps, context)`."""

    def __init__(self, backbone: DiffusersBackbone, around: Callable[..., Tensor]) -> None:
        self._backbone, self._around = backbone, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    @contextmanager
    def training(self, **options: Any) -> Iterator[Any]:
        with self._backbone.training(**options) as model:
            predict = model.predict
            model.predict = lambda *inputs: self._around(predict, *inputs)  # type: ignore[method-assign]
            yield model


def _learn(tiny: Draws, settings: InversionSettings = SMALL, **inputs: Any) -> InversionResult:
    if "batches" not in inputs:
        inputs.setdefault("images", PHOTO)
    return invert(inputs.pop("backbone", tiny.backbone), tiny.start, settings, **inputs)


# The published method


def test_the_published_run_is_reproduced(published: Published) -> None:
    v0 = cross_initialize(published.backbone, published.names, 2)
    torch.testing.assert_close(v0, published.start, atol=1e-5, rtol=0)
    steps: list[StepReport] = []
    settings = InversionSettings(steps=24)
    result = invert(published.backbone, v0, settings, batches=published.batches(), on_step=steps.append)
    vectors = torch.stack([step.vectors for step in steps])
    torch.testing.assert_close(vectors, torch.from_numpy(published.trace["embeds"]), atol=1e-5, rtol=0)
    assert torch.equal(result.token.vectors, vectors[-1])
    assert result.losses == pytest.approx(published.trace["mse"], abs=1e-5)
    assert result.distances == pytest.approx(published.trace["reg"], abs=1e-5)
    assert result.losses == [step.loss for step in steps]
    assert result.distances == [step.regularization for step in steps]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_saving_memory_by_small_pieces_changes_nothing(eps: Draws, size: int) -> None:
    sizes: list[int] = []

    def around(predict: Any, noisy: Tensor, *more: Tensor) -> Tensor:
        sizes.append(len(noisy))
        return predict(noisy, *more)

    settings = InversionSettings(steps=6, micro_batch_size=size)
    result = invert(Watched(eps.backbone, around), eps.start, settings, batches=eps.batches(6))
    whole = invert(eps.backbone, eps.start, InversionSettings(steps=6), batches=eps.batches(6))
    torch.testing.assert_close(result.token.vectors, whole.token.vectors, atol=1e-5, rtol=0)
    assert result.losses == pytest.approx(whole.losses, abs=1e-5)
    assert max(sizes) == size
    assert sum(sizes) == 6 * 8


def test_saving_memory_by_checkpointing_changes_nothing(eps: Draws) -> None:
    active: list[bool] = []

    def around(predict: Any, *inputs: Tensor) -> Tensor:
        active.append(eps.backbone.unet.is_gradient_checkpointing and eps.backbone.unet.training)
        return predict(*inputs)

    settings = InversionSettings(steps=6, gradient_checkpointing=True)
    result = invert(Watched(eps.backbone, around), eps.start, settings, batches=eps.batches(6))
    whole = invert(eps.backbone, eps.start, InversionSettings(steps=6), batches=eps.batches(6))
    torch.testing.assert_close(result.token.vectors, whole.token.vectors, atol=1e-5, rtol=0)
    assert all(active)
    assert not eps.backbone.unet.is_gradient_checkpointing
    assert not eps.backbone.unet.training


def test_the_regularizer_holds_the_vectors_near_their_start(eps: Draws) -> None:
    free = _learn(eps, replace(SMALL, steps=5, regularization=0.0))
    held = _learn(eps, replace(SMALL, steps=5, regularization=10.0))
    assert free.distances[0] == pytest.approx(held.distances[0]) == pytest.approx(1e-6 * 32**0.5, rel=0.01)
    assert held.distances[-1] < 0.75 * free.distances[-1]


@pytest.mark.parametrize("vectors", [1, 8])
def test_any_number_of_vectors_can_be_learned(eps: Draws, vectors: int) -> None:
    start = torch.randn(vectors, 32, generator=torch.Generator().manual_seed(0))
    result = invert(eps.backbone, start, SMALL, images=PHOTO)
    moved = (result.token.vectors - start).abs()
    assert moved.shape == (vectors, 32)
    assert all(float(row.max()) > 0.005 for row in moved), "a vector was not learned"
    assert torch.equal(start, torch.randn(vectors, 32, generator=torch.Generator().manual_seed(0)))


# Seeds and surroundings


def test_a_seed_gives_the_same_token_to_the_last_bit(eps: Draws) -> None:
    torch.manual_seed(1)
    first = _learn(eps)
    torch.manual_seed(2)
    second = _learn(eps)
    assert torch.equal(first.token.vectors, second.token.vectors)
    assert first.losses == second.losses
    other = _learn(eps, replace(SMALL, seed=2))
    assert not torch.equal(first.token.vectors, other.token.vectors)
    assert first.losses != other.losses


def test_the_largest_seed_works(eps: Draws) -> None:
    _learn(eps, replace(SMALL, steps=1, seed=2**64 - 1))


def test_nobody_elses_random_numbers_are_used_up(eps: Draws) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    _learn(eps, replace(SMALL, gradient_checkpointing=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    after = np.random.get_state()
    assert all(np.array_equal(new, old) for new, old in zip(after, before[2], strict=True))


def test_it_learns_inside_inference_mode(eps: Draws) -> None:
    """ComfyUI runs nodes in it, and its images are inference tensors."""
    expected = _learn(eps)
    with torch.inference_mode():
        inside = invert(eps.backbone, eps.start.clone(), SMALL, images=PHOTO.clone())
    with torch.no_grad():
        also = _learn(eps)
    for result in (inside, also):
        assert torch.equal(result.token.vectors, expected.token.vectors)
        assert not result.token.vectors.is_inference()
    with torch.inference_mode():
        batches = [
            TrainingBatch(*(part.clone() for part in (b.latents, b.noise, b.timesteps, b.prompt_token_ids)))
            for b in eps.batches(2)
        ]
        replayed = _learn(eps, InversionSettings(steps=2), batches=batches)
    outside = _learn(eps, InversionSettings(steps=2), batches=eps.batches(2))
    assert torch.equal(replayed.token.vectors, outside.token.vectors)


def test_nothing_is_left_behind(eps: Draws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    weights = {name: weight.clone() for name, weight in eps.backbone.unet.named_parameters()}
    table = eps.backbone.text_encoder.get_input_embeddings().weight.clone()
    environment = dict(os.environ)
    _learn(eps, replace(SMALL, precision="bf16", gradient_checkpointing=True))
    _learn(eps)
    with pytest.raises(RuntimeError, match="broken"):
        _learn(eps, backbone=Watched(eps.backbone, _broken))
    assert dict(os.environ) == environment
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    for name, weight in eps.backbone.unet.named_parameters():
        assert torch.equal(weight, weights[name])
        assert weight.grad is None
    assert torch.equal(eps.backbone.text_encoder.get_input_embeddings().weight, table)
    assert all(part.grad is None for part in eps.backbone.text_encoder.parameters())


def test_half_precision_gives_nearly_the_same(eps: Draws) -> None:
    full = invert(eps.backbone, eps.start, InversionSettings(steps=4, precision="fp32"), batches=eps.batches(4))
    dtypes: list[torch.dtype] = []

    def around(predict: Any, *inputs: Tensor) -> Tensor:
        out = predict(*inputs)
        dtypes.append(out.dtype)
        return out

    half = invert(
        Watched(eps.backbone, around), eps.start, InversionSettings(steps=4, precision="bf16"), batches=eps.batches(4)
    )
    assert half.losses == pytest.approx(full.losses, rel=0.02)
    assert not torch.equal(half.token.vectors, full.token.vectors)
    assert set(dtypes) == {torch.float32}, "losses must be computed in float32"
    assert half.token.metadata["crossinit.precision"] == "bfloat16"


# Masks


def test_a_mask_of_ones_changes_nothing(eps: Draws) -> None:
    plain = _learn(eps)
    masked = _learn(eps, masks=torch.ones(1, 70, 80))
    torch.testing.assert_close(masked.token.vectors, plain.token.vectors, atol=1e-6, rtol=0)
    assert masked.losses == pytest.approx(plain.losses, abs=1e-6)


def test_a_mask_changes_what_is_learned(eps: Draws) -> None:
    half = torch.zeros(1, 70, 80)
    half[:, :, :40] = 1
    masked = _learn(eps, masks=half)
    assert float((masked.token.vectors - _learn(eps).token.vectors).abs().max()) > 1e-3


def _with_another_target(batch: TrainingBatch, where: Tensor, abar: Tensor, amount: Tensor) -> TrainingBatch:
    """The same noisy latents, made of other latents and other noise where `where` is 1."""
    signal, rest = (abar[batch.timesteps][:, None, None, None] ** 0.5), (1 - abar[batch.timesteps]) ** 0.5
    change = amount * where
    return replace(
        batch, noise=batch.noise + change, latents=batch.latents - rest[:, None, None, None] / signal * change
    )


def test_what_the_mask_covers_is_not_learned(eps: Draws) -> None:
    """Noise and latents are changed under the mask so that the UNet's input stays and only its target differs."""
    mask = torch.zeros(8, 1, 8, 8)
    mask[..., :4] = 1
    amount = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # Small timesteps, where a division by the signal's share does not cost precision.
    batches = [
        replace(batch, timesteps=batch.timesteps % 300, mask=mask.expand(8, 1, 8, 8)) for batch in eps.batches(4)
    ]
    abar = eps.backbone.alphas_cumprod()
    changed = [_with_another_target(batch, 1 - mask, abar, amount) for batch in batches]
    settings = InversionSettings(steps=4)
    expected = _learn(eps, settings, batches=batches)
    result = _learn(eps, settings, batches=changed)
    torch.testing.assert_close(result.token.vectors, expected.token.vectors, atol=1e-4, rtol=0)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    unmasked = _learn(eps, settings, batches=[replace(batch, mask=None) for batch in changed])
    assert float((unmasked.token.vectors - expected.token.vectors).abs().max()) > 1e-3


def test_the_loss_is_the_mean_over_what_the_mask_shows(eps: Draws) -> None:
    """A UNet that is wrong by 3 in the left half and by 1 in the right one."""
    batch = eps.batches(1)[0]
    error = torch.ones(8, 4, 8, 8)
    error[..., :4] = 3
    wrong = Watched(eps.backbone, lambda predict, *inputs: predict(*inputs) * 0 + batch.noise + error)
    mask = torch.zeros(8, 1, 8, 8)
    mask[..., 4:] = 1
    settings = InversionSettings(steps=1)
    for weights, loss in ((None, 5.0), (mask, 1.0), (1 - mask, 9.0), (mask * 0.5, 1.0), (1 - mask * 0.5, 19 / 3)):
        result = _learn(eps, settings, backbone=wrong, batches=[replace(batch, mask=weights)])
        assert result.losses == pytest.approx([loss], rel=1e-5)


def test_a_mask_is_mirrored_with_its_photo() -> None:
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    upright, mirrored = (Posterior(torch.full((1, 4, 8, 8), value), torch.zeros(1, 4, 8, 8)) for value in (0.0, 1.0))
    draws = PhotoDraws(
        upright,
        mirrored,
        torch.zeros(1, 77, dtype=torch.int64),
        batch_size=50,
        flip_probability=0.5,
        seed=0,
        masks=left,
    )
    batch = next(draws)
    assert batch.mask is not None
    for latents, mask in zip(batch.latents, batch.mask, strict=True):
        assert torch.equal(mask, left[0].flip(-1) if latents.mean() == 1 else left[0])
    assert 0 < float(batch.latents.mean()) < 1


# Photos and draws


def _draws(photos: int = 1, std: float = 0.0, flip: float = 0.0, batch_size: int = 8, seed: int = 0) -> PhotoDraws:
    """Draws whose latents say which photo they are of: its number, and a half more where it is mirrored."""
    mean = torch.arange(photos).float()[:, None, None, None].expand(photos, 4, 2, 2)
    spread = torch.full_like(mean, std)
    prompts = torch.arange(57)[:, None].expand(57, 77)
    return PhotoDraws(
        Posterior(mean, spread),
        Posterior(mean + 0.5, spread),
        prompts,
        batch_size=batch_size,
        flip_probability=flip,
        seed=seed,
    )


@pytest.mark.parametrize("photos", [1, 3, 7])
def test_all_photos_are_drawn_equally_often(photos: int) -> None:
    draws = _draws(photos, batch_size=4)
    drawn = torch.cat([next(draws).latents[:, 0, 0, 0] for _ in range(100 * photos // 4)])
    assert drawn.long().bincount(minlength=photos).tolist() == [100] * photos


def test_photos_are_shuffled() -> None:
    drawn = torch.cat([next(draws).latents[:, 0, 0, 0] for draws in [_draws(2, batch_size=50)] for _ in range(2)])
    assert 10 < int((drawn[1:] != drawn[:-1]).sum()) < 90
    other = next(_draws(2, batch_size=100, seed=1)).latents[:, 0, 0, 0]
    assert not torch.equal(drawn, other)


def test_every_batch_is_a_whole_one() -> None:
    """The published code makes every 13th batch a half one."""
    draws = _draws()
    assert [len(next(draws)) for _ in range(40)] == [8] * 40


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0.0, 0.0), (0.5, 0.45, 0.55), (1.0, 1.0, 1.0)])
def test_photos_are_mirrored_with_the_probability_asked_for(probability: float, low: float, high: float) -> None:
    batch = next(_draws(1, flip=probability, batch_size=2000))
    assert low <= float((batch.latents[:, 0, 0, 0] == 0.5).float().mean()) <= high


def test_latents_are_what_the_unet_is_used_to(eps: Draws) -> None:
    """The VAE sees -1..1, and its latents are scaled by 0.18215."""
    photos = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = eps.backbone.vae.encode(photos.movedim(-1, 1) * 2 - 1).latent_dist
    posterior = eps.backbone.posterior(photos)
    torch.testing.assert_close(posterior.mean, expected.mean * 0.18215, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(posterior.std, expected.std * 0.18215, atol=1e-5, rtol=1e-4)


def test_latents_are_samples_of_the_posterior() -> None:
    latents = next(_draws(1, std=3.0, batch_size=5000)).latents
    assert float(latents.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(latents.std()) == pytest.approx(3.0, rel=0.02)
    assert not torch.equal(latents[0], latents[1])


def test_noise_timesteps_and_prompts_cover_their_ranges() -> None:
    batch = next(_draws(batch_size=10_000))
    assert float(batch.noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(batch.noise.std()) == pytest.approx(1.0, rel=0.02)
    assert (int(batch.timesteps.min()), int(batch.timesteps.max())) == (0, 999)
    assert float(batch.timesteps.float().mean()) == pytest.approx(499.5, abs=10)
    assert batch.prompt_token_ids[:, 0].bincount(minlength=57).min() > 100


def test_photos_of_different_sizes_are_learned_together(eps: Draws) -> None:
    generator = torch.Generator().manual_seed(5)
    photos = [PHOTO, torch.rand(2, 90, 64, 3, generator=generator), torch.rand(1, 64, 64, 1, generator=generator)]
    settings = replace(SMALL, batch_size=8)
    masks = [torch.ones(1, 70, 80), torch.ones(2, 30, 20), torch.ones(1, 64, 64)]
    together = _learn(eps, settings, images=photos)
    masked = _learn(eps, settings, images=photos, masks=masks)
    torch.testing.assert_close(masked.token.vectors, together.token.vectors, atol=1e-6, rtol=0)
    for left_out in range(3):
        fewer = _learn(eps, settings, images=photos[:left_out] + photos[left_out + 1 :])
        assert not torch.equal(fewer.token.vectors, together.token.vectors)


def test_the_flip_is_of_the_photo(eps: Draws) -> None:
    """Always mirrored is the same as a mirrored photo that is never mirrored."""
    square = PHOTO[:, :, :70]
    mirrored = _learn(eps, replace(SMALL, flip_probability=1.0), images=square)
    by_hand = _learn(eps, replace(SMALL, flip_probability=0.0), images=square.flip(2))
    torch.testing.assert_close(mirrored.token.vectors, by_hand.token.vectors, atol=1e-6, rtol=0)


# Reports


def test_each_step_is_reported(eps: Draws) -> None:
    steps: list[StepReport] = []
    result = _learn(eps, on_step=steps.append)
    assert [(step.step, step.steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(step.denoised.shape == (1, 4, 8, 8) for step in steps)
    assert torch.equal(steps[-1].vectors, result.token.vectors)
    assert not torch.equal(steps[0].vectors, steps[1].vectors)
    assert result.seconds > 0
    assert result.resumed_from == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_preview_is_what_the_model_sees(tiny_models: Path, name: str) -> None:
    """With a UNet that is always right, the estimate is the latents themselves."""
    tiny = make_draws(DiffusersBackbone.from_pretrained(tiny_models / name))
    batch = replace(tiny.batches(1)[0], timesteps=torch.full((8,), 500))
    abar = tiny.backbone.alphas_cumprod()[500]
    truth = batch.noise
    if tiny.backbone.prediction_type == "v_prediction":
        truth = abar.sqrt() * batch.noise - (1 - abar).sqrt() * batch.latents
    steps: list[StepReport] = []
    right = Watched(tiny.backbone, lambda predict, *inputs: predict(*inputs) * 0 + truth)
    invert(right, tiny.start, InversionSettings(steps=1), batches=[batch], on_step=steps.append)
    torch.testing.assert_close(steps[0].denoised, batch.latents[:1], atol=1e-4, rtol=0)
    assert steps[0].loss == pytest.approx(0, abs=1e-9)


def test_the_token_says_how_it_was_learned(eps: Draws) -> None:
    result = _learn(eps, name="ann", metadata={"crossinit.names": "bundled"})
    token, facts = result.token, result.token.metadata
    assert (token.name, token.base, token.width) == ("ann", "width-32", 32)
    expected = {
        "crossinit.names": "bundled",
        "crossinit.steps": "3",
        "crossinit.seed": "1",
        "crossinit.learning_rate": "0.005",
        "crossinit.lambda": "1e-05",
        "crossinit.vectors": "2",
        "crossinit.checkpoint": "tiny-eps",
        "crossinit.prediction_type": "epsilon",
        "modelspec.resolution": "64x64",
    }
    assert expected.items() <= facts.items()
    distances = (token.vectors - eps.start).norm(dim=1).tolist()
    assert [float(text) for text in facts["crossinit.distance"].split()] == pytest.approx(distances, abs=1e-3)


# Memory and numbers that give out


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (MPS allocated..)")]
)
def test_too_little_memory_is_met_with_smaller_pieces(
    eps: Draws, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def around(predict: Any, noisy: Tensor, *more: Tensor) -> Tensor:
        if len(noisy) > 2:
            raise error
        return predict(noisy, *more)

    settings = replace(SMALL, batch_size=8)
    with caplog.at_level(logging.WARNING):
        result = _learn(eps, settings, backbone=Watched(eps.backbone, around))
    expected = _learn(eps, replace(settings, micro_batch_size=2))
    torch.testing.assert_close(result.token.vectors, expected.token.vectors, atol=1e-6, rtol=0)
    assert result.losses == pytest.approx(expected.losses, abs=1e-6)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(":")[0] for text in warnings] == ["Out of memory"] * 2
    assert "micro-batches of 2" in warnings[-1]


def test_memory_that_gives_out_in_the_middle_of_a_batch_changes_nothing(eps: Draws) -> None:
    calls = 0

    def around(predict: Any, noisy: Tensor, *more: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # the second half of the second batch
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(noisy, *more)

    settings = replace(SMALL, micro_batch_size=2)
    result = _learn(eps, settings, backbone=Watched(eps.backbone, around))
    torch.testing.assert_close(result.token.vectors, _learn(eps, settings).token.vectors, atol=1e-6, rtol=0)


def test_too_little_memory_for_anything_comes_with_advice(eps: Draws) -> None:
    def around(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match=r"at 64 px even with one sample .* gradient_checkpointing"):
        _learn(eps, backbone=Watched(eps.backbone, around))


def _broken(*_: Any) -> Tensor:
    raise RuntimeError("the model is broken")


def test_another_error_is_not_taken_for_a_lack_of_memory(eps: Draws) -> None:
    with pytest.raises(RuntimeError, match="the model is broken"):
        _learn(eps, backbone=Watched(eps.backbone, _broken))


def test_a_device_without_reproducible_operations_still_learns(eps: Draws, caplog: pytest.LogCaptureFixture) -> None:
    """As torch does on some GPUs: an error while it is told to be strict, and none while it is told to warn."""

    def around(predict: Any, *inputs: Tensor) -> Tensor:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("upsample_backward does not have a deterministic implementation, but you set ..")
        return predict(*inputs)

    with caplog.at_level(logging.WARNING):
        result = _learn(eps, backbone=Watched(eps.backbone, around))
    assert torch.equal(result.token.vectors, _learn(eps).token.vectors)
    assert "cannot repeat a run bit for bit" in caplog.text
    assert not torch.are_deterministic_algorithms_enabled()


def test_convolutions_that_the_host_turned_off_stay_off() -> None:
    """ComfyUI does without MIOpen on newer AMD GPUs, where it is slow."""
    with torch.backends.cudnn.flags(enabled=False), Determinism():
        assert not torch.backends.cudnn.enabled


def test_a_processor_without_memory_says_so_too() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_overflow_stop_the_run(eps: Draws, value: float) -> None:
    calls = 0

    def around(predict: Any, *inputs: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return predict(*inputs) * (value if calls == 2 else 1)

    with pytest.raises(
        FloatingPointError, match=r"Step 2 gave numbers that are not finite in float32.*Lower the learning rate"
    ):
        _learn(eps, backbone=Watched(eps.backbone, around))


# Wrong inputs

NOTHING_HEAVY = SimpleNamespace(width=32, resolution=64, device=torch.device("cpu"))
"""Every long work on this backbone is an AttributeError, so a ValueError was raised before it."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps is -1, but must be at least 1"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0, but must be at least 1"),
        ({"resume_every": 0}, "resume_every is 0, but must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0, but must be above 0"),
        ({"learning_rate": -0.1}, r"learning_rate is -0\.1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"learning_rate": 5.0}, r"learning_rate is 5\.0.* at most 1"),
        ({"weight_decay": -1.0}, r"weight_decay is -1\.0, but must be 0 or more"),
        ({"regularization": float("nan")}, "regularization is nan, but must be 0 or more"),
        ({"flip_probability": 1.5}, r"flip_probability is 1\.5, but must lie in 0\.\.1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"precision": "fp8"}, "precision is 'fp8', but must be one of auto, fp32, bf16, fp16"),
        ({"resolution": 100}, "resolution is 100, but must be a multiple of 64 from 64 to 1024"),
        ({"resolution": 0}, "resolution is 0"),
        ({"resolution": 1088}, "resolution is 1088"),
        ({"resolution": 512}, "resolution is 512, but this model draws 64 px.* Set resolution to 64"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once(change: dict[str, Any], message: str) -> None:
    settings = replace(InversionSettings(), **change)
    with pytest.raises(ValueError, match=message):
        invert(NOTHING_HEAVY, torch.zeros(2, 32), settings, images=PHOTO)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(0, 64, 64, 3)}, "The batch of photos is empty"),
        ({"images": []}, "The batch of photos is empty"),
        ({"images": torch.rand(1, 1, 1, 3)}, "The photo is 1 x 1 px, but at least 64 x 64 px"),
        ({"images": torch.rand(1, 500, 63, 3)}, "The photo is 63 x 500 px"),
        ({"images": torch.rand(64, 64, 3)}, r"shape \(N, height, width, channels\), but is \(64, 64, 3\)"),
        ({"images": torch.rand(1, 64, 64, 2)}, "The photo has 2 channels"),
        ({"images": [torch.rand(1, 64, 64, 3), torch.full((1, 64, 64, 3), torch.nan)]}, "NaN"),
        ({"images": torch.rand(1, 64, 64, 3) * 255}, r"values go from .* but must lie in 0\.\.1\. Divide"),
        ({"images": torch.rand(1, 64, 64, 3) * 2 - 1}, r"values go from -.* but must lie in 0\.\.1"),
        ({"masks": torch.zeros(1, 70, 80)}, "Mask 1 leaves nothing"),
        ({"masks": torch.ones(2, 70, 80)}, "2 masks for 1 photos"),
        ({"batches": []}, "either images or batches"),
        ({"images": None}, "either images or batches"),
        ({"v0": torch.zeros(2, 1024)}, "initialization has width 1024, but this model's text encoder has width 32"),
        ({"v0": torch.zeros(9, 32)}, r"1 to 8 vectors of shape \(K, d\), but is \(9, 32\)"),
        ({"v0": torch.zeros(0, 32)}, r"1 to 8 vectors of shape \(K, d\), but is \(0, 32\)"),
        ({"v0": torch.zeros(32)}, r"1 to 8 vectors of shape \(K, d\), but is \(32,\)"),
        ({"v0": None}, r"1 to 8 vectors of shape \(K, d\), but is NoneType"),
        ({"v0": torch.full((2, 32), torch.inf)}, "initialization holds values that are not numbers"),
        ({"name": "my face"}, "The token name 'my face' holds a space.*'my-face'"),
    ],
)
def test_an_input_that_cannot_be_is_refused_before_any_work(change: dict[str, Any], message: str) -> None:
    inputs = {"v0": torch.zeros(2, 32), "images": PHOTO, "settings": SMALL} | change
    with pytest.raises(ValueError, match=message):
        invert(NOTHING_HEAVY, **inputs)


def test_batches_that_end_too_early_are_counted(eps: Draws) -> None:
    with pytest.raises(ValueError, match="The batches ended after 2, but 3 steps were asked for"):
        _learn(eps, batches=eps.batches(2))


def test_an_empty_batch_is_named(eps: Draws) -> None:
    first = eps.batches(1)[0]
    empty = TrainingBatch(first.latents[:0], first.noise[:0], first.timesteps[:0], first.prompt_token_ids[:0])
    with pytest.raises(ValueError, match="Batch 2 is empty"):
        _learn(eps, batches=[first, empty, first])


def test_a_training_prompt_that_does_not_fit_is_named(eps: Draws) -> None:
    long = replace(SMALL, templates=("a photo of " + "very " * 75 + "old {}",))
    with pytest.raises(ValueError, match=r"The training prompt 'a photo of .* Shorten it"):
        _learn(eps, long)
    with pytest.raises(ValueError, match=r"exactly one \{\} for the person, but got: 'a photo'"):
        _learn(eps, replace(SMALL, templates=("a photo",)))
