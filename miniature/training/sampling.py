"""From prompts to pictures: DPM-Solver++ with classifier-free guidance.

The solver is written out because diffusers' scheduler depends on how the installed NumPy and PyTorch convert arrays, and
a training run must not end over that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossinit_core.families import TIMESTEPS

from .data import Encoder
from .model import LATENT_SCALE, Parts, alphas_cumprod, decode, encode_text, table, to_pixels


def dpm_solver(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Latents (B, 4, h, w) from noise of that shape, by DPM-Solver++ (2M) (Lu et al., 2022, algorithm 2).

    predict(latents, timestep) gives epsilon; timestep is a 0-dimensional int64 tensor. The last step, like the first,
    is of first order and goes to the clean latents.
    """
    abar = alphas_cumprod().double()
    timesteps = torch.linspace(TIMESTEPS - 1, 0, steps + 1)[:-1].round().long()
    alphas, sigmas = abar[timesteps].sqrt().tolist(), (1 - abar[timesteps]).sqrt().tolist()
    log_snr = (abar[timesteps] / (1 - abar[timesteps])).sqrt().log().tolist()
    latents, before = noise, noise
    for i, timestep in enumerate(timesteps):
        epsilon = predict(latents, timestep.to(noise.device))
        clean = (latents - sigmas[i] * epsilon) / alphas[i]
        if i == steps - 1:
            return clean
        step = log_snr[i + 1] - log_snr[i]
        direction = clean
        if i:
            ratio = (log_snr[i] - log_snr[i - 1]) / step
            direction = clean + (clean - before) / (2 * ratio)
        decay = float(torch.tensor(-step, dtype=torch.float64).expm1())
        latents = sigmas[i + 1] / sigmas[i] * latents - alphas[i + 1] * decay * direction
        before = clean
    return latents


@torch.no_grad()
def generate(
    parts: Parts,
    context: Tensor,
    empty: Tensor,
    *,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
    batch: int = 64,
    first: Tensor | None = None,
    share: float = 0.0,
) -> Tensor:
    """Pictures (B, 128, 128, 3) uint8 on the CPU for contexts (B, 77, d).

    empty, (1, 77, d), is the context of the empty prompt, for classifier-free guidance (Ho and Salimans, 2022).
    Picture i starts from noise that depends on `seed` and i alone. `first`, (B, 77, d), are the contexts of the first `share`
    of the noise levels, from the noisiest on.
    """
    bound = TIMESTEPS * (1 - share)
    size = parts.unet.config.sample_size
    pictures = []
    for start in range(0, len(context), batch):
        text = context[start : start + batch]
        seeds = [seed * 100_003 + start + i for i in range(len(text))]
        noise = torch.stack([torch.randn(4, size, size, generator=torch.Generator().manual_seed(s)) for s in seeds])
        both = torch.cat([empty.expand_as(text), text])
        begun = both if first is None else torch.cat([empty.expand_as(text), first[start : start + batch]])

        def predict(latents: Tensor, timestep: Tensor, both: Tensor = both, begun: Tensor = begun) -> Tensor:
            contexts = both if first is None or int(timestep) < bound else begun
            out = parts.unet(torch.cat([latents] * 2), timestep, encoder_hidden_states=contexts).sample
            without, with_text = out.float().chunk(2)
            return without + guidance * (with_text - without)

        pictures.append(decode(parts.vae, dpm_solver(predict, noise.to(text), steps)))
    return torch.cat(pictures)


@dataclass(frozen=True)
class Sampler:
    """A model with its tokenizer, the device that its networks are on, and how its pictures are sampled."""

    parts: Parts
    encoder: Encoder
    device: torch.device
    steps: int = 20
    guidance: float = 3.0

    @torch.no_grad()
    def pictures(
        self,
        texts: Sequence[str],
        seed: int = 0,
        embeddings: Tensor | None = None,
        *,
        first: Tensor | None = None,
        share: float = 0.0,
    ) -> NDArray[np.uint8]:
        """(N, 128, 128, 3) uint8 for prompts, or for ready token embeddings (N, 77, d).

        With `first`, embeddings too, these are what the first `share` of the noise levels is sampled with.
        """
        rows = table(self.parts.text_encoder)
        if embeddings is None:
            ids = torch.from_numpy(np.stack([self.encoder.encode(text) for text in texts])).long().to(self.device)
            embeddings = rows[ids]
        nothing = rows[torch.from_numpy(self.encoder.encode("")).long().to(self.device)][None]
        contexts, empty = self._contexts(embeddings), encode_text(self.parts.text_encoder, nothing)
        begun = None if first is None else self._contexts(first)
        pictures = generate(
            self.parts,
            contexts,
            empty,
            steps=self.steps,
            guidance=self.guidance,
            seed=seed,
            first=begun,
            share=share,
        )
        return pictures.numpy()

    def _contexts(self, embeddings: Tensor) -> Tensor:
        return torch.cat([encode_text(self.parts.text_encoder, part.to(self.device)) for part in embeddings.split(256)])

    @torch.no_grad()
    def through_vae(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pictures as the VAE gives them back."""
        found = []
        for part in torch.from_numpy(pictures).split(64):
            mean = self.parts.vae.encode(to_pixels(part.to(self.device))).latent_dist.mean
            found.append(decode(self.parts.vae, mean * LATENT_SCALE))
        return torch.cat(found).numpy()
