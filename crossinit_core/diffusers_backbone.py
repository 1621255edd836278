"""The backbone over a diffusers folder: `tokenizer/`, `text_encoder/`, `unet/`, `vae/`, `scheduler/`; over a compact one, or over
a checkpoint file."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .backbone import FrozenModel, Posterior, PredictionType
from .families import CONTEXT_LENGTH, MINIATURE, TIMESTEPS, base_of_widths, for_inpainting, special_version
from .gpu.self_tests import choose
from .models.activation_memory import activation_memory
from .models.checkpoint_file import is_checkpoint, load_checkpoint, read_checkpoint, resolution_of_checkpoint
from .models.clip_text import FrozenText, encode_clip, training_dtype
from .models.compact_folder import is_compact, load_modules, load_tokenizer, read_config
from .models.diffusers_folder import check_folder, read_object, weights_variant
from .models.fingerprint import weights_fingerprint
from .models.loading import reading
from .models.private_copy import private_copy
from .photos.images import RESOLUTION_RANGE, RESOLUTION_STEP
from .precision import DTYPES, Precision, resolve_precision
from .text import quoted


class DiffusersBackbone:
    """Stable Diffusion 1.x or 2.x in diffusers' layout. Make one with `from_pretrained`.

    `fused` says whether learning runs on private copies whose blocks are computed by fused operations: on a GPU, unless it
    is turned off. On a CPU they save no time, and diffusers' own code repeats published runs.
    """

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
        self.text_encoder = text_encoder.to(self.device).train(False).requires_grad_(False)
        self.unet = unet.to(self.device).train(False).requires_grad_(False)
        self.vae = vae.to(self.device).train(False).requires_grad_(False)
        self.checkpoint = checkpoint
        self.scheduler_config = scheduler_config
        self.widths: tuple[int, ...] = (text_encoder.config.hidden_size,)
        self.base = base_of_widths(self.widths)
        self.resolution = _resolution(unet.config)
        # transformers 4 keeps the encoder one level down.
        self._text_model = getattr(self.text_encoder, "text_model", self.text_encoder)
        self._check()
        self.vocabulary_size: int = self._table.shape[0]
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self.prediction_type: PredictionType = _prediction_type(scheduler_config)
        self._abar = _alphas_cumprod(scheduler_config)
        self.fused = self.device.type == "cuda"

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> DiffusersBackbone:
        """Load from a local folder, in diffusers' layout or in that of the miniature, or from a checkpoint file
        (.safetensors, .ckpt); nothing is downloaded.

        Raises FileNotFoundError if the folder is not a diffusers model, and ValueError if the model is not SD 1.x
        or 2.x.
        """
        folder = Path(folder)
        if is_compact(folder):
            return cls._from_compact(folder, device, dtype)
        if is_checkpoint(folder):
            return cls(**load_checkpoint(folder, dtype), checkpoint=folder.stem, device=device)

        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        check_folder(folder)
        scheduler = read_object(folder / "scheduler/scheduler_config.json")
        options: dict[str, Any] = {"local_files_only": True, "torch_dtype": dtype}
        with reading(folder / "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            tokenizer("a word", add_special_tokens=False)
        return cls(
            tokenizer=tokenizer,
            text_encoder=_load(CLIPTextModel, folder / "text_encoder", options),
            unet=_load(UNet2DConditionModel, folder / "unet", options),
            vae=_load(AutoencoderKL, folder / "vae", options),
            scheduler_config=scheduler,
            checkpoint=folder.name,
            device=device,
        )

    @classmethod
    def _from_compact(cls, folder: Path, device: str | torch.device, dtype: torch.dtype) -> DiffusersBackbone:
        parts: dict[str, Any] = load_modules(folder, dtype)
        return cls(
            tokenizer=load_tokenizer(),
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
        """Bytes for a step over so many samples at once, beyond what is loaded already.

        Fused blocks need copies of UNet and text encoder: 2.4 GB for SD 2.1 in half precision.
        """
        dtype = DTYPES[resolve_precision(precision, self.device)]
        copied = [self.unet, self._text_model] if self.fused else [] if self.unet.dtype == dtype else [self.unet]
        numbers = sum(weight.numel() for part in copied for weight in part.parameters())
        return numbers * dtype.itemsize + activation_memory(samples, resolution, dtype, gradient_checkpointing)

    def free_memory(self, needed: int) -> int | None:
        """What is free on a CUDA device; None elsewhere."""
        if self.device.type != "cuda":
            return None
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + cached

    @contextmanager
    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> Iterator[FrozenModel]:
        """Private copies with fused blocks; or, if not `fused`, the UNet itself, and a copy if its precision is another."""
        dtype = DTYPES[resolve_precision(precision, self.device)]
        if self.fused:
            model = _FusedModel(self, dtype, gradient_checkpointing)
            try:
                yield model
            finally:
                model.close()
            return
        unet = self.unet if self.unet.dtype == dtype else copy.deepcopy(self.unet).to(dtype)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()  # diffusers checkpoints in this mode only; the model has no dropout
        try:
            yield _DiffusersModel(self, unet, dtype, gradient_checkpointing)
        finally:
            unet.disable_gradient_checkpointing()
            unet.train(False)

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
        """Raises ValueError for parts that are not those of SD 1.x or 2.x, or do not belong together."""
        channels, context = self.unet.config.in_channels, self.unet.config.cross_attention_dim
        if channels != 4:
            raise ValueError(f"The model {special_version(for_inpainting(quoted(channels, 20)))}.")
        if context != sum(self.widths):
            raise ValueError(
                f"The text encoder has width {sum(self.widths)}, but the UNet attends to width {quoted(context, 60)}: the parts "
                "do not belong together, or the model is not SD 1.x or 2.x."
            )
        scale = self.vae.config.scaling_factor
        if self.vae.config.latent_channels != 4 or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise ValueError(
                f"The VAE makes {quoted(self.vae.config.latent_channels, 20)} latent channels, scaled by {quoted(scale, 40)}, but "
                "4 and a number were expected: it does not belong to SD 1.x or 2.x."
            )
        length = self._text_model.embeddings.position_embedding.weight.shape[0]
        if length != CONTEXT_LENGTH:
            raise ValueError(
                f"The text encoder reads {length} tokens, but {CONTEXT_LENGTH} were expected: it is not that of SD 1.x or 2.x."
            )
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        rows = self._table.shape[0]
        if not all(isinstance(token, int) and 0 <= token < rows for token in special) or len(self.tokenizer) > rows:
            raise ValueError(
                f"The tokenizer has {len(self.tokenizer)} tokens, with {quoted(special, 60)} for start, end and padding, but "
                f"the text encoder {rows}: the parts do not belong together. Download the model again."
            )


class _DiffusersModel:
    """The `FrozenModel` of a run on diffusers' own code."""

    def __init__(
        self, backbone: DiffusersBackbone, unet: Any, dtype: torch.dtype, gradient_checkpointing: bool
    ) -> None:
        self._backbone, self._unet = backbone, unet
        self.device, self.dtype = backbone.device, dtype
        self._text_dtype = backbone.text_encoder.dtype
        self._fingerprint = _fingerprint(backbone)
        self.signature: Hashable = (self._fingerprint, dtype, self._text_dtype, "diffusers", gradient_checkpointing)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._backbone._table[token_ids].float()

    def encode(self, embeddings: Tensor) -> Tensor:
        return self._backbone._encode(embeddings.to(self._text_dtype)).float()

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self._unet(
            noisy_latents.to(self.dtype), timesteps, encoder_hidden_states=context.to(self.dtype)
        ).sample.float()

    def fingerprint(self) -> str:
        return self._fingerprint


