"""What a step trains on: draws of latents, noise, timesteps and prompts from photos.

Everything random comes from one CPU generator, so that a seed gives the same draws on every
device, and so that its state in a resume file continues them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .backbone import Posterior

REPEATS = 100
"""Each photo is this often in the list that is shuffled and drawn from without replacement."""


@dataclass(frozen=True)
class TrainingBatch:
    """The draws of one step.

    latents and noise (B, 4, h, w) float32, latents scaled as the UNet sees them; timesteps (B,) int64 in
    0..999; prompt_token_ids (B, 77) int64 where the id V + k stands for learned vector k; mask, where given,
    (B, 1, h, w) float32 weights in 0..1.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompt_token_ids: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def split(self, size: int) -> Iterator[TrainingBatch]:
        """The batch in pieces of at most `size` samples."""
        for start in range(0, len(self), size):
            piece = slice(start, start + size)
            yield TrainingBatch(
                self.latents[piece],
                self.noise[piece],
                self.timesteps[piece],
                self.prompt_token_ids[piece],
                None if self.mask is None else self.mask[piece],
            )

    def to(self, device: torch.device) -> TrainingBatch:
        """The batch on another device, in tensors that may be saved for a backward pass.

        A clone outside of inference mode drops the flag that ComfyUI's tensors carry.
        """

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(device)
            return moved.clone() if moved.is_inference() else moved

        return TrainingBatch(
            move(self.latents.float()),
            move(self.noise.float()),
            move(self.timesteps.long()),
            move(self.prompt_token_ids.long()),
            None if self.mask is None else move(self.mask.float()),
        )


class PhotoDraws:
    """An endless iterator of TrainingBatches from photos.

    `photos` and `mirrored` are the VAE posteriors of N photos and of their mirror images, `prompts` (P, 77) the
    tokenized training prompts, `masks` (N, 1, h, w) or None. Latents are a fresh sample of the posterior in each
    draw; a photo is mirrored with probability `flip_probability`.
    """

    def __init__(
        self,
        photos: Posterior,
        mirrored: Posterior,
        prompts: Tensor,
        *,
        batch_size: int,
        flip_probability: float,
        seed: int,
        masks: Tensor | None = None,
    ) -> None:
        self._mean = torch.stack([photos.mean, mirrored.mean], dim=1)
        self._std = torch.stack([photos.std, mirrored.std], dim=1)
        self._masks = None if masks is None else torch.stack([masks, masks.flip(-1)], dim=1)
        self._prompts = prompts
        self._batch_size = batch_size
        self._flip_probability = flip_probability
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> PhotoDraws:
        return self

    def __next__(self) -> TrainingBatch:
        count, g = self._batch_size, self._generator
        photo = self._take(count)
        flip = (torch.rand(count, generator=g) < self._flip_probability).long()
        mean, std = self._mean[photo, flip], self._std[photo, flip]
        return TrainingBatch(
            latents=mean + std * torch.randn(mean.shape, generator=g),
            noise=torch.randn(mean.shape, generator=g),
            timesteps=torch.randint(0, 1000, (count,), generator=g),
            prompt_token_ids=self._prompts[torch.randint(0, len(self._prompts), (count,), generator=g)],
            mask=None if self._masks is None else self._masks[photo, flip],
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that decides the draws to come."""
        return {"generator": self._generator.get_state(), "pool": self._pool.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._generator.set_state(state["generator"])
        self._pool = state["pool"].clone()

    def _take(self, count: int) -> Tensor:
        while len(self._pool) < count:
            photos = len(self._mean)
            order = torch.randperm(photos * REPEATS, generator=self._generator) % photos
            self._pool = torch.cat([self._pool, order])
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken
