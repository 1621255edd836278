"""When learning has settled: the loss of a fixed batch, the same levels of noise and the same noise each time."""

from __future__ import annotations

import torch
from torch import Tensor

from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.objective import add_noise, diffusion_loss, prediction_target, splice
from crossinit_core.prompts import token_ids_with_placeholders

EVERY = 5
"""Steps between two looks."""
PATIENCE = 3
"""It has settled when so many looks, one after the other, were not better than the best by `GAIN`."""
GAIN = 0.01
LEVELS = tuple(range(250, 1000, 50))
PROMPT = "a photo of a face of {} person"


class SettledError(Exception):
    """Learning has settled at these vectors."""

    def __init__(self, step: int, vectors: Tensor) -> None:
        super().__init__(f"settled after {step} steps")
        self.step, self.vectors = step, vectors


class FixedBatch:
    """The photo at fixed levels of noise; `look` at the vectors after every step."""

    def __init__(self, backbone: DiffusersBackbone, photo: Tensor, vectors: int) -> None:
        self._backbone = backbone
        device, count = backbone.device, len(LEVELS)
        latents = backbone.posterior(photo).mean.to(device).expand(count, -1, -1, -1)
        noise = torch.randn(*latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
        self._timesteps = torch.tensor(LEVELS, device=device)
        abar = backbone.alphas_cumprod().to(device)[self._timesteps]
        self._noisy = add_noise(latents, noise, abar)
        self._target = prediction_target(latents, noise, abar, backbone.prediction_type)
        self._ids = torch.tensor([token_ids_with_placeholders(backbone, PROMPT, vectors)])
        self._known = backbone.embed(self._ids.clamp_max(backbone.vocabulary_size - 1))
        self._best, self._waited = float("inf"), 0

    @torch.no_grad()
    def loss(self, vectors: Tensor) -> float:
        """The mean over the levels."""
        embedded = splice(vectors, self._known, self._ids, self._backbone.vocabulary_size)
        context = self._backbone.last_states(embedded).to(self._backbone.device).expand(len(LEVELS), -1, -1)
        predicted = self._backbone.unet(self._noisy, self._timesteps, encoder_hidden_states=context).sample
        return float(diffusion_loss(predicted.float(), self._target, None).mean())

    def look(self, step: int, vectors: Tensor) -> None:
        """Raises SettledError if the loss has not become better for a while."""
        if step % EVERY:
            return
        loss = self.loss(vectors)
        self._waited = 0 if loss < self._best * (1 - GAIN) else self._waited + 1
        self._best = min(self._best, loss)
        if self._waited >= PATIENCE:
            raise SettledError(step, vectors)