class _FusedModel:
    """The `FrozenModel` of a run on private copies with fused blocks."""

    def __init__(self, backbone: DiffusersBackbone, dtype: torch.dtype, gradient_checkpointing: bool) -> None:
        from .models.diffusers_unet import FusedUNet

        self.device, self.dtype = backbone.device, dtype
        self._fingerprint = _fingerprint(backbone)
        kernels = choose(self.device, dtype)
        text = private_copy(backbone._text_model, lambda name: training_dtype(name, dtype))
        self._text: FrozenText | None = FrozenText(text, backbone.text_encoder.config.num_attention_heads, kernels)
        self._unet: FusedUNet | None = FusedUNet(backbone.unet, dtype, kernels, gradient_checkpointing)
        self.signature: Hashable = (self._fingerprint, dtype, kernels.name, self._unet.signature)

    def embed(self, token_ids: Tensor) -> Tensor:
        assert self._text is not None
        return self._text.embed(token_ids)

    def encode(self, embeddings: Tensor) -> Tensor:
        assert self._text is not None
        return self._text.encode(embeddings)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        assert self._unet is not None
        return self._unet(noisy_latents, timesteps, context)

    def fingerprint(self) -> str:
        return self._fingerprint

    def close(self) -> None:
        """Let go of the copies, even if something still holds this object."""
        if self._unet is not None:
            self._unet.close()
        self._text = self._unet = None


def _fingerprint(backbone: DiffusersBackbone) -> str:
    """Of the weights as they were loaded, not of a copy in another precision."""
    return weights_fingerprint((*backbone.text_encoder.named_parameters(), *backbone.unet.named_parameters()))


def resolution_of(folder: str | Path) -> int:
    """`DiffusersBackbone.resolution` of a model, without loading it; 512 if it does not say."""
    folder = Path(folder)
    try:
        if is_checkpoint(folder):
            return resolution_of_checkpoint(read_checkpoint(folder))
        config = read_config(folder)["unet"] if is_compact(folder) else read_object(folder / "unet/config.json")
        return _resolution(SimpleNamespace(sample_size=config.get("sample_size")))
    except (OSError, ValueError, LookupError, AttributeError):
        return _resolution(SimpleNamespace(sample_size=None))  # loading the model says what is wrong with it


def _load(kind: Any, part: Path, options: dict[str, Any]) -> Any:
    """A network of transformers or diffusers from its folder. Raises ValueError that names the folder if it cannot be read."""
    read_object(part / "config.json")
    variant = weights_variant(part)
    with reading(part):
        return kind.from_pretrained(part, **options, **variant)


def _resolution(config: Any) -> int:
    """Pixels of the pictures that a UNet was made for, eight to a latent pixel; 512 if it does not say."""
    low, high = RESOLUTION_RANGE
    size = config.sample_size * 8 if isinstance(config.sample_size, int) else 512
    return min(max(round(size / RESOLUTION_STEP) * RESOLUTION_STEP, low), high)


def _prediction_type(config: dict[str, Any]) -> PredictionType:
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The model predicts '{quoted(prediction_type, 60)}', but only epsilon and v_prediction are supported."
        )
    return prediction_type


def _alphas_cumprod(config: dict[str, Any]) -> Tensor:
    from diffusers import DDPMScheduler

    with reading(Path("scheduler/scheduler_config.json")):
        abar = DDPMScheduler.from_config(config).alphas_cumprod  # pyright: ignore[reportAttributeAccessIssue]
    if len(abar) != TIMESTEPS:
        raise ValueError(f"The noise schedule has {len(abar)} steps, but {TIMESTEPS} were expected.")
    if not bool(((abar >= 0) & (abar <= 1)).all()):
        raise ValueError("The noise schedule holds values outside of 0..1. Download the model again.")
    return abar.float()
