"""The backbone over a diffusers folder: `tokenizer/`, `text_encoder/`, `unet/`, `vae/`, `scheduler/`; or a compact one."""

from __future__ import annotations

import copy
import json
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .backbone import Posterior, PredictionType
from .families import MINIATURE, TIMESTEPS, base_of_width
from .models.activation_memory import activation_memory
from .models.clip_text import encode_clip
from .models.compact_folder import is_compact, load_modules, load_tokenizer, read_config
from .models.fingerprint import weights_fingerprint
from .photos.images import RESOLUTION_RANGE, RESOLUTION_STEP
from .precision import DTYPES, Precision, resolve_precision


class DiffusersBackbone:
    """Stable Diffusion 1.x or 2.x in diffusers' layout. Make one with `from_pretrained`."""

    def __init__(
        self,
        *,
        tokenizer: Any,
        text_encoder: Any,
        unet: Any,
        vae: Any,
        scheduler_config: dict[str, Any],
        checkpoint: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.to(self.device).eval().requires_grad_(False)
        self.unet = unet.to(self.device).eval().requires_grad_(False)
        self.vae = vae.to(self.device).eval().requires_grad_(False)
        self.checkpoint = checkpoint
        self.scheduler_config = scheduler_config
        self.width: int = text_encoder.config.hidden_size
        self.base = base_of_width(self.width)
        self.resolution = _resolution(unet.config)
        self._check()
        # transformers 4 keeps the encoder one level down.
        self._text_model = getattr(self.text_encoder, "text_model", self.text_encoder)
        self.vocabulary_size: int = self._table.shape[0]
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self.prediction_type: PredictionType = _prediction_type(scheduler_config)
        self._abar = _alphas_cumprod(scheduler_config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> DiffusersBackbone:
        """Load from a local folder, in diffusers' layout or in that of the miniature; nothing is downloaded.

        Raises FileNotFoundError where the folder is no diffusers model, and ValueError where the model is not SD 1.x
        or 2.x.
        """
        folder = Path(folder)
        if is_compact(folder):
            return cls._from_compact(folder, device, dtype)

        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        for part in ("tokenizer", "text_encoder", "unet", "vae", "scheduler/scheduler_config.json"):
            if not (folder / part).exists():
                raise FileNotFoundError(f"'{folder}' is no diffusers model folder: it has no '{part}'.")
        if (folder / "text_encoder_2").exists() or (folder / "transformer").exists():
            raise ValueError(f"'{folder}' is not Stable Diffusion 1.x or 2.x. Use a model of that family.")
        options: dict[str, Any] = {"local_files_only": True, "torch_dtype": dtype}
        return cls(
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", **options),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet", **options),
            vae=AutoencoderKL.from_pretrained(folder / "vae", **options),
            scheduler_config=json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8")),
            checkpoint=folder.name,
            device=device,
        )

    @classmethod
    def _from_compact(cls, folder: Path, device: str | torch.device, dtype: torch.dtype) -> DiffusersBackbone:
        parts: dict[str, Any] = load_modules(folder, dtype)
        return cls(
            tokenizer=load_tokenizer(folder / "merges.txt"),
            **parts,
            scheduler_config=read_config(folder)["scheduler"],
            checkpoint=MINIATURE,
            device=device,
        )

    def tokenize(self, text: str) -> list[int]:
        """BPE token ids without BOS and EOS."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of the token table, (n,) int64 -> (n, d) float32 on the CPU."""
        return self._table[token_ids.to(self.device)].float().cpu()

    @torch.no_grad()
    def encode(self, embeddings: Tensor) -> Tensor:
        """`T(x)` without gradient, (B, L, d) -> (B, L, d) float32 on the CPU."""
        return self._encode(embeddings.to(self.device, self.text_encoder.dtype)).float().cpu()

    def alphas_cumprod(self) -> Tensor:
        """abar of the noise schedule, (1000,) float32 on the CPU."""
        return self._abar

    @torch.no_grad()
    def posterior(self, images: Tensor) -> Posterior:
        """The VAE posterior of (N, H, W, 3) images in 0..1, scaled. One image at a time, to save memory."""
        means, stds = [], []
        for image in images.movedim(-1, 1).split(1):
            distribution = self.vae.encode(image.to(self.device, self.vae.dtype) * 2 - 1).latent_dist
            means.append(distribution.mean.float().cpu())
            stds.append(distribution.std.float().cpu())
        scale = self.vae.config.scaling_factor
        return Posterior(
            torch.cat(means) * scale, torch.cat(stds) * scale, weights_fingerprint(self.vae.named_parameters())
        )

    def memory_needed(
        self, *, precision: Precision, samples: int, resolution: int, gradient_checkpointing: bool
    ) -> int:
        """Bytes for a step over so many samples at once, beyond what is loaded already."""
        dtype = DTYPES[resolve_precision(precision, self.device)]
        copied = 0 if self.unet.dtype == dtype else sum(weight.numel() for weight in self.unet.parameters())
        return copied * dtype.itemsize + activation_memory(samples, resolution, dtype, gradient_checkpointing)

    def free_memory(self, needed: int) -> int | None:
        """What is free on a CUDA device; None elsewhere."""
        if self.device.type != "cuda":
            return None
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + cached

    @contextmanager
    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> Iterator[_DiffusersModel]:
        """The UNet in the precision asked for, as a copy where its own differs."""
        dtype = DTYPES[resolve_precision(precision, self.device)]
        unet = self.unet if self.unet.dtype == dtype else copy.deepcopy(self.unet).to(dtype)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()  # diffusers checkpoints in this mode only; the model has no dropout
        try:
            yield _DiffusersModel(self, unet, dtype)
        finally:
            unet.disable_gradient_checkpointing()
            unet.eval()

    @property
    def _table(self) -> Tensor:
        return self._text_model.embeddings.token_embedding.weight

    def _encode(self, embeddings: Tensor) -> Tensor:
        model = self._text_model
        return encode_clip(
            embeddings,
            model.embeddings.position_embedding.weight,
            model.encoder.layers,
            model.final_layer_norm,
            self.text_encoder.config.num_attention_heads,
        )

    def _check(self) -> None:
        channels, context = self.unet.config.in_channels, self.unet.config.cross_attention_dim
        if channels != 4:
            raise ValueError(
                f"The UNet takes {channels} channels: an inpainting or editing model. Use the base model of its family."
            )
        if context != self.width:
            raise ValueError(
                f"The text encoder has width {self.width}, but the UNet attends to width {context}: the parts do not "
                "belong together, or the model is not SD 1.x or 2.x."
            )


class _DiffusersModel:
    work: Hashable = None

    def __init__(self, backbone: DiffusersBackbone, unet: Any, dtype: torch.dtype) -> None:
        self._backbone, self._unet = backbone, unet
        self.device, self.dtype = backbone.device, dtype
        self._text_dtype = backbone.text_encoder.dtype
        self._fingerprint: str | None = None

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._backbone._table[token_ids].float()

    def encode(self, embeddings: Tensor) -> Tensor:
        return self._backbone._encode(embeddings.to(self._text_dtype)).float()

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self._unet(
            noisy_latents.to(self.dtype), timesteps, encoder_hidden_states=context.to(self.dtype)
        ).sample.float()

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            # Of the weights as they were loaded, not of a copy in another precision.
            parts = (*self._backbone.text_encoder.named_parameters(), *self._backbone.unet.named_parameters())
            self._fingerprint = weights_fingerprint(parts)
        return self._fingerprint


def _resolution(config: Any) -> int:
    """Pixels of the pictures that a UNet was made for, eight to a latent pixel; 512 where it does not say."""
    low, high = RESOLUTION_RANGE
    size = config.sample_size * 8 if isinstance(config.sample_size, int) else 512
    return min(max(round(size / RESOLUTION_STEP) * RESOLUTION_STEP, low), high)


def _prediction_type(config: dict[str, Any]) -> PredictionType:
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"The model predicts '{prediction_type}', but only epsilon and v_prediction are supported.")
    return prediction_type


def _alphas_cumprod(config: dict[str, Any]) -> Tensor:
    from diffusers import DDPMScheduler

    abar = DDPMScheduler.from_config(config).alphas_cumprod
    if len(abar) != TIMESTEPS:
        raise ValueError(f"The noise schedule has {len(abar)} steps, but {TIMESTEPS} were expected.")
    return abar.float()
