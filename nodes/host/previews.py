"""Pictures of latents, to show on a node."""

from __future__ import annotations

import logging
import time
from typing import Any

import latent_preview
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from .backbone import ComfyBackbone
from .progress import Cancelled

log = logging.getLogger(__name__)

SMALL_VAE = 10_000_000
"""Parameters up to which a VAE decodes in no time; Stable Diffusion's has 84 million."""

SECONDS_BETWEEN = 0.5
MOST_OF_THE_TIME = 0.05


class Previews:
    """Decides when it is time for the next preview, and makes it. No trouble with a preview ends a run."""

    def __init__(self, backbone: ComfyBackbone) -> None:
        self._device = backbone.device
        self._previewers = _previewers(backbone)
        self._next = float("-inf")

    def due(self) -> bool:
        """At most two a second, and never so many that learning waits for them."""
        return time.perf_counter() >= self._next

    def picture(self, latents: Tensor) -> Image | None:
        """A rough picture of (1, 4, h, w) latents as the UNet sees them; None if there is none this time."""
        began = time.perf_counter()
        preview = self._decode(latents)
        now = time.perf_counter()
        self._next = now + max(SECONDS_BETWEEN, (now - began) / MOST_OF_THE_TIME)
        return preview

    def _decode(self, latents: Tensor) -> Image | None:
        """By the best previewer that has not failed yet."""
        while self._previewers:
            try:
                # Its weights are inference tensors, as all that is made while ComfyUI runs a node.
                with torch.inference_mode():
                    answer = self._previewers[0].decode_latent_to_preview_image("JPEG", latents.to(self._device))
                # Packs that show their own moving previews hook in here, and give None.
                return answer[1] if answer else None
            except Cancelled:
                raise
            except Exception as error:
                kind = type(self._previewers.pop(0)).__name__
                log.warning("Learning goes on without the previews of %s (%s).", kind, str(error).partition("\n")[0])
        return None


def decoded(backbone: ComfyBackbone, latents: Tensor) -> Image:
    """The picture that (1, 4, h, w) latents as the UNet sees them are, by the graph's VAE."""
    with torch.inference_mode():
        pictures = backbone.vae.decode(backbone.latent_format.process_out(latents[:1].clone()))
    return fromarray((pictures[0].clamp(0, 1) * 255).round().byte().cpu().numpy())


def for_the_page(picture: Image) -> tuple[str, Image, int]:
    """What `ProgressBar.update_absolute` takes. Pictures side by side may be as wide as all of them."""
    side = latent_preview.MAX_PREVIEW_RESOLUTION
    return "JPEG", picture, side * max(1, round(picture.width / picture.height))


def _previewers(backbone: ComfyBackbone) -> list[latent_preview.LatentPreviewer]:
    """A small VAE itself; else what the host was told to use; and colours alone if that is nothing, or fails.

    ComfyUI shows no previews unless asked to, but people watch a run to see the face take shape.
    """
    latents = backbone.latent_format
    colours = latent_preview.Latent2RGBPreviewer(
        latents.latent_rgb_factors, getattr(latents, "latent_rgb_factors_bias", None)
    )
    if _size(backbone.vae) <= SMALL_VAE:
        return [_VaePreviewer(backbone), colours]
    try:
        chosen = latent_preview.get_previewer(backbone.device, latents)
    except Exception as error:
        log.warning("ComfyUI's previews cannot be made (%s): colours alone are shown.", str(error).partition("\n")[0])
        chosen = None
    return [chosen, colours] if chosen else [colours]


class _VaePreviewer(latent_preview.LatentPreviewer):
    def __init__(self, backbone: ComfyBackbone) -> None:
        self._backbone = backbone

    def decode_latent_to_preview(self, x0: Tensor) -> Image:
        return decoded(self._backbone, x0)


def _size(vae: Any) -> int:
    return sum(weight.numel() for weight in vae.first_stage_model.parameters())
