"""The regularized inversion objective (Pang et al., CVPR 2024, equation 4) in plain functions.

`abar` is the cumulative product of the noise schedule, `v` the learned vectors (K, d) and `v0`
their frozen start. Everything here is float32 whatever the UNet computes in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone import PredictionType


def splice(vectors: Tensor, embedded: Tensor, token_ids: Tensor, vocabulary_size: int) -> Tensor:
    """Token embeddings with the learned vectors at the placeholders.

    vectors (K, d), embedded (B, L, d) rows of the frozen table, token_ids (B, L) where the id V + k
    stands for vector k. Returns (B, L, d); gradients flow to `vectors`.
    """
    # One vector at a time: the gradient of an indexing would be added up in any order.
    for k, vector in enumerate(vectors):
        embedded = torch.where((token_ids == vocabulary_size + k)[..., None], vector, embedded)
    return embedded


def add_noise(latents: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """z_t = sqrt(abar) z + sqrt(1 - abar) eps; latents and noise (B, 4, h, w), abar (B,)."""
    abar = abar[:, None, None, None]
    return abar.sqrt() * latents + (1 - abar).sqrt() * noise


def prediction_target(latents: Tensor, noise: Tensor, abar: Tensor, prediction_type: PredictionType) -> Tensor:
    """What the UNet should say: eps, or v = sqrt(abar) eps - sqrt(1 - abar) z (Salimans and Ho, 2022)."""
    if prediction_type == "epsilon":
        return noise
    abar = abar[:, None, None, None]
    return abar.sqrt() * noise - (1 - abar).sqrt() * latents


def denoised(noisy_latents: Tensor, prediction: Tensor, abar: Tensor, prediction_type: PredictionType) -> Tensor:
    """The estimate of z that follows from a prediction: what the model "sees" at this step."""
    abar = abar[:, None, None, None]
    if prediction_type == "epsilon":
        abar = abar.clamp_min(1e-8)  # a schedule that ends in pure noise says nothing of z there
        return (noisy_latents - (1 - abar).sqrt() * prediction) / abar.sqrt()
    return abar.sqrt() * noisy_latents - (1 - abar).sqrt() * prediction


def diffusion_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error of each sample, (B,): the mean over its pixels, weighted by `mask` where given.

    prediction and target are (B, 4, h, w); mask is (B, 1, h, w) in 0..1 with a positive sum for each
    sample, and a mask of ones changes nothing.
    """
    error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=1, keepdim=True)
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    return (error * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))


def distance(vectors: Tensor, start: Tensor) -> Tensor:
    """mean_k || v_k - v0_k + 1e-6 ||_2, a scalar: the regularizer before lambda.

    The 1e-6 is `pairwise_distance`'s own; without it the gradient at v = v0 would be undefined.
    """
    return F.pairwise_distance(vectors, start, p=2).mean()


def squared_distance(vectors: Tensor, start: Tensor, widths: Sequence[int]) -> Tensor:
    """The mean of (v - v0)^2 over each text encoder's columns, added up: a scalar, the regularizer of the published SDXL form
    before lambda (kunheek/dti, exps/xinit_sdxl.py). `widths` are those of the encoders."""
    parts = zip(vectors.split(list(widths), dim=1), start.split(list(widths), dim=1), strict=True)
    return torch.stack([F.mse_loss(part, before) for part, before in parts]).sum()
