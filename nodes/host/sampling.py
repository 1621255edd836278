"""Samples in the middle of learning, by the very model that learns.

The sampler is ComfyUI's own (k-diffusion's), around the run's private copy: a KSampler would load the graph's models
beside that copy, and take from torch's own random numbers.
"""

from __future__ import annotations

import comfy.samplers
import torch
from comfy.k_diffusion.sampling import sample_dpmpp_2m
from torch import Tensor

from ...crossinit_core.backbone import Encoded, FrozenModel
from ...crossinit_core.learning import objective
from ...crossinit_core.models.clip_text import ends_of, pad, padding_row
from ...crossinit_core.prompts import fill_places, token_ids_with_placeholders
from .backbone import ComfyBackbone
from .progress import stop_if_cancelled

SCHEDULER = "karras"


class PromptSampler:
    """Samples one prompt with vectors that are still being learned, always from the same noise."""

    def __init__(self, backbone: ComfyBackbone, prompt: str, vectors: int, *, steps: int, seed: int) -> None:
        """`prompt` has a {} for the person. Raises ValueError if it has none, or if it is too long."""
        self._sampling = backbone.model_sampling
        self._vocabulary_size, self._eos = backbone.vocabulary_size, backbone.eos
        self._widths, self._pads = backbone.widths, backbone.pads
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
        encoded = self._encoded(model, vectors.to(model.device))
        height, width = (8 * side for side in shape[2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=model.device).expand(
            2, -1
        )
        sampling, guidance = self._sampling, self._guidance

        def denoised(noisy: Tensor, sigma: Tensor) -> Tensor:
            # Cancel works before each call of the model, not only between steps of learning.
            stop_if_cancelled()
            twice, sigmas = noisy.expand(2, -1, -1, -1), sigma.expand(2)
            noisy_input, timesteps = sampling.calculate_input(sigmas, twice), sampling.timestep(sigmas).long()
            output = model.predict(noisy_input, timesteps, encoded, sizes)
            without, with_person = sampling.calculate_denoised(sigmas, output, twice).split(1)
            return without + guidance * (with_person - without)

        sigmas = comfy.samplers.calculate_sigmas(sampling, SCHEDULER, self._steps).to(model.device, torch.float32)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self._seed)).to(model.device)
        start = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), max_denoise=True)
        return sample_dpmpp_2m(denoised, start, sigmas, disable=True)

    def _encoded(self, model: FrozenModel, vectors: Tensor) -> Encoded:
        """Two prompts: without and with the person."""
        token_ids = self._token_ids.to(model.device)
        ends = ends_of(token_ids, self._eos)
        embedded = model.embed(token_ids.clamp_max(self._vocabulary_size - 1))
        embedded = pad(embedded, ends, padding_row(model.embed, self._widths, self._pads, model.device))
        return model.encode(objective.splice(vectors, embedded, token_ids, self._vocabulary_size), ends)
