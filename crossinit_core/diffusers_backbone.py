"""The backbone over a diffusers folder: `tokenizer/`, `text_encoder/`, `unet/`, `vae/`, `scheduler/`; over a compact one, or over
a checkpoint file."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .backbone import Encoded, FrozenModel, Posterior, PredictionType
from .families import (
    CONTEXT_LENGTH,
    MINIATURE,
    base_of_widths,
    for_inpainting,
    shown_widths,
    special_version,
)
from .gpu.kernels import PLAIN, Kernels
from .gpu.self_tests import choose
from .models.activation_memory import activation_memory
from .models.added_conditions import SIZES, added_conditions
from .models.checkpoint_file import (
    is_checkpoint,
    load_checkpoint,
    read_checkpoint,
    resolution_of_checkpoint,
    widths_of_checkpoint,
)
from .models.clip_text import ClipText, FrozenText, training_dtype
from .models.compact_folder import is_compact, load_modules, load_tokenizer, read_config
from .models.copied_model import CopiedModel
from .models.diffusers_folder import check_folder, name_of, read_object, weights_variant
from .models.distilled import distilled_kind, distilled_kind_of_folder, distilled_warning
from .models.fingerprint import weights_fingerprint
from .models.loading import reading
from .models.private_copy import private_copy
from .models.schedule import alphas_cumprod, names_v_prediction, prediction_type
from .photos.images import RESOLUTION_RANGE, RESOLUTION_STEP
from .precision import DTYPES, Precision, resolve_precision
from .text import quoted

_FAMILIES = "SD 1.x, SD 2.x or SDXL"


class DiffusersBackbone:
    """Stable Diffusion 1.x, 2.x or SDXL in diffusers' layout. Make one with `from_pretrained`.

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
        tokenizer_2: Any = None,
        text_encoder_2: Any = None,
    ) -> None:
        """`tokenizer_2` and `text_encoder_2`, which has a projection, are SDXL's."""
        self.device = torch.device(device)
        self.tokenizer, self.tokenizer_2 = tokenizer, tokenizer_2
        self.text_encoder = text_encoder.to(self.device).train(False).requires_grad_(False)
        self.text_encoder_2 = text_encoder_2
        if text_encoder_2 is not None:
            self.text_encoder_2 = text_encoder_2.to(self.device).train(False).requires_grad_(False)
        self.unet = unet.to(self.device).train(False).requires_grad_(False)
        self.vae = vae.to(self.device).train(False).requires_grad_(False)
        self.checkpoint = checkpoint
        self.scheduler_config = scheduler_config
        self._encoders = [encoder for encoder in (self.text_encoder, self.text_encoder_2) if encoder is not None]
        self.widths: tuple[int, ...] = tuple(encoder.config.hidden_size for encoder in self._encoders)
        self.base = base_of_widths(self.widths)
        self.resolution = _resolution(unet.config)
        self._check()
        self._text = _frozen_text(self._encoders, [_text_model(encoder) for encoder in self._encoders])
        self.vocabulary_size: int = _table(self.text_encoder).shape[0]
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pads: tuple[int, ...] = tuple(one.pad_token_id for one in (tokenizer, tokenizer_2) if one is not None)
        self.pad: int = self.pads[0]
        self.prediction_type: PredictionType = prediction_type(scheduler_config)
        self._abar = alphas_cumprod(scheduler_config)
        self.fused = self.device.type == "cuda"

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        unet_dtype: torch.dtype | None = None,
    ) -> DiffusersBackbone:
        """Load from a local folder, in diffusers' layout or in that of the miniature, or from a checkpoint file
        (.safetensors, .ckpt); nothing is downloaded.

        `unet_dtype` is the UNet's, if it is another: one that learns in half precision on copies, as on a GPU, needs no more.

        Raises FileNotFoundError if the folder is not a diffusers model, and ValueError if the model is not SD 1.x, SD 2.x
        or SDXL.
        """
        folder = Path(folder)
        if is_compact(folder):
            return cls._from_compact(folder, device, dtype)
        if is_checkpoint(folder):
            return cls(**load_checkpoint(folder, dtype, unet_dtype), checkpoint=folder.stem, device=device)

        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        check_folder(folder)
        scheduler = read_object(folder / "scheduler/scheduler_config.json")
        prediction_type(scheduler)  # refused before gigabytes are read
        options: dict[str, Any] = {"local_files_only": True, "torch_dtype": dtype}
        second: dict[str, Any] = {}
        if (folder / "text_encoder_2").exists():
            second = {
                "tokenizer_2": _load_tokenizer(folder / "tokenizer_2"),
                "text_encoder_2": _load(CLIPTextModelWithProjection, folder / "text_encoder_2", options),
            }
        return cls(
            tokenizer=_load_tokenizer(folder / "tokenizer"),
            text_encoder=_load(CLIPTextModel, folder / "text_encoder", options),
            unet=_load(UNet2DConditionModel, folder / "unet", {**options, "torch_dtype": unet_dtype or dtype}),
            vae=_load(AutoencoderKL, folder / "vae", options),
            scheduler_config=scheduler,
            checkpoint=name_of(folder),
            device=device,
            **second,
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
        return self._text.embed(token_ids.to(self.device)).cpu()

    @torch.no_grad()
    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        """`T(x)` without gradient: token embeddings (B, L, d) of prompts whose EOS is at `ends` (B,); float32 on the CPU."""
        context, pooled = self._text.encode(embeddings.to(self.device, self.text_encoder.dtype), ends.to(self.device))
        return Encoded(context.float().cpu(), None if pooled is None else pooled.float().cpu())

    @torch.no_grad()
    def last_states(self, embeddings: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d) float32 on the CPU: through each encoder's last layer and final LayerNorm."""
        return self._text.last_states(embeddings.to(self.device, self.text_encoder.dtype)).float().cpu()

    def alphas_cumprod(self) -> Tensor:
        """abar of the noise schedule, (1000,) float32 on the CPU."""
        return self._abar

    @torch.no_grad()
    def posterior(self, images: Tensor) -> Posterior:
        """The VAE posterior of (N, H, W, 3) images in 0..1, scaled. One image at a time, to save memory."""
        means, stds = [], []
        # SDXL's VAE overflows in float16.
        vae = private_copy(self.vae, lambda name: torch.float32) if self.vae.dtype == torch.float16 else self.vae
        for image in images.movedim(-1, 1).split(1):
            distribution = vae.encode(image.to(self.device, vae.dtype) * 2 - 1).latent_dist
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
        copied = [self.unet, *self._encoders] if self.fused else [] if self.unet.dtype == dtype else [self.unet]
        numbers = sum(weight.numel() for part in copied for weight in part.parameters())
        return numbers * dtype.itemsize + activation_memory(
            samples, resolution, dtype, gradient_checkpointing, self.widths
        )

    def free_memory(self, needed: int) -> int | None:
        """What is free on a CUDA device; None elsewhere."""
        if self.device.type != "cuda":
            return None
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + cached

    def warnings(self) -> list[str]:
        """What to expect of a model that can learn, a line each. Nothing is said of most."""
        shown = f"The model '{quoted(self.checkpoint, 60)}'"
        found = []
        if kind := distilled_kind(self.checkpoint):
            found.append(distilled_warning(shown, kind, "its name"))
        elif kind := distilled_kind_of_folder(self.scheduler_config, self.unet.config):
            found.append(distilled_warning(shown, kind, "its configuration"))
        if self.prediction_type == "epsilon" and names_v_prediction(self.checkpoint):
            found.append(
                f"{shown} is one of v-prediction by its name, but nothing in it says so, and it is learned on as one that predicts "
                "noise, as ComfyUI does. If its pictures are noise, give it the key v_pred, or prediction_type v_prediction in its "
                "scheduler_config.json."
            )
        return found

    @contextmanager
    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> Iterator[FrozenModel]:
        """Private copies with fused blocks; or, if not `fused`, the UNet itself, and a copy if its precision is another."""
        dtype = DTYPES[resolve_precision(precision, self.device)]
        if self.fused:
            model = _copied(self, dtype, gradient_checkpointing)
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

    def _check(self) -> None:
        """Raises ValueError for parts that are not those of SD 1.x, SD 2.x or SDXL, or do not belong together."""
        channels, context = self.unet.config.in_channels, self.unet.config.cross_attention_dim
        if channels != 4:
            raise ValueError(f"The model {special_version(for_inpainting(quoted(channels, 20)))}.")
        if context != sum(self.widths):
            raise ValueError(
                f"The text encoder has width {shown_widths(self.widths)}, but the UNet attends to width {quoted(context, 60)}: "
                f"the parts do not belong together, or the model is not {_FAMILIES}."
            )
        self._check_conditions()
        scale = self.vae.config.scaling_factor
        if self.vae.config.latent_channels != 4 or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise ValueError(
                f"The VAE makes {quoted(self.vae.config.latent_channels, 20)} latent channels, scaled by {quoted(scale, 40)}, but "
                f"4 and a number were expected: it does not belong to {_FAMILIES}."
            )
        tokenizers = [one for one in (self.tokenizer, self.tokenizer_2) if one is not None]
        if len(tokenizers) != len(self._encoders):
            raise ValueError(
                f"The model has {len(tokenizers)} tokenizers for {len(self._encoders)} text encoders. Download it again, whole."
            )
        for encoder, tokenizer in zip(self._encoders, tokenizers, strict=True):
            length = _text_model(encoder).embeddings.position_embedding.weight.shape[0]
            if length != CONTEXT_LENGTH:
                raise ValueError(
                    f"The text encoder reads {length} tokens, but {CONTEXT_LENGTH} were expected: it is not that of {_FAMILIES}."
                )
            special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
            rows = _table(encoder).shape[0]
            if not all(isinstance(token, int) and 0 <= token < rows for token in special) or len(tokenizer) > rows:
                raise ValueError(
                    f"The tokenizer has {len(tokenizer)} tokens, with {quoted(special, 60)} for start, end and padding, but "
                    f"the text encoder {rows}: the parts do not belong together. Download the model again."
                )
        # Prompts are cut and closed by the first; the second reads the same ids.
        if len({(one.bos_token_id, one.eos_token_id, len(one)) for one in tokenizers}) > 1 or (
            len({_table(encoder).shape[0] for encoder in self._encoders}) > 1
        ):
            raise ValueError("The model's two tokenizers have other tokens. Download the model again, whole.")

    def _check_conditions(self) -> None:
        """Raises ValueError if the UNet wants other things beside the prompt than its text encoders give."""
        config = self.unet.config
        wanted = getattr(config, "addition_embed_type", None)
        if len(self.widths) == 1 and wanted is None:
            return
        if len(self.widths) != 2 or wanted != "text_time":
            raise ValueError(
                f"The model has {len(self.widths)} text encoder{'s' * (len(self.widths) > 1)}, and its UNet takes "
                f"'{quoted(wanted, 40)}' beside the prompt: it is not {_FAMILIES}, but perhaps a refiner. Use the base model."
            )
        projection = getattr(self.text_encoder_2, "text_projection", None)
        pooled = 0 if projection is None else projection.weight.shape[0]
        expected = pooled + SIZES * (config.addition_time_embed_dim or 0)
        if projection is None or config.projection_class_embeddings_input_dim != expected:
            raise ValueError(
                f"The UNet takes {quoted(config.projection_class_embeddings_input_dim, 20)} numbers beside the prompt, but the "
                f"second text encoder and the sizes give {expected}: the parts do not belong together, or the model is a refiner."
            )


class _DiffusersModel:
    """The `FrozenModel` of a run on diffusers' own code."""

    def __init__(
        self, backbone: DiffusersBackbone, unet: Any, dtype: torch.dtype, gradient_checkpointing: bool
    ) -> None:
        self._backbone, self._unet = backbone, unet
        self.device, self.dtype = backbone.device, dtype
        self._text, self._text_dtype = backbone._text, backbone.text_encoder.dtype
        self._fingerprint = _fingerprint(backbone)
        self.signature: Hashable = (self._fingerprint, dtype, self._text_dtype, "diffusers", gradient_checkpointing)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._text.embed(token_ids)

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        context, pooled = self._text.encode(embeddings.to(self._text_dtype), ends)
        return Encoded(context.float(), None if pooled is None else pooled.float())

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, encoded: Encoded, sizes: Tensor | None = None
    ) -> Tensor:
        return self._unet(
            noisy_latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=encoded.context.to(self.dtype),
            added_cond_kwargs=added_conditions(encoded, sizes, self.dtype),
        ).sample.float()

    def fingerprint(self) -> str:
        return self._fingerprint


