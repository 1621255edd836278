"""What the steps of a run learn from: photos, noise and prompts, and what masks leave out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from crossinit_core import InversionSettings, TrainingBatch
from crossinit_core.backbone import Posterior
from crossinit_core.learning.batches import PhotoBatches
from tests.tiny_learning import PHOTO, SMALL, Watched, learn
from tests.tiny_models import Prepared

# Masks


def test_a_mask_of_ones_changes_nothing(eps: Prepared) -> None:
    plain = learn(eps)
    masked = learn(eps, masks=torch.ones(1, 70, 80))
    torch.testing.assert_close(masked.token.vectors, plain.token.vectors, atol=1e-6, rtol=0)
    assert masked.losses == pytest.approx(plain.losses, abs=1e-6)


def test_a_mask_changes_what_is_learned(eps: Prepared) -> None:
    half = torch.zeros(1, 70, 80)
    half[:, :, :40] = 1
    masked = learn(eps, masks=half)
    assert float((masked.token.vectors - learn(eps).token.vectors).abs().max()) > 1e-3


def _with_another_target(batch: TrainingBatch, where: Tensor, abar: Tensor, amount: Tensor) -> TrainingBatch:
    """The same noisy latents, made of other latents and other noise where `where` is 1."""
    signal, rest = (abar[batch.timesteps][:, None, None, None] ** 0.5), (1 - abar[batch.timesteps]) ** 0.5
    change = amount * where
    return replace(
        batch, noise=batch.noise + change, latents=batch.latents - rest[:, None, None, None] / signal * change
    )


def test_what_the_mask_covers_is_not_learned(eps: Prepared) -> None:
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
    expected = learn(eps, settings, batches=batches)
    result = learn(eps, settings, batches=changed)
    torch.testing.assert_close(result.token.vectors, expected.token.vectors, atol=1e-4, rtol=0)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    unmasked = learn(eps, settings, batches=[replace(batch, mask=None) for batch in changed])
    assert float((unmasked.token.vectors - expected.token.vectors).abs().max()) > 1e-3


def test_the_loss_is_the_mean_over_what_the_mask_shows(eps: Prepared) -> None:
    """A UNet that is wrong by 3 in the left half and by 1 in the right one."""
    batch = eps.batches(1)[0]
    error = torch.ones(8, 4, 8, 8)
    error[..., :4] = 3
    wrong = Watched(eps.backbone, lambda predict, *inputs: predict(*inputs) * 0 + batch.noise + error)
    mask = torch.zeros(8, 1, 8, 8)
    mask[..., 4:] = 1
    settings = InversionSettings(steps=1)
    for weights, loss in ((None, 5.0), (mask, 1.0), (1 - mask, 9.0), (mask * 0.5, 1.0), (1 - mask * 0.5, 19 / 3)):
        result = learn(eps, settings, backbone=wrong, batches=[replace(batch, mask=weights)])
        assert result.losses == pytest.approx([loss], rel=1e-5)


def test_a_mask_is_mirrored_with_its_photo() -> None:
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    upright, mirrored = (Posterior(torch.full((1, 4, 8, 8), value), torch.zeros(1, 4, 8, 8)) for value in (0.0, 1.0))
    batches = PhotoBatches(
        upright,
        mirrored,
        torch.zeros(1, 77, dtype=torch.int64),
        batch_size=50,
        flip_probability=0.5,
        seed=0,
        masks=left,
    )
    batch = next(batches)
    assert batch.mask is not None
    for latents, mask in zip(batch.latents, batch.mask, strict=True):
        assert torch.equal(mask, left[0].flip(-1) if latents.mean() == 1 else left[0])
    assert 0 < float(batch.latents.mean()) < 1


# Photos and their batches


def _batches(photos: int = 1, std: float = 0.0, flip: float = 0.0, batch_size: int = 8, seed: int = 0) -> PhotoBatches:
    """Batches whose latents say which photo they are of: its number, and a half more where it is mirrored."""
    mean = torch.arange(photos).float()[:, None, None, None].expand(photos, 4, 2, 2)
    spread = torch.full_like(mean, std)
    prompts = torch.arange(57)[:, None].expand(57, 77)
    return PhotoBatches(
        Posterior(mean, spread),
        Posterior(mean + 0.5, spread),
        prompts,
        batch_size=batch_size,
        flip_probability=flip,
        seed=seed,
    )


@pytest.mark.parametrize("photos", [1, 3, 7])
def test_all_photos_are_drawn_equally_often(photos: int) -> None:
    batches = _batches(photos, batch_size=4)
    drawn = torch.cat([next(batches).latents[:, 0, 0, 0] for _ in range(100 * photos // 4)])
    assert drawn.long().bincount(minlength=photos).tolist() == [100] * photos


def test_photos_are_shuffled() -> None:
    drawn = torch.cat([next(batches).latents[:, 0, 0, 0] for batches in [_batches(2, batch_size=50)] for _ in range(2)])
    assert 10 < int((drawn[1:] != drawn[:-1]).sum()) < 90
    other = next(_batches(2, batch_size=100, seed=1)).latents[:, 0, 0, 0]
    assert not torch.equal(drawn, other)


def test_every_batch_is_a_whole_one() -> None:
    """The published code makes every 13th batch a half one."""
    batches = _batches()
    assert [len(next(batches)) for _ in range(40)] == [8] * 40


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0.0, 0.0), (0.5, 0.45, 0.55), (1.0, 1.0, 1.0)])
def test_photos_are_mirrored_with_the_probability_asked_for(probability: float, low: float, high: float) -> None:
    batch = next(_batches(1, flip=probability, batch_size=2000))
    assert low <= float((batch.latents[:, 0, 0, 0] == 0.5).float().mean()) <= high


def test_latents_are_what_the_unet_is_used_to(eps: Prepared) -> None:
    """The VAE sees -1..1, and its latents are scaled by 0.18215."""
    photos = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = eps.backbone.vae.encode(photos.movedim(-1, 1) * 2 - 1).latent_dist
    posterior = eps.backbone.posterior(photos)
    torch.testing.assert_close(posterior.mean, expected.mean * 0.18215, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(posterior.std, expected.std * 0.18215, atol=1e-5, rtol=1e-4)


def test_latents_are_samples_of_the_posterior() -> None:
    latents = next(_batches(1, std=3.0, batch_size=5000)).latents
    assert float(latents.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(latents.std()) == pytest.approx(3.0, rel=0.02)
    assert not torch.equal(latents[0], latents[1])


def test_noise_timesteps_and_prompts_cover_their_ranges() -> None:
    batch = next(_batches(batch_size=10_000))
    assert float(batch.noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(batch.noise.std()) == pytest.approx(1.0, rel=0.02)
    assert (int(batch.timesteps.min()), int(batch.timesteps.max())) == (0, 999)
    assert float(batch.timesteps.float().mean()) == pytest.approx(499.5, abs=10)
    assert batch.prompt_token_ids[:, 0].bincount(minlength=57).min() > 100


def test_photos_of_different_sizes_are_learned_together(eps: Prepared) -> None:
    generator = torch.Generator().manual_seed(5)
    photos = [PHOTO, torch.rand(2, 90, 64, 3, generator=generator), torch.rand(1, 64, 64, 1, generator=generator)]
    settings = replace(SMALL, batch_size=8)
    masks = [torch.ones(1, 70, 80), torch.ones(2, 30, 20), torch.ones(1, 64, 64)]
    together = learn(eps, settings, images=photos)
    masked = learn(eps, settings, images=photos, masks=masks)
    torch.testing.assert_close(masked.token.vectors, together.token.vectors, atol=1e-6, rtol=0)
    for left_out in range(3):
        fewer = learn(eps, settings, images=photos[:left_out] + photos[left_out + 1 :])
        assert not torch.equal(fewer.token.vectors, together.token.vectors)


def test_the_flip_is_of_the_photo(eps: Prepared) -> None:
    """Always mirrored is the same as a mirrored photo that is never mirrored."""
    square = PHOTO[:, :, :70]
    mirrored = learn(eps, replace(SMALL, flip_probability=1.0), images=square)
    by_hand = learn(eps, replace(SMALL, flip_probability=0.0), images=square.flip(2))
    torch.testing.assert_close(mirrored.token.vectors, by_hand.token.vectors, atol=1e-6, rtol=0)
