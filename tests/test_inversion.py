"""Learning: the published runs are reproduced, settings do what they say, and a run says what it does."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossinit_core import (
    InversionSettings,
    LearnedToken,
    StepReport,
    TrainingBatch,
    cross_initialize,
    invert,
    load_celebrity_names,
)
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.precision import Precision
from tests.tiny_learning import PHOTO, SMALL, Watched, broken, learn
from tests.tiny_models import MODELS, Prepared, prepare


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


@pytest.fixture(scope="module", params=["eps", "v"])
def published(request: pytest.FixtureRequest, reference: Path) -> Published:
    return _published(reference, request.param)


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
def test_saving_memory_by_small_pieces_changes_nothing(eps: Prepared, size: int) -> None:
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


def test_saving_memory_by_checkpointing_changes_nothing(eps: Prepared) -> None:
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


def test_the_regularizer_holds_the_vectors_near_their_start(eps: Prepared) -> None:
    free = learn(eps, replace(SMALL, steps=5, regularization=0.0))
    held = learn(eps, replace(SMALL, steps=5, regularization=10.0))
    assert free.distances[0] == pytest.approx(held.distances[0]) == pytest.approx(1e-6 * 32**0.5, rel=0.01)
    assert held.distances[-1] < 0.75 * free.distances[-1]


@pytest.mark.parametrize("vectors", [1, 8])
def test_any_number_of_vectors_can_be_learned(eps: Prepared, vectors: int) -> None:
    start = torch.randn(vectors, 32, generator=torch.Generator().manual_seed(0))
    result = invert(eps.backbone, start, SMALL, images=PHOTO)
    moved = (result.token.vectors - start).abs()
    assert moved.shape == (vectors, 32)
    assert all(float(row.max()) > 0.005 for row in moved), "a vector was not learned"
    assert torch.equal(start, torch.randn(vectors, 32, generator=torch.Generator().manual_seed(0)))


# Seeds and surroundings


def test_a_seed_gives_the_same_token_to_the_last_bit(eps: Prepared) -> None:
    torch.manual_seed(1)
    first = learn(eps)
    torch.manual_seed(2)
    second = learn(eps)
    assert torch.equal(first.token.vectors, second.token.vectors)
    assert first.losses == second.losses
    other = learn(eps, replace(SMALL, seed=2))
    assert not torch.equal(first.token.vectors, other.token.vectors)
    assert first.losses != other.losses


def test_the_largest_seed_works(eps: Prepared) -> None:
    def learned(seed: int) -> LearnedToken:
        return learn(eps, replace(SMALL, steps=1, seed=seed)).token

    largest = 2**64 - 1
    token = learned(largest)
    assert token.metadata["crossinit.seed"] == str(largest)
    assert torch.equal(token.vectors, learned(largest).vectors)
    # It is neither cut off at another limit nor taken for its neighbour. (Of a seed, torch's CPU generator uses 32 bits.)
    for other in (0, 1, largest - 1):
        assert not torch.equal(token.vectors, learned(other).vectors), other


def test_nobody_elses_random_numbers_are_used_up(eps: Prepared) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    learn(eps, replace(SMALL, gradient_checkpointing=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    after = np.random.get_state()
    assert all(np.array_equal(new, old) for new, old in zip(after, before[2], strict=True))


def test_it_learns_inside_inference_mode(eps: Prepared) -> None:
    """ComfyUI runs nodes in it, and its images are inference tensors."""
    expected = learn(eps)
    with torch.inference_mode():
        inside = invert(eps.backbone, eps.start.clone(), SMALL, images=PHOTO.clone())
    with torch.no_grad():
        also = learn(eps)
    for result in (inside, also):
        assert torch.equal(result.token.vectors, expected.token.vectors)
        assert not result.token.vectors.is_inference()
    with torch.inference_mode():
        batches = [
            TrainingBatch(*(part.clone() for part in (b.latents, b.noise, b.timesteps, b.prompt_token_ids)))
            for b in eps.batches(2)
        ]
        replayed = learn(eps, InversionSettings(steps=2), batches=batches)
    outside = learn(eps, InversionSettings(steps=2), batches=eps.batches(2))
    assert torch.equal(replayed.token.vectors, outside.token.vectors)


def test_nothing_is_left_behind(eps: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    weights = {name: weight.clone() for name, weight in eps.backbone.unet.named_parameters()}
    table = eps.backbone.text_encoder.get_input_embeddings().weight.clone()
    environment = dict(os.environ)
    learn(eps, replace(SMALL, precision="bf16", gradient_checkpointing=True))
    learn(eps)
    with pytest.raises(RuntimeError, match="broken"):
        learn(eps, backbone=Watched(eps.backbone, broken))
    assert dict(os.environ) == environment
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    for name, weight in eps.backbone.unet.named_parameters():
        assert torch.equal(weight, weights[name])
        assert weight.grad is None
    assert torch.equal(eps.backbone.text_encoder.get_input_embeddings().weight, table)
    assert all(part.grad is None for part in eps.backbone.text_encoder.parameters())


@pytest.mark.parametrize("frozen_before", [False, True])
def test_garbage_collection_leaves_older_objects_alone_while_it_learns(eps: Prepared, frozen_before: bool) -> None:
    """Going through all objects of a host takes as long as ten steps. Who froze them before finds them frozen."""
    frozen: list[int] = []
    if frozen_before:
        gc.freeze()
    try:
        before = gc.get_freeze_count()
        learn(eps, on_step=lambda step: frozen.append(gc.get_freeze_count()))
        assert min(frozen) > 1000 and bool(before) == bool(gc.get_freeze_count()) == frozen_before
    finally:
        gc.unfreeze()


def test_half_precision_gives_nearly_the_same(eps: Prepared) -> None:
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


def test_every_precision_names_the_same_model(eps: Prepared) -> None:
    """A token names the same model whatever it was computed in."""
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    named = {learn(eps, replace(SMALL, precision=kind)).token.metadata["crossinit.base_hash"] for kind in kinds}
    assert len(named) == 1


# Reports


def test_each_step_is_reported(eps: Prepared) -> None:
    steps: list[StepReport] = []
    result = learn(eps, on_step=steps.append)
    assert [(step.step, step.steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(step.denoised.shape == (1, 4, 8, 8) for step in steps)
    assert torch.equal(steps[-1].vectors, result.token.vectors)
    assert not torch.equal(steps[0].vectors, steps[1].vectors)
    assert result.seconds > 0
    assert result.resumed_from == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_preview_is_what_the_model_sees(tiny_models: Path, name: str) -> None:
    """With a UNet that is always right, the estimate is the latents themselves."""
    tiny = prepare(DiffusersBackbone.from_pretrained(tiny_models / name))
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


def test_the_token_says_how_it_was_learned(eps: Prepared) -> None:
    result = learn(eps, name="ann", metadata={"crossinit.names": "bundled"})
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
