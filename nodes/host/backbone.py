"""The backbone over the MODEL, CLIP and VAE of a running graph.

`models` recognises and refuses what is connected, `copies` makes the private copies that learning runs on, `fused` says
which of their blocks the core computes, and `weights` finds the weights wherever ComfyUI keeps them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ...crossinit_core.backbone import Encoded, Posterior, PredictionType
from ...crossinit_core.families import base_of_widths
from ...crossinit_core.gpu.modes import is_out_of_memory
from ...crossinit_core.gpu.self_tests import choose
from ...crossinit_core.models.activation_memory import activation_memory
from ...crossinit_core.models.clip_text import FrozenText
from ...crossinit_core.models.copied_model import CopiedModel
from ...crossinit_core.models.fingerprint import weights_fingerprint
from ...crossinit_core.precision import DTYPES, Precision, resolve_precision
from .copies import PROJECTION, TEXT_MODEL, UNet, image_encoder, text_encoders
from .models import (
    check_layer,
    check_model,
    check_vae,
    checkpoint_name,
    clip_widths,
    encoder_names,
    ignored_patches,
    own_resolution,
    prediction_type,
)
from .weights import Weights

log = logging.getLogger(__name__)


class ComfyBackbone:
    """Stable Diffusion 1.x, 2.x or SDXL as ComfyUI has it loaded.

    `clip` alone is enough to compute an initialization; learning needs `model`, and `vae` if it learns from
    images. Raises ValueError that names what was connected if it is something else.
    """

    def __init__(self, model: Any, clip: Any, vae: Any = None) -> None:
        self._encoders = encoder_names(clip)
        check_layer(clip)
        if model is not None:
            check_model(model, clip)
        if vae is not None:
            check_vae(vae)
        self._model: Any = model
        self._clip: Any = clip
        self._vae: Any = vae
        tokenizers = [getattr(clip.tokenizer, name) for name in self._encoders]
        self._tokenizer = tokenizers[0]
        self.widths: tuple[int, ...] = clip_widths(clip)
        self.base = base_of_widths(self.widths)
        self.vocabulary_size: int = self._tables()[0].shape[0]
        self.bos: int = self._tokenizer.start_token
        self.eos: int = self._tokenizer.end_token
        self.pads: tuple[int, ...] = tuple(tokenizer.pad_token for tokenizer in tokenizers)
        self.pad: int = self.pads[0]
        self.prediction_type: PredictionType = "epsilon" if model is None else prediction_type(model)
        self.checkpoint = checkpoint_name(clip.patcher if model is None else model)
        self.resolution = own_resolution(clip.patcher if model is None else model, self.base, self.prediction_type)

    @property
    def device(self) -> torch.device:
        """Where the graph computes."""
        return self._model.load_device

    @property
    def vae(self) -> Any:
        """The VAE of the graph, or None."""
        return self._vae

    @property
    def latent_format(self) -> Any:
        """ComfyUI's description of the latents, for previews."""
        return self._model.model.latent_format

    @property
    def model_sampling(self) -> Any:
        """ComfyUI's description of the noise schedule and of what the UNet predicts."""
        return self._model.get_model_object("model_sampling")

    def tokenize(self, text: str) -> list[int]:
        """BPE token ids without BOS and EOS."""
        return self._tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of the token table, (n,) int64 -> (n, d) float32 on the CPU."""
        rows = [table[token_ids.to(table.device)].to("cpu", torch.float32, copy=True) for table in self._tables()]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        """`T(x)` without gradient: token embeddings (B, L, d) of prompts whose EOS is at `ends` (B,); float32 on the CPU."""
        with self._text_on_device() as text:
            context, pooled = text.encode(_fresh(embeddings, text), ends.to(text.device))
            return Encoded(context.cpu(), None if pooled is None else pooled.cpu())

    def last_states(self, embeddings: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d) float32 on the CPU: through each encoder's last layer and final LayerNorm."""
        with self._text_on_device() as text:
            return text.last_states(_fresh(embeddings, text)).cpu()

    def alphas_cumprod(self) -> Tensor:
        """abar of the MODEL's noise schedule, (1000,) float32 on the CPU."""
        sigmas = self.model_sampling.sigmas
        return (1 / (1 + sigmas.cpu().double() ** 2)).float()

    def posterior(self, images: Tensor) -> Posterior:
        """The VAE posterior of (N, H, W, 3) images in 0..1, scaled. One image at a time, to save memory."""
        if self._vae is None:
            raise ValueError("Connect a VAE to learn from photos.")
        first_stage, device = self._vae.first_stage_model, self._vae.patcher.load_device
        height, width = images.shape[1:3]
        _make_room(device, _size(first_stage) + self._vae.memory_used_encode((1, 3, height, width), torch.float32))
        with torch.inference_mode(False), torch.no_grad(), image_encoder(first_stage, device) as encoder:
            parts = [self._encode_image(image, encoder, device) for image in images.split(1)]
        mean, std = (torch.cat(part) for part in zip(*parts, strict=True))
        scale = self.latent_format.scale_factor
        return Posterior(
            self.latent_format.process_in(mean), std * scale, weights_fingerprint(first_stage.state_dict().items())
        )

    def memory_needed(
        self, *, precision: Precision, samples: int, resolution: int, gradient_checkpointing: bool
    ) -> int:
        """Bytes for a step over so many samples at once, private copies included."""
        dtype = DTYPES[_host_precision(precision, self.device)]
        return self._copies_size(dtype) + activation_memory(
            samples, resolution, dtype, gradient_checkpointing, self.widths
        )

    def free_memory(self, needed: int) -> int | None:
        """What ComfyUI reports as free after it has moved other models out of the way; None on a CPU."""
        if mm.is_device_cpu(self.device):
            return None
        _make_room(self.device, needed)
        return int(mm.get_free_memory(self.device) - mm.extra_reserved_memory())  # pyright: ignore[reportOperatorIssue]

    @contextmanager
    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> Iterator[CopiedModel]:
        """Private copies of text encoder and UNet on the compute device; all of it is freed afterwards."""
        device, dtype = self.device, DTYPES[_host_precision(precision, self.device)]
        if ignored := ignored_patches(self._model):
            log.info("Learning uses MODEL's weights with its LoRAs; its %s do not take part.", ", ".join(ignored))
        _make_room(device, self._copies_size(dtype))
        text, unet = self._text_weights(), Weights(self._model, "diffusion_model.")
        kernels = choose(device, dtype)
        parts = (*text.values(), unet)
        model = CopiedModel(
            text=text_encoders(self._clip, text, self._projection(), device, dtype, kernels),
            unet=UNet(self._model.model, unet, device, dtype, kernels, gradient_checkpointing),
            fingerprint=weights_fingerprint(named for part in parts for named in part.items()),
            device=device,
            dtype=dtype,
        )
        del text, unet, parts
        try:
            yield model
        finally:
            model.close()
            mm.soft_empty_cache()

    def _copies_size(self, dtype: torch.dtype) -> int:
        """Bytes of the private copies of text encoder and UNet."""
        return _size(self._model.model, dtype) + _size(self._clip.patcher.model, dtype)

    def _tables(self) -> list[Tensor]:
        return tables(self._clip)

    def _text_weights(self) -> dict[str, Weights]:
        """By the encoders' names."""
        return {name: Weights(self._clip.patcher, f"{name}.{TEXT_MODEL}") for name in self._encoders}

    def _projection(self) -> Tensor | None:
        """Of SDXL's second encoder."""
        if len(self._encoders) == 1:
            return None
        return Weights(self._clip.patcher, f"{self._encoders[-1]}.{PROJECTION}")["weight"]

    @contextmanager
    def _text_on_device(self) -> Iterator[FrozenText]:
        """The text encoders in float32 where the graph encodes its prompts, without gradients."""
        device = self._clip.patcher.load_device
        _make_room(device, _size(self._clip.patcher.model))
        try:
            with torch.inference_mode(False), torch.no_grad():
                yield text_encoders(self._clip, self._text_weights(), self._projection(), device)
        finally:
            mm.soft_empty_cache()

    def _encode_image(self, image: Tensor, encoder: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the unscaled posterior of (1, H, W, 3), float32 on the CPU."""
        if encoder is not None:
            try:
                moments = encoder(image.movedim(-1, 1).to(device) * 2 - 1).cpu()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.info("Too little memory to encode the photo at once; using ComfyUI's tiled encoding.")
            else:
                mean, log_variance = moments.chunk(2, dim=1)
                return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        # ComfyUI gives the posterior's mean, without its spread.
        mean = self._vae.encode(image).to("cpu", torch.float32, copy=True)
        return mean, torch.zeros_like(mean)


def tables(clip: Any) -> list[Tensor]:
    """The token table (V, d) of each text encoder of a CLIP, the host's own tensors, whichever layer it stops at.

    Raises ValueError as `encoder_names`.
    """
    prefixes = [f"{name}.{TEXT_MODEL}embeddings.token_embedding." for name in encoder_names(clip)]
    return [Weights(clip.patcher, prefix)["weight"] for prefix in prefixes]


def _fresh(tensor: Tensor, text: FrozenText) -> Tensor:
    """A copy on the device in float32, without the flag of inference mode."""
    return tensor.to(text.device, torch.float32, copy=True)


def _make_room(device: torch.device, size: float) -> None:
    """Ask ComfyUI to move other models out of the way."""
    if not mm.is_device_cpu(device):
        mm.free_memory(size + mm.minimum_inference_memory(), device)


def _size(module: Any, dtype: torch.dtype = torch.float32) -> int:
    return sum(weight.numel() for weight in module.parameters()) * dtype.itemsize


def _host_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto` follows what the host says the device is good at: --force-fp32 and old GPUs are its business."""
    if precision != "auto":
        return resolve_precision(precision, device)
    if device.type == "cuda" and mm.should_use_fp16(device):
        return "fp16"
    return "bf16" if mm.should_use_bf16(device) else "fp32"
