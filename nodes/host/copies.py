"""Private, frozen copies of ComfyUI's modules, made from the weights of the graph's models.

Why copies: the graph's own models may hold inference tensors, which refuse backpropagation; dynamic video memory and
lowvram keep weights in buffers that are overwritten before a backward pass reads them; and whatever is changed on them
(precision, checkpointing) would outlive the run. A copy costs a moment and has none of these troubles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.clip_model
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.model import Encoder
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, Timestep
from torch import Tensor, nn

from ...crossinit_core.backbone import Encoded
from ...crossinit_core.gpu.kernels import PLAIN, Kernels
from ...crossinit_core.models.clip_text import ClipText, FrozenText, training_dtype
from ...crossinit_core.models.fusing import checkpoint_blocks, restore
from .fused import fuse_blocks
from .models import SIZE_CHANNELS
from .weights import Weights, plain_copies

TEXT_MODEL = "transformer.text_model."
PROJECTION = "transformer.text_projection."
"""Below an encoder of ComfyUI's CLIP."""


def text_encoders(
    clip: Any,
    weights: Mapping[str, Weights],
    projection: Tensor | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    kernels: Kernels = PLAIN,
) -> FrozenText:
    """`T(x)` and `E` of a CLIP on a device. Matrix products are in `dtype`, sums and norms in float32.

    `weights` are those of the text model of each encoder by its name; `projection` is that of SDXL's second one.
    """
    encoders = []
    for name, own in weights.items():
        encoder = getattr(clip.cond_stage_model, name)
        source = encoder.transformer.text_model
        model = _text_model(source, own, device, dtype)
        if len(weights) == 1:
            # SD 2.x reads the last layer but one; its final LayerNorm follows all the same.
            layer, index, *_ = encoder.options_default
            layers = model.encoder.layers
            del layers[len(layers) if layer == "last" else index % len(layers) + 1 :]
        encoders.append(ClipText(model, source.encoder.layers[0].self_attn.heads, kernels, packed=True))
    if projection is not None:
        with torch.inference_mode(False), torch.no_grad():
            projection = projection.to(device, dtype, copy=True)
    return FrozenText(encoders, projection)


class UNet:
    """The noise prediction network in one precision on a device."""

    def __init__(
        self,
        model: Any,
        weights: Weights,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels,
        gradient_checkpointing: bool,
    ) -> None:
        config = {**model.model_config.unet_config, "dtype": dtype}
        config.pop("disable_unet_model_creation", None)
        self._dtype = dtype
        self._unet = type(model.diffusion_model)(**config, device="meta", operations=comfy.ops.disable_weight_init)
        _fill(self._unet, lambda: weights.copies(device, lambda name: dtype))
        fused = fuse_blocks(self._unet, kernels, _options(), checkpointing=gradient_checkpointing)
        # The sinusoids of SDXL's sizes are the model's own; they have no weights.
        self._embed_sizes = Timestep(SIZE_CHANNELS)
        self._memory_format = kernels.memory_format if fused else torch.contiguous_format
        blocks = [part for part in self._unet.modules() if isinstance(part, (ResBlock, SpatialTransformer))]
        self._changed = [*fused, *(checkpoint_blocks(blocks) if gradient_checkpointing else [])]
        self.signature = (kernels.name if fused else "ComfyUI", gradient_checkpointing)
        """See `FrozenModel.signature`."""

    def __call__(
        self, noisy_latents: Tensor, timesteps: Tensor, encoded: Encoded, sizes: Tensor | None = None
    ) -> Tensor:
        """(B, 4, h, w), (B,), prompts -> (B, 4, h, w) float32, differentiable; SDXL needs `sizes` (B, 6) too."""
        dtype = self._dtype
        noisy = noisy_latents.to(dtype).contiguous(memory_format=self._memory_format)
        out = self._unet(
            noisy,
            timesteps.float(),
            context=encoded.context.to(dtype),
            y=self._conditions(encoded.pooled, sizes),
            transformer_options=_options(),
        )
        return out.float()

    def _conditions(self, pooled: Tensor | None, sizes: Tensor | None) -> Tensor | None:
        """What SDXL's UNet takes beside the context, (B, p + 6 * 256): as `SDXL.encode_adm` in comfy/model_base.py."""
        if pooled is None:
            return None
        assert sizes is not None
        embedded = self._embed_sizes(sizes.flatten()).view(len(sizes), -1)
        return torch.cat([pooled, embedded.to(pooled)], dim=1).to(self._dtype)

    def close(self) -> None:
        """Break reference cycles, so that the memory goes at once and not at some collection."""
        restore(self._changed)


@contextmanager
def image_encoder(first_stage_model: Any, device: torch.device) -> Iterator[nn.Module | None]:
    """The VAE's encoder up to the moments of its posterior, in float32; None for a VAE that has none.

    (N, 3, H, W) in -1..1 -> (N, 2 * 4, H/8, W/8).
    """
    source = getattr(first_stage_model, "encoder", None)
    quant_conv = getattr(first_stage_model, "quant_conv", None)
    if (
        type(source) is not Encoder or quant_conv is None or any(len(level.attn) for level in source.down)  # pyright: ignore[reportArgumentType]
    ):
        yield None
        return
    channels, latents = quant_conv.weight.shape[1::-1]
    with torch.device("meta"):
        encoder = Encoder(
            ch=source.ch,
            out_ch=source.in_channels,
            ch_mult=source.in_ch_mult[1:],
            num_res_blocks=source.num_res_blocks,
            attn_resolutions=[],
            in_channels=source.in_channels,
            resolution=source.resolution,
            z_channels=source.conv_out.weight.shape[0] // 2,  # pyright: ignore[reportIndexIssue]
        )
        moments = comfy.ops.disable_weight_init.Conv2d(channels, latents, 1)
    model = nn.Sequential(encoder, moments)
    weights = {f"0.{key}": weight for key, weight in source.state_dict().items()}
    weights |= {f"1.{key}": weight for key, weight in quant_conv.state_dict().items()}
    yield _fill(model, lambda: plain_copies(weights, device, lambda name: torch.float32))


def _text_model(source: Any, weights: Weights, device: torch.device, dtype: torch.dtype) -> Any:
    """Sizes are read off the live module, which keeps no configuration."""
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
    return _fill(text, lambda: weights.copies(device, lambda name: training_dtype(name, dtype)))


def _fill(module: Any, copies: Callable[[], dict[str, Tensor]]) -> Any:
    """Give a module on the meta device ordinary tensors of its own.

    Outside of inference mode a copy loses the flag that forbids backpropagation.
    """
    with torch.inference_mode(False), torch.no_grad():
        module.load_state_dict(copies(), strict=True, assign=True)
    return module.requires_grad_(False).train(False)


def _options() -> dict[str, Any]:
    """A fresh dict each time: the UNet writes into it, and the host's default is one shared by all."""
    return {"optimized_attention_override": _differentiable_attention}


def _differentiable_attention(_host_choice: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention, which has a backward pass; sage and flash wrappers have none."""
    return attention_pytorch(*args, **kwargs)
