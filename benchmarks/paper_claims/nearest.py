"""A start from the celebrities whose names explain a photo best, by a few denoising losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossinit_core import celebrity_mean
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.objective import add_noise, diffusion_loss, prediction_target
from miniature.training.data import Encoder

PROMPT = "a photo of a face of {} person"
LEVELS = (550, 650, 750, 850)
"""Levels of noise at which a name is tried: there a face is decided."""
NEAREST = 16


@torch.no_grad()
def nearest_mean(
    backbone: DiffusersBackbone, names: Sequence[str], photo: NDArray[np.uint8], vectors: int, count: int = NEAREST
) -> Tensor:
    """(K, d): `celebrity_mean` of the `count` names with the smallest denoising loss of a photo (H, W, 3), the same noise for
    all of them."""
    losses = name_losses(backbone, names, photo)
    return celebrity_mean(backbone, [names[i] for i in losses.argsort()[:count].tolist()], vectors)


@torch.no_grad()
def name_losses(backbone: DiffusersBackbone, names: Sequence[str], photo: NDArray[np.uint8], chunk: int = 64) -> Tensor:
    """(N,): the mean denoising loss of a photo under each name."""
    image = torch.from_numpy(photo.astype(np.float32) / 255)[None]
    latents = backbone.posterior(image).mean.to(backbone.device)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(LEVELS), *latents.shape[1:], generator=generator).to(backbone.device)
    timesteps = torch.tensor(LEVELS, device=backbone.device)
    abar = backbone.alphas_cumprod().to(backbone.device)[timesteps]
    noisy = add_noise(latents.expand_as(noise), noise, abar)
    target = prediction_target(latents.expand_as(noise), noise, abar, backbone.prediction_type)
    encoder = Encoder(backbone.tokenizer)
    ids = torch.from_numpy(np.stack([encoder.encode(PROMPT.format(name)) for name in names])).long().to(backbone.device)
    found = []
    for part in ids.split(chunk):
        context = backbone.last_states(backbone.embed(part).to(backbone.device)).to(backbone.device)
        each = len(LEVELS)
        predicted = backbone.unet(
            noisy.repeat(len(part), 1, 1, 1),
            timesteps.repeat(len(part)),
            encoder_hidden_states=context.repeat_interleave(each, dim=0),
        ).sample
        losses = diffusion_loss(predicted.float(), target.repeat(len(part), 1, 1, 1), None)
        found.append(losses.view(len(part), each).mean(1))
    return torch.cat(found).cpu()
