"""The miniature's networks: Stable Diffusion 2's modules at small sizes, and the mathematics around them.

diffusers and transformers are imported when something is built, so that painting needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossinit_core.families import TIMESTEPS
from crossinit_core.models.clip_text import encode_clip
from crossinit_core.models.compact_folder import BOS, EOS, PAD, POSITIONS, VOCABULARY, build_modules

LATENT_SCALE = 0.18215
"""ComfyUI's latent format of SD 1.x and 2.x fixes this number, so the VAE is trained and then brought to it."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
}


@dataclass(frozen=True)
class Sizes:
    """How large the parts are. Widths of the UNet are multiples of 64 (the width of an attention head in SD 2.x) and
    of the first; widths of the VAE are multiples of 32 (groups of its norms) and of the first. `image` is the image encoder
    that a text encoder may learn from, and `space` the width of what both are compared in."""

    unet: tuple[int, ...] = (128, 128)
    unet_layers: int = 2
    vae: tuple[int, ...] = (64, 64, 128, 64)
    vae_layers: int = 1
    width: int = 256
    text_inner: int = 320
    text_layers: int = 5
    judges: tuple[tuple[int, ...], ...] = ((20, 32, 56, 72, 88), (16, 32, 48, 72, 96))
    image: tuple[int, ...] = (32, 64, 96, 128, 192)
    space: int = 256


REAL = Sizes()
TOY = Sizes(
    unet=(64, 64), unet_layers=1, vae=(32, 32, 32, 32), width=64, text_inner=64, text_layers=2,
    judges=((8, 8, 16, 16, 16), (8, 8, 16, 16, 24)), image=(8, 16, 16, 32, 32), space=32,
)  # fmt: skip


@dataclass
class Parts:
    """The three networks of a latent diffusion model, in diffusers' and transformers' classes."""

    text_encoder: Any
    unet: Any
    vae: Any

    def modules(self) -> dict[str, nn.Module]:
        return {"text_encoder": self.text_encoder, "unet": self.unet, "vae": self.vae}


def configurations(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """`config.json` of the UNet, the VAE and the text encoder."""
    levels = len(sizes.unet)
    # As in SD 2.x, every level but the last attends to the text, and the middle does.
    unet = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": list(sizes.unet),
        "layers_per_block": sizes.unet_layers,
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
        "cross_attention_dim": sizes.width,
        "attention_head_dim": [width // 64 for width in sizes.unet],
        "use_linear_projection": True,
    }
    vae = {
        "sample_size": 128,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": list(sizes.vae),
        "layers_per_block": sizes.vae_layers,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": LATENT_SCALE,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.text_inner,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.width // 64,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "gelu",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    return {"unet": unet, "vae": vae, "text_encoder": text}


def build(configs: dict[str, dict[str, Any]]) -> Parts:
    """Fresh networks of these configurations, with the host's random state."""
    return Parts(**build_modules(configs))


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def table(text_encoder: Any) -> nn.Parameter:
    """(V, d) token embeddings."""
    return getattr(text_encoder, "text_model", text_encoder).embeddings.token_embedding.weight


def encode_text(text_encoder: Any, embeddings: Tensor) -> Tensor:
    """What the UNet attends to: (B, 77, d) token embeddings -> (B, 77, d)."""
    model = getattr(text_encoder, "text_model", text_encoder)
    return encode_clip(
        embeddings,
        model.embeddings.position_embedding.weight,
        model.encoder.layers,
        model.final_layer_norm,
        text_encoder.config.num_attention_heads,
    )


def bring_to_scale(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Change the VAE so that each latent channel has mean 0 and deviation 1 / `LATENT_SCALE`; pictures stay the same.

    mean and std, (4,), are those of the posterior means before. The 1x1 convolutions around the latents take up
    z' = (z - mean) / (std * `LATENT_SCALE`) and its inverse.
    """
    gain = 1.0 / (LATENT_SCALE * std)
    with torch.no_grad():
        into, out = vae.quant_conv, vae.post_quant_conv
        into.weight[:4] *= gain[:, None, None, None]
        into.bias[:4] = (into.bias[:4] - mean) * gain
        into.bias[4:] += 2 * gain.log()
        out.bias += out.weight[:, :, 0, 0] @ mean
        out.weight /= gain[None, :, None, None]


def alphas_cumprod(device: torch.device | str = "cpu") -> Tensor:
    """(1000,) float32: the product of 1 - beta for scaled-linear betas (Rombach et al., 2022)."""
    first, last = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5
    betas = torch.linspace(first, last, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, 0).float().to(device)


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents (B, 4, h, w) -> pictures (B, 8h, 8w, 3) uint8 on the CPU."""
    pixels = vae.decode((latents / LATENT_SCALE).to(vae.dtype)).sample.float()
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu()


def to_pixels(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in -1..1."""
    return pictures.movedim(-1, 1).float() / 127.5 - 1.0


def min_snr_weights(timesteps: Tensor, abar: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) / SNR for epsilon prediction (Hang et al., "Min-SNR Weighting Strategy", 2023), (B,)."""
    snr = abar[timesteps] / (1 - abar[timesteps])
    return snr.clamp(max=gamma) / snr


def smooth_noise(count: int, cells: int, like: Tensor) -> Tensor:
    """(count, C, H, W) noise whose bumps are H / cells pixels wide, for `like` of (., C, H, W)."""
    coarse = torch.randn(count, like.shape[1], cells, cells, device=like.device)
    return F.interpolate(coarse, like.shape[-2:], mode="bilinear", align_corners=False)
