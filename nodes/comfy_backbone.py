"""The backbone over the MODEL, CLIP and VAE of a running graph. The only file that touches ComfyUI's internals.

How it learns without touching the graph's own models: `training` builds private copies of ComfyUI's UNet and text
encoder from the weights of the graph's models, with the graph's LoRA patches merged in, as ordinary tensors in one
precision on the compute device. Nothing of the host is patched, cast or moved, and ComfyUI's memory modes (lowvram,
dynamic VRAM, weights made in inference mode) cannot reach the tensors that the backward pass needs.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.lora
import comfy.model_management as mm
import comfy.model_sampling
import comfy.ops
import comfy.supported_models
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..crossinit_core.backbone import (
    DTYPES,
    Posterior,
    Precision,
    PredictionType,
    resolve_precision,
    weights_fingerprint,
)
from ..crossinit_core.clip_text import encode_clip
from ..crossinit_core.learned_token import describe_width

log = logging.getLogger(__name__)

ENCODERS = {"clip_h": "sd2", "clip_l": "sd1"}
"""The text encoder's attribute on ComfyUI's CLIP -> our name of the base."""

FAMILY = {"sd1": comfy.supported_models.SD15, "sd2": comfy.supported_models.SD20}

_USE_INSTEAD = "Load a Stable Diffusion 2.x or 1.x checkpoint (for example v2-1_512-ema-pruned.safetensors)."
_PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class ComfyBackbone:
    """Stable Diffusion 1.x or 2.x as ComfyUI has it loaded.

    `clip` alone is enough to compute an initialization; learning needs `model`, and `vae` where it learns from
    images. Raises ValueError that names what was connected where it is something else.
    """

    def __init__(self, model: Any, clip: Any, vae: Any = None) -> None:
        self._model, self._clip, self._vae = model, clip, vae
        self._encoder_name = encoder_name(clip)
        self._encoder = getattr(clip.cond_stage_model, self._encoder_name)
        self._tokenizer = getattr(clip.tokenizer, self._encoder_name)
        self.base = ENCODERS[self._encoder_name]
        self.width: int = clip_width(clip)
        self.vocabulary_size: int = self._table.weight.shape[0]
        self.bos: int = self._tokenizer.start_token
        self.eos: int = self._tokenizer.end_token
        self.pad: int = self._tokenizer.pad_token
        self.prediction_type: PredictionType = "epsilon"
        self.checkpoint = _checkpoint_name(clip.patcher)
        self._check_layer()
        if model is not None:
            self._check_model()
            self.prediction_type = _prediction_type(model)
            self.checkpoint = _checkpoint_name(model)
        if vae is not None:
            self._check_vae()

    @property
    def device(self) -> torch.device:
        """Where the graph computes."""
        return self._model.load_device

    @property
    def latent_format(self) -> Any:
        """ComfyUI's description of the latents, for previews."""
        return self._model.model.latent_format

    def tokenize(self, text: str) -> list[int]:
        """BPE token ids without BOS and EOS."""
        return self._tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of the token table, (n,) int64 -> (n, d) float32 on the CPU."""
        self._clip.load_model()
        ids = token_ids.to(self._clip.patcher.load_device)
        with torch.no_grad():
            return self._table(ids, out_dtype=torch.float32).float().cpu().clone()

    def encode(self, embeddings: Tensor) -> Tensor:
        """`T(x)` without gradient through the host's own encoder, (B, L, d) -> (B, L, d) float32 on the CPU."""
        key = self._encoder_name.removeprefix("clip_")
        with torch.no_grad():
            outputs = [
                self._clip.encode_from_tokens({key: [[(token, 1.0) for token in sequence]]}) for sequence in embeddings
            ]
        return torch.cat(outputs).float().cpu().clone()

    def alphas_cumprod(self) -> Tensor:
        """abar of the MODEL's noise schedule, (1000,) float32 on the CPU."""
        sigmas = self._model.get_model_object("model_sampling").sigmas
        return (1 / (1 + sigmas.double() ** 2)).float().cpu().clone()

    def posterior(self, images: Tensor) -> Posterior:
        """The VAE posterior of (N, H, W, 3) images in 0..1, scaled. One image at a time, to save memory."""
        vae = self._vae
        if vae is None:
            raise ValueError("Connect a VAE to learn from photos.")
        means, stds = [], []
        for image in images.split(1):
            mean, std = self._encode_image(image)
            means.append(self.latent_format.process_in(mean))
            stds.append(std * self.latent_format.scale_factor)
        return Posterior(
            torch.cat(means), torch.cat(stds), weights_fingerprint(vae.first_stage_model.named_parameters())
        )

    @contextmanager
    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> Iterator[_ComfyModel]:
        """Private copies of text encoder and UNet on the compute device; all of it is freed afterwards."""
        device = self.device
        dtype = DTYPES[_host_precision(precision, device)]
        _warn_of_ignored_patches(self._model)
        _make_room(self._model, self._clip.patcher, dtype, device)
        try:
            yield _ComfyModel(self._model, self._clip, self._encoder_name, device, dtype, gradient_checkpointing)
        finally:
            mm.soft_empty_cache()

    @property
    def _table(self) -> Any:
        return self._encoder.transformer.get_input_embeddings()

    def _encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the unscaled posterior, float32 on the CPU."""
        vae = self._vae
        quant_conv = getattr(vae.first_stage_model, "quant_conv", None)
        if quant_conv is None:
            log.info("This VAE has no posterior; its encoding is used as it is.")
            mean = vae.encode(image).float().cpu().clone()
            return mean, torch.zeros_like(mean)
        memory = vae.memory_used_encode((1, 3, image.shape[1], image.shape[2]), vae.vae_dtype)
        mm.load_models_gpu([vae.patcher], memory_required=memory)
        pixels = vae.process_input(image.movedim(-1, 1)).to(vae.device, vae.vae_dtype)
        with torch.no_grad():
            moments = quant_conv(vae.first_stage_model.encoder(pixels)).float().cpu().clone()
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()

    def _check_layer(self) -> None:
        own = -2 if self.base == "sd2" else -1
        if self._clip.layer_idx not in (None, own):
            raise ValueError(
                f"CLIP stops at layer {self._clip.layer_idx}, but {describe_width(self.width)} was trained with layer "
                f"{own}. Remove the CLIP Set Last Layer node before this one."
            )

    def _check_model(self) -> None:
        model = self._model.model
        found = describe_model(self._model)
        if not isinstance(model.model_config, tuple(FAMILY.values())):
            raise ValueError(f"MODEL is {found}, which cannot learn a face with this method. {_USE_INSTEAD}")
        if not isinstance(model.model_config, FAMILY[self.base]):
            raise ValueError(
                f"MODEL is {found}, but CLIP belongs to {describe_width(self.width)}. Connect both from the same checkpoint."
            )
        unet = model.diffusion_model
        if unet.in_channels != 4 or model.adm_channels or getattr(unet, "num_classes", None) is not None:
            raise ValueError(f"MODEL is {found}, a special version. Use the base model of its family. {_USE_INSTEAD}")
        _check_plain_weights(self._model, "diffusion_model.", "MODEL")
        _check_plain_weights(self._clip.patcher, f"{self._encoder_name}.", "CLIP")
        context = model.model_config.unet_config["context_dim"]
        if context != self.width:
            raise ValueError(
                f"MODEL attends to width {context} ({describe_width(context)}), but CLIP has width {self.width} "
                f"({describe_width(self.width)}). Connect MODEL and CLIP of the same checkpoint."
            )
        for patcher, name in ((self._model, "MODEL"), (self._clip.patcher, "CLIP")):
            if any("lora" in key for key in getattr(patcher, "injections", {})):
                raise ValueError(
                    f"{name} carries a LoRA in bypass mode. Use the ordinary Load LoRA node before learning."
                )

    def _check_vae(self) -> None:
        vae = self._vae
        channels, factor = vae.latent_channels, vae.downscale_ratio
        if channels != 4 or factor != 8 or vae.latent_dim != 2:
            raise ValueError(
                f"VAE makes {channels} latent channels at 1/{factor} size, but {describe_width(self.width)} needs 4 "
                "at 1/8. Connect the VAE of the same checkpoint."
            )


class _ComfyModel:
    """Private, frozen copies of the text encoder and the UNet."""

    def __init__(
        self, model: Any, clip: Any, encoder_name: str, device: torch.device, dtype: torch.dtype, checkpointing: bool
    ) -> None:
        self.device, self.dtype = device, dtype
        encoder = getattr(clip.cond_stage_model, encoder_name)
        prefix = f"{encoder_name}.transformer.text_model."
        text_weights = dict(_patched_weights(clip.patcher, prefix))
        unet_weights = dict(_patched_weights(model, "diffusion_model."))
        self._fingerprint = weights_fingerprint((*text_weights.items(), *unet_weights.items()))
        self._text = _private_text_model(encoder.transformer.text_model, text_weights, device)
        self._heads: int = encoder.transformer.text_model.encoder.layers[0].self_attn.heads
        # SD 2.x reads the last layer but one; its final LayerNorm follows all the same.
        layer, index, *_ = encoder.options_default
        count = len(self._text.encoder.layers)
        self._layers = self._text.encoder.layers[: count if layer == "last" else index % count + 1]
        self._unet = _private_unet(model.model, unet_weights, device, dtype)
        if checkpointing:
            _checkpoint_blocks(self._unet)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._text.embeddings.token_embedding.weight[token_ids]

    def encode(self, embeddings: Tensor) -> Tensor:
        positions = self._text.embeddings.position_embedding.weight
        return encode_clip(embeddings, positions, self._layers, self._text.final_layer_norm, self._heads)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        # A fresh dict each time: the UNet writes into it, and the host's default is one shared by all.
        options = {"optimized_attention_override": _differentiable_attention}
        return self._unet(
            noisy_latents.to(self.dtype),
            timesteps.float(),
            context=context.to(self.dtype),
            transformer_options=options,
        ).float()

    def fingerprint(self) -> str:
        return self._fingerprint


def encoder_name(clip: Any) -> str:
    """`clip_h` (SD 2.x) or `clip_l` (SD 1.x). Raises ValueError that names any other CLIP."""
    if clip is None:
        raise ValueError("CLIP is empty: the checkpoint has no text encoder. Load it with a CLIP loader.")
    stage = clip.cond_stage_model
    found = [name for name in ("clip_h", "clip_l", "clip_g") if hasattr(stage, name)]
    name = getattr(stage, "clip_name", None)
    if len(found) == 1 and found[0] in ENCODERS and name in ("h", "l"):
        encoder = getattr(stage, found[0])
        if isinstance(getattr(encoder, "transformer", None), comfy.clip_model.CLIPTextModel):
            return found[0]
    kind = "SDXL" if "clip_g" in found else type(stage).__name__
    raise ValueError(f"CLIP is of {kind}, but this needs the single CLIP of SD 2.x or SD 1.x. {_USE_INSTEAD}")


def clip_width(clip: Any) -> int:
    """d of a CLIP: 768 on SD 1.x, 1024 on SD 2.x."""
    return getattr(clip.cond_stage_model, encoder_name(clip)).transformer.get_input_embeddings().weight.shape[1]


def describe_model(model: Any) -> str:
    """What a MODEL is, for people: `SDXL`, `SD 2.x for inpainting`, `Flux` .."""
    config, unet = model.model.model_config, getattr(model.model, "diffusion_model", None)
    name = type(config).__name__
    family = {"SD15": "SD 1.x", "SD20": "SD 2.x"}.get(name, name)
    if "Unclip" in name:
        return "SD 2.1 unCLIP"
    return f"{family} for inpainting" if getattr(unet, "in_channels", 4) == 9 else family


def _prediction_type(model: Any) -> PredictionType:
    sampling = model.get_model_object("model_sampling")
    how = type(sampling).calculate_denoised
    if len(getattr(sampling, "sigmas", ())) == 1000:
        if how is comfy.model_sampling.V_PREDICTION.calculate_denoised:
            return "v_prediction"
        if how is comfy.model_sampling.EPS.calculate_denoised:
            return "epsilon"
    raise ValueError(
        "MODEL samples in a way that learning does not know (a distilled, LCM, EDM or flow model, or a ModelSampling "
        "node). Connect the MODEL straight from the checkpoint loader."
    )


def _check_plain_weights(patcher: Any, prefix: str, socket: str) -> None:
    for key, weight in patcher.model.named_parameters():
        if key.startswith(prefix) and (
            type(weight.data) is not torch.Tensor
            or (weight.is_floating_point() and weight.dtype not in _PLAIN_DTYPES)
            or not weight.is_floating_point()
        ):
            kind = str(weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"{socket} is quantized ({kind} weights), and gradients through it would be wrong. Load the checkpoint "
                "in fp16, bf16 or fp32: weight_dtype 'default', and no --fp8 start option."
            )


def _patched_weights(patcher: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The weights below `prefix` as the graph means them: LoRA patches merged, whatever is loaded where."""
    for key, (base, *patches) in patcher.get_key_patches(prefix).items():
        weight, convert = base
        if weight.is_meta:  # absent from the file; the host makes these zeros as well
            weight = torch.zeros(weight.shape, dtype=weight.dtype)
        wrappers = getattr(patcher, "weight_wrapper_patches", {}).get(key, [])
        if patches or wrappers:
            weight = convert(weight.to(patcher.load_device, torch.float32, copy=True), inplace=True)
            if patches:
                weight = comfy.lora.calculate_weight(patches, weight, key)
            for wrapper in wrappers:
                weight = wrapper(weight)
        yield key.removeprefix(prefix), weight


