"""Samples in the middle of learning, by the very model that learns.

The sampler is ComfyUI's own (k-diffusion's), around the run's private copy: a KSampler would load the graph's models
beside that copy, and take from torch's own random numbers.
"""

from __future__ import annotations

import comfy.samplers
import torch
from comfy.k_diffusion.sampling import sample_dpmpp_2m
from torch import Tensor

from ...crossinit_core.backbone import FrozenModel
from ...crossinit_core.learning import objective
from ...crossinit_core.prompts import fill_places, token_ids_with_placeholders
from .backbone import ComfyBackbone
from .progress import stop_if_cancelled

SCHEDULER = "karras"


class PromptSampler:
    """Samples one prompt with vectors that are still being learned, always from the same noise."""

    def __init__(self, backbone: ComfyBackbone, prompt: str, vectors: int, *, steps: int, seed: int) -> None:
        """`prompt` has a {} for the person. Raises ValueError if it has none, or if it is too long."""
        self._sampling = backbone.model_sampling
        self._vocabulary_size = backbone.vocabulary_size
        self._steps, self._seed = steps, seed
        # What the miniature was made for, and what is usual for Stable Diffusion.
        self._guidance = 3.0 if backbone.base == "miniature" else 7.0
        try:
            places = fill_places(prompt, ["person"], lambda _index, _match: "{}")
            written = token_ids_with_placeholders(backbone, places, vectors)
        except ValueError as error:
            raise ValueError(f"sample_prompt: {error}") from None
        empty = [backbone.bos, backbone.eos, *[backbone.pad] * (len(written) - 2)]
        self._token_ids = torch.tensor([empty, written])

    @torch.no_grad()
    def latents(self, model: FrozenModel, vectors: Tensor, shape: torch.Size) -> Tensor:
        """(1, 4, h, w) on the model's device, as the UNet sees them, for vectors (K, d)."""
        context = self._context(model, vectors.to(model.device))
        sampling, guidance = self._sampling, self._guidance

        def denoised(noisy: Tensor, sigma: Tensor) -> Tensor:
            # Cancel works before each call of the model, not only between steps of learning.
            stop_if_cancelled()
            twice, sigmas = noisy.expand(2, -1, -1, -1), sigma.expand(2)
            output = model.predict(sampling.calculate_input(sigmas, twice), sampling.timestep(sigmas).long(), context)
            without, with_person = sampling.calculate_denoised(sigmas, output, twice).split(1)
            return without + guidance * (with_person - without)

        sigmas = comfy.samplers.calculate_sigmas(sampling, SCHEDULER, self._steps).to(model.device, torch.float32)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self._seed)).to(model.device)
        start = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), max_denoise=True)
        return sample_dpmpp_2m(denoised, start, sigmas, disable=True)

    def _context(self, model: FrozenModel, vectors: Tensor) -> Tensor:
        """What the UNet attends to, (2, 77, d): without and with the person."""
        token_ids = self._token_ids.to(model.device)
        embedded = model.embed(token_ids.clamp_max(self._vocabulary_size - 1))
        return model.encode(objective.splice(vectors, embedded, token_ids, self._vocabulary_size))