def _copied(backbone: DiffusersBackbone, dtype: torch.dtype, gradient_checkpointing: bool) -> CopiedModel:
    """Private copies with fused blocks."""
    from .models.diffusers_unet import FusedUNet

    kernels = choose(backbone.device, dtype)
    models = [private_copy(_text_model(one), lambda name: training_dtype(name, dtype)) for one in backbone._encoders]
    return CopiedModel(
        text=_frozen_text(backbone._encoders, models, kernels),
        unet=FusedUNet(backbone.unet, dtype, kernels, gradient_checkpointing),
        fingerprint=_fingerprint(backbone),
        device=backbone.device,
        dtype=dtype,
    )


def _fingerprint(backbone: DiffusersBackbone) -> str:
    """Of the weights as they were loaded, not of a copy in another precision."""
    parts = (*backbone._encoders, backbone.unet)
    return weights_fingerprint(named for part in parts for named in part.named_parameters())


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


def widths_of(folder: str | Path) -> tuple[int, ...]:
    """`DiffusersBackbone.widths` of a model, without loading it; empty if it does not say."""
    folder = Path(folder)
    try:
        if is_checkpoint(folder):
            return widths_of_checkpoint(read_checkpoint(folder))
        if is_compact(folder):
            configs = [read_config(folder)["text_encoder"]]
        else:
            second = ["text_encoder_2"] if (folder / "text_encoder_2").exists() else []
            configs = [read_object(folder / part / "config.json") for part in ("text_encoder", *second)]
        widths = tuple(config.get("hidden_size") for config in configs)
    except (OSError, ValueError, LookupError, AttributeError):
        return ()  # loading the model says what is wrong with it
    return tuple(width for width in widths if isinstance(width, int)) if all(widths) else ()