def _private_copy(weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Ordinary tensors of our own: outside of inference mode a copy loses the flag that forbids backpropagation."""
    return {key: weight.detach().to(device, dtype, copy=True) for key, weight in weights.items()}


def _private_unet(model: Any, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Any:
    config = {**model.model_config.unet_config, "dtype": dtype}
    config.pop("disable_unet_model_creation", None)
    unet = type(model.diffusion_model)(**config, device="meta", operations=comfy.ops.disable_weight_init)
    unet.load_state_dict(_private_copy(weights, device, dtype), strict=True, assign=True)
    return unet.requires_grad_(False).eval()


def _private_text_model(source: Any, weights: dict[str, Tensor], device: torch.device) -> Any:
    """The text encoder in float32. Its sizes are read off the live module, which keeps no configuration."""
    layer = source.encoder.layers[0]
    activations = comfy.clip_model.ACTIVATIONS
    config = {
        "num_hidden_layers": len(source.encoder.layers),
        "hidden_size": source.embeddings.token_embedding.weight.shape[1],
        "num_attention_heads": layer.self_attn.heads,
        "intermediate_size": layer.mlp.fc1.weight.shape[0],
        "hidden_act": next(name for name, function in activations.items() if function is layer.mlp.activation),
        "max_position_embeddings": source.embeddings.position_embedding.weight.shape[0],
        "eos_token_id": source.eos_token_id,
    }
    text = type(source)(config, torch.float32, "meta", comfy.ops.disable_weight_init)
    text.load_state_dict(_private_copy(weights, device, torch.float32), strict=True, assign=True)
    return text.requires_grad_(False).eval()


def _differentiable_attention(_host_choice: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention, which has a backward pass; sage and flash wrappers have none."""
    return attention_pytorch(*args, **kwargs)


def _checkpoint_blocks(unet: Any) -> None:
    for block in unet.modules():
        if isinstance(block, (ResBlock, SpatialTransformer)):
            block.forward = _checkpointed(block.forward)


def _checkpointed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def _make_room(model: Any, text: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Ask ComfyUI to move other models out of the way of the private copies and their activations."""
    if mm.is_device_cpu(device):
        return
    unet = sum(weight.numel() for weight in model.model.diffusion_model.parameters()) * dtype.itemsize
    encoder = sum(weight.numel() for weight in text.model.parameters()) * torch.float32.itemsize
    mm.free_memory(unet + encoder + mm.minimum_inference_memory() + 3 * 1024**3, device)


def _host_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto` follows what the host says the device is good at: --force-fp32 and old GPUs are its business."""
    if precision != "auto":
        return resolve_precision(precision, device)
    if mm.should_use_bf16(device):
        return "bf16"
    return "fp16" if mm.should_use_fp16(device) and device.type == "cuda" else "fp32"


def _warn_of_ignored_patches(model: Any) -> None:
    options = model.model_options
    ignored = [name for name in ("patches", "patches_replace") if options.get("transformer_options", {}).get(name)]
    ignored += [name for name in ("model_function_wrapper",) if options.get(name)]
    if ignored:
        log.info(
            "Learning uses the weights of MODEL with its LoRAs; its other patches (%s) do not take part.",
            ", ".join(ignored),
        )


def _checkpoint_name(patcher: Any) -> str:
    """The file stem of the checkpoint that a core loader read, or an empty string."""
    loaded = getattr(patcher, "cached_patcher_init", None)
    if not loaded or not inspect.isroutine(loaded[0]) or not loaded[1]:
        return ""
    path = loaded[1][0]
    if isinstance(path, (list, tuple)) and path:
        path = path[0]
    return Path(path).stem if isinstance(path, (str, Path)) else ""
