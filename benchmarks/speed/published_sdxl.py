"""The published recipe for SDXL on diffusers' modules, written from its description: what the speed is compared with.

Source: kunheek/dti (Kim et al., ICLR 2026), `exps/xinit_sdxl.py` and `scripts/train_sdxl.py`, which contain Cross
Initialization for SDXL: `accelerate` with bf16, so that UNet, VAE and second text encoder are in bfloat16, the first one
in float32, and both encoders run under autocast; the VAE encodes the whole batch in every step; AdamW over the new rows of
both tables alone. Reading and resizing the photo, which that code does in every step too, is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

VOCABULARY = 49408
VECTORS = 2


class SdxlRecipe:
    """SDXL with random weights on a device; `small` for a machine without a GPU."""

    def __init__(self, device: torch.device, resolution: int, batch_size: int, small: bool) -> None:
        half = torch.bfloat16
        widths = (32, 32, 64) if small else (320, 640, 1280)
        with torch.device(device):
            torch.manual_seed(0)
            self.unet: Any = UNet2DConditionModel(
                sample_size=128,
                block_out_channels=widths,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=tuple(max(1, width // 64) for width in widths),
                transformer_layers_per_block=(1, 1, 1) if small else (1, 2, 10),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=1280 + 6 * 256,
            )
            self.vae: Any = AutoencoderKL(
                block_out_channels=(32,) * 4 if small else (128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.13025,
            )
            first = _text(768, 2 if small else 12, 12, "quick_gelu")
            second = _text(1280, 2 if small else 32, 20, "gelu", projection_dim=1280)
            self.encoders: list[Any] = [CLIPTextModel(first), CLIPTextModelWithProjection(second)]
        for model in (self.unet, self.vae, *self.encoders):
            model.requires_grad_(False)
        for model in (self.unet, self.vae, self.encoders[1]):
            model.to(half)
        self.device, self.batch_size = device, batch_size
        self.scheduler: Any = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
        )
        self.photo = torch.rand(1, 3, resolution, resolution, device=device) * 2 - 1
        self.sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]] * batch_size, device=device)
        self.added: list[Any] = [_learned(encoder) for encoder in self.encoders]
        self.starts = [rows.detach().clone() for rows in self.added]
        self.optimizer = torch.optim.AdamW(self.added, lr=0.02, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.ids = torch.randint(0, VOCABULARY - 2, (batch_size, 77), device=device)
        self.ids[:, 5], self.ids[:, 6] = VOCABULARY, VOCABULARY + 1
        self.ids[:, 12:] = VOCABULARY - 1

    def step(self) -> Tensor:
        """One step of the published code."""
        half = torch.bfloat16
        images = self.photo.expand(self.batch_size, -1, -1, -1).to(half)
        latents = self.vae.encode(images).latent_dist.sample().detach() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (self.batch_size,), device=self.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(self.device.type, half):
            outputs = [encoder(self.ids, output_hidden_states=True) for encoder in self.encoders]
        context = torch.cat([output.hidden_states[-2].to(half) for output in outputs], dim=-1)
        conditions = {"text_embeds": outputs[1].text_embeds.to(half), "time_ids": self.sizes}
        prediction = self.unet(noisy, timesteps, context, added_cond_kwargs=conditions).sample
        loss = F.mse_loss(prediction.float(), noise.float())
        for rows, start in zip(self.added, self.starts, strict=True):
            loss = loss + 1e-5 * F.mse_loss(rows.float(), start.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


class _Rows(nn.Module):
    """A frozen table of token embeddings, and learned rows behind it."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table
        self.added = nn.Parameter(table.weight[:VECTORS].detach().float().clone())

    @property
    def weight(self) -> Tensor:
        """What transformers looks at for its type and size."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        known = self.table(ids.clamp_max(VOCABULARY - 1))
        learned = F.embedding((ids - VOCABULARY).clamp_min(0), self.added).to(known.dtype)
        return torch.where((ids >= VOCABULARY)[..., None], learned, known)


def _learned(encoder: Any) -> nn.Parameter:
    rows = _Rows(encoder.get_input_embeddings())
    encoder.set_input_embeddings(rows)
    return rows.added


def _text(width: int, layers: int, heads: int, activation: str, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        **more,
    )
