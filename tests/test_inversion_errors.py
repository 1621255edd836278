"""Learning that cannot go on: too little memory, numbers that overflow, and wrong inputs, which are refused early."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossinit_core import InversionSettings, TrainingBatch, invert
from crossinit_core.backbone import Posterior
from crossinit_core.gpu.modes import Determinism, is_out_of_memory
from tests.tiny_learning import PHOTO, SMALL, Watched, broken, learn
from tests.tiny_models import Prepared

# Memory and numbers that give out


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (MPS allocated..)")]
)
def test_too_little_memory_is_met_with_smaller_pieces(
    eps: Prepared, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def around(predict: Any, noisy: Tensor, *more: Tensor) -> Tensor:
        if len(noisy) > 2:
            raise error
        return predict(noisy, *more)

    settings = replace(SMALL, batch_size=8)
    with caplog.at_level(logging.WARNING):
        result = learn(eps, settings, backbone=Watched(eps.backbone, around))
    expected = learn(eps, replace(settings, micro_batch_size=2))
    torch.testing.assert_close(result.token.vectors, expected.token.vectors, atol=1e-6, rtol=0)
    assert result.losses == pytest.approx(expected.losses, abs=1e-6)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(":")[0] for text in warnings] == ["Out of memory"] * 2
    assert "micro-batches of 2" in warnings[-1]


def test_memory_that_gives_out_changes_nothing(eps: Prepared) -> None:
    """Memory that gives out in the middle of a batch changes nothing."""
    calls = 0

    def around(predict: Any, noisy: Tensor, *more: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # the second half of the second batch
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(noisy, *more)

    settings = replace(SMALL, micro_batch_size=2)
    result = learn(eps, settings, backbone=Watched(eps.backbone, around))
    torch.testing.assert_close(result.token.vectors, learn(eps, settings).token.vectors, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"memory": "normal"}, "set memory to low or turn on gradient_checkpointing, use a smaller resolution"),
        ({"memory": "normal", "gradient_checkpointing": True}, "use a smaller resolution"),
        ({"memory": "low"}, "use a smaller resolution"),
        ({"memory": "auto"}, "use a smaller resolution"),  # it has tried the low-memory mode by itself
    ],
)
def test_full_memory_comes_with_advice(eps: Prepared, change: dict[str, Any], advice: str) -> None:
    """Too little memory for anything comes with advice that is not followed yet."""

    def around(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(
        torch.OutOfMemoryError, match=rf"at 64 px even with one sample at a time\. To go on, {advice}, or"
    ):
        learn(eps, replace(SMALL, **change), backbone=Watched(eps.backbone, around))


def test_another_error_is_not_taken_for_a_lack_of_memory(eps: Prepared) -> None:
    with pytest.raises(RuntimeError, match="the model is broken"):
        learn(eps, backbone=Watched(eps.backbone, broken))


def test_a_device_without_reproducible_operations_still_learns(eps: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    """As torch does on some GPUs: an error while it is told to be strict, and none while it is told to warn."""

    def around(predict: Any, *inputs: Tensor) -> Tensor:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("upsample_backward does not have a deterministic implementation, but you set ..")
        return predict(*inputs)

    with caplog.at_level(logging.WARNING):
        result = learn(eps, backbone=Watched(eps.backbone, around))
    assert torch.equal(result.token.vectors, learn(eps).token.vectors)
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
def test_numbers_that_overflow_stop_the_run(eps: Prepared, value: float) -> None:
    calls = 0

    def around(predict: Any, *inputs: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return predict(*inputs) * (value if calls == 2 else 1)

    with pytest.raises(
        FloatingPointError, match=r"Step 2 gave numbers that are not finite in float32.*Lower the learning rate"
    ):
        learn(eps, backbone=Watched(eps.backbone, around))


def test_an_overflow_at_once_blames_the_model(eps: Prepared) -> None:
    """In every precision: before the first step the learning rate has changed nothing."""
    with pytest.raises(
        FloatingPointError, match=r"Step 1 gave .* not finite in float32.*use another one, or this one without LoRAs"
    ) as told:
        learn(
            eps,
            replace(SMALL, precision="bf16"),
            backbone=Watched(eps.backbone, lambda predict, *inputs: predict(*inputs) * torch.inf),
        )
    assert "learning rate" not in str(told.value)


# Wrong inputs

NOTHING_HEAVY = SimpleNamespace(widths=(32,), resolution=64, device=torch.device("cpu"))
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
        invert(NOTHING_HEAVY, torch.zeros(2, 32), settings, images=PHOTO)


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
    inputs: dict[str, Any] = {"v0": torch.zeros(2, 32), "images": PHOTO, "settings": SMALL} | change
    with pytest.raises(ValueError, match=message):
        invert(NOTHING_HEAVY, **inputs)


def test_batches_that_end_too_early_are_counted(eps: Prepared) -> None:
    with pytest.raises(ValueError, match="The batches ended after 2, but 3 steps were asked for"):
        learn(eps, batches=eps.batches(2))


def test_an_empty_batch_is_named(eps: Prepared) -> None:
    first = eps.batches(1)[0]
    empty = TrainingBatch(first.latents[:0], first.noise[:0], first.timesteps[:0], first.prompt_token_ids[:0])
    with pytest.raises(ValueError, match="Batch 2 is empty"):
        learn(eps, batches=[first, empty, first])


def test_a_training_prompt_that_does_not_fit_is_named(eps: Prepared) -> None:
    long = replace(SMALL, templates=("a photo of " + "very " * 75 + "old {}",))
    with pytest.raises(ValueError, match=r"The training prompt 'a photo of .* Shorten it"):
        learn(eps, long)
    with pytest.raises(ValueError, match=r"exactly one \{\} for the person, but got: 'a photo'"):
        learn(eps, replace(SMALL, templates=("a photo",)))


def test_batches_with_timesteps_that_do_not_exist_are_refused(eps: Prepared) -> None:
    latents, ids = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, dtype=torch.long)
    for timestep in (-1, 1000):
        batch = TrainingBatch(latents, latents, torch.tensor([timestep]), ids)
        with pytest.raises(
            ValueError, match=f"timesteps from {timestep} to {timestep}, but they must be from 0 to 999"
        ):
            learn(eps, batches=[batch])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(8, 8, 8)}, r"latents of shape \(8, 8, 8\), but they must be \(B, 4, h, w\)"),
        ({"latents": torch.zeros(8, 16, 8, 8)}, r"latents of shape \(8, 16, 8, 8\), but they must be \(B, 4, h, w\)"),
        (
            {"latents": torch.zeros(7, 4, 8, 8)},
            r"\(7, 4, 8, 8\) and noise of shape \(8, 4, 8, 8\), expected \(7, 4, 8, 8\)",
        ),
        ({"noise": torch.zeros(8, 4, 8, 16)}, r"and noise of shape \(8, 4, 8, 16\), expected \(8, 4, 8, 8\)"),
        ({"noise": torch.zeros(1, 4, 8, 8)}, r"and noise of shape \(1, 4, 8, 8\), expected \(8, 4, 8, 8\)"),
        ({"timesteps": torch.zeros(9).long()}, r"and timesteps of shape \(9,\), expected \(8,\)"),
        ({"prompt_token_ids": torch.zeros(7, 77).long()}, r"prompt token ids of shape \(7, 77\), expected \(8, 77\)"),
        ({"prompt_token_ids": torch.zeros(8, 78).long()}, r"prompt token ids of shape \(8, 78\), expected \(8, 77\)"),
        ({"mask": torch.ones(8, 8, 8)}, r"a mask of shape \(8, 8, 8\), expected \(8, 1, 8, 8\)"),
        ({"mask": torch.ones(1, 1, 8, 8)}, r"a mask of shape \(1, 1, 8, 8\), expected \(8, 1, 8, 8\)"),
        ({"mask": torch.ones(8, 1, 64, 64)}, r"a mask of shape \(8, 1, 64, 64\), expected \(8, 1, 8, 8\)"),
    ],
)
def test_a_batch_of_unfitting_parts_is_refused(eps: Prepared, change: dict[str, Tensor], message: str) -> None:
    """A batch whose parts do not belong together is refused."""
    with pytest.raises(ValueError, match=f"A batch has .*{message}"):
        learn(eps, batches=[replace(batch, **change) for batch in eps.batches(3)])


def test_batches_of_two_sizes_are_refused(eps: Prepared) -> None:
    first, second, third = eps.batches(3)
    larger = replace(second, latents=torch.zeros(8, 4, 16, 8), noise=torch.zeros(8, 4, 16, 8))
    with pytest.raises(ValueError, match=r"\(8, 4, 16, 8\), but they must be \(B, 4, 8, 8\) as in the first batch"):
        learn(eps, batches=[first, larger, third])


def test_batches_may_have_different_numbers_of_samples(eps: Prepared) -> None:
    batches = [next(batch.split(size)) for batch, size in zip(eps.batches(3), (8, 3, 1), strict=True)]
    assert len(learn(eps, batches=batches).losses) == 3


def test_a_batch_with_a_black_mask_is_refused(eps: Prepared) -> None:
    mask = torch.ones(8, 1, 8, 8)
    mask[5] = 0
    with pytest.raises(ValueError, match="mask that is black for a sample, which leaves nothing to learn from"):
        learn(eps, batches=[replace(batch, mask=mask) for batch in eps.batches(3)])


@pytest.mark.parametrize("part", ["latents", "noise"])
def test_a_batch_without_numbers_is_refused(eps: Prepared, part: str) -> None:
    """A batch without numbers is refused, and the model is not blamed."""
    batch = eps.batches(1)[0]
    with pytest.raises(ValueError, match="A batch has latents or noise that are not finite"):
        learn(eps, batches=[replace(batch, **{part: torch.full((8, 4, 8, 8), torch.nan)})] * 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_vae_without_numbers_is_refused(eps: Prepared, value: float) -> None:
    """A VAE that gives no numbers is refused before learning."""

    class Damaged(Watched):
        def posterior(self, images: Tensor) -> Posterior:
            found = eps.backbone.posterior(images)
            return replace(found, std=found.std * value)

    with pytest.raises(ValueError, match=r"The VAE turns the photo into numbers that are not finite.*another one"):
        learn(eps, backbone=Damaged(eps.backbone, broken))


def test_batches_with_ids_beyond_the_learned_vectors_are_refused(eps: Prepared) -> None:
    latents = torch.zeros(1, 4, 8, 8)
    batch = TrainingBatch(latents, latents, torch.zeros(1, dtype=torch.long), torch.full((1, 77), 49410))
    with pytest.raises(ValueError, match="from 0 to 49409"):
        learn(eps, batches=[batch])