def _load(kind: Any, part: Path, options: dict[str, Any]) -> Any:
    """A network of transformers or diffusers from its folder. Raises ValueError that names the folder if it cannot be read."""
    read_object(part / "config.json")
    variant = weights_variant(part)
    with reading(part):
        return kind.from_pretrained(part, **options, **variant)


def _load_tokenizer(part: Path) -> Any:
    from transformers import CLIPTokenizer

    with reading(part):
        tokenizer = CLIPTokenizer.from_pretrained(part, local_files_only=True)
        tokenizer("a word", add_special_tokens=False)
    return tokenizer


def _text_model(encoder: Any) -> Any:
    """transformers 4 keeps the encoder one level down."""
    return getattr(encoder, "text_model", encoder)


def _table(encoder: Any) -> Tensor:
    return _text_model(encoder).embeddings.token_embedding.weight


def _frozen_text(encoders: Sequence[Any], models: Sequence[Any], kernels: Kernels | None = None) -> FrozenText:
    """`E` and `T(x)` over `models`, the text models of `encoders` or, for fused `kernels`, private copies of them."""
    parts = [
        ClipText(model, encoder.config.num_attention_heads, kernels or PLAIN, packed=kernels is not None)
        for encoder, model in zip(encoders, models, strict=True)
    ]
    if len(parts) == 1:
        return FrozenText(parts)
    projection = encoders[1].text_projection.weight.detach()
    return FrozenText(parts, projection.clone() if kernels else projection)


def _resolution(config: Any) -> int:
    """Pixels of the pictures that a UNet was made for, eight to a latent pixel; 512 if it does not say."""
    low, high = RESOLUTION_RANGE
    size = config.sample_size * 8 if isinstance(config.sample_size, int) else 512
    return min(max(round(size / RESOLUTION_STEP) * RESOLUTION_STEP, low), high)
