"""The published recipe on diffusers' modules, written from its description: what the speed is compared with.

Source: Pang et al., "Cross Initialization for Face Personalization of Text-to-Image Models", CVPR 2024, and the defaults
of its code: everything in float32, the VAE on the whole batch in every step, AdamW over the whole table of token
embeddings, whose other rows are put back afterwards. Reading and resizing the photo, which that code does in every
step too, is left out.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

VOCABULARY = 49408


class Recipe:
    """SD 2.1 base with random weights on a device; `small` for a machine without a GPU."""

    def __init__(self, device: torch.device, resolution: int, batch_size: int, small: bool) -> None:
        widths = (64, 64) if small else (320, 640, 1280, 1280)
        attending = ("CrossAttnDownBlock2D",) * (len(widths) - 1)
        with torch.device(device):
            torch.manual_seed(0)
            self.unet: Any = UNet2DConditionModel(
                sample_size=64,
                block_out_channels=widths,
                down_block_types=(*attending, "DownBlock2D"),
                up_block_types=("UpBlock2D", *(name.replace("Down", "Up") for name in attending)),
                attention_head_dim=tuple(width // 64 for width in widths),
                cross_attention_dim=1024,
                use_linear_projection=True,
                layers_per_block=1 if small else 2,
            )
            self.vae: Any = AutoencoderKL(
                block_out_channels=(32,) * 4 if small else (128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
            )
            self.text_encoder: Any = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=VOCABULARY + 2,
                    hidden_size=1024,
                    intermediate_size=4096,
                    num_hidden_layers=2 if small else 23,
                    num_attention_heads=16,
                    hidden_act="gelu",
                    bos_token_id=0,
                    eos_token_id=2,
                )
            )
        models: list[Any] = [self.unet, self.vae, self.text_encoder]
        for model in models:
            model.requires_grad_(False).to(device)
        self.device, self.batch_size = device, batch_size
        self.scheduler: Any = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
        )
        self.photo = torch.rand(1, 3, resolution, resolution, device=device) * 2 - 1
        embeddings: Any = self.text_encoder.get_input_embeddings()
        self.table: Any = embeddings.weight.requires_grad_(True)
        self.kept = self.table.detach().clone()
        self.start = self.kept[VOCABULARY:].clone()
        self.frozen = torch.ones(len(self.table), dtype=torch.bool)
        self.frozen[VOCABULARY:] = False
        parameters: list[Any] = [self.table]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.005, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.ids = torch.randint(0, VOCABULARY, (batch_size, 77), device=device)
        self.ids[:, 5], self.ids[:, 6] = VOCABULARY, VOCABULARY + 1

    def step(self) -> Tensor:
        """One step of the published code."""
        flipped = torch.rand(self.batch_size) < 0.5
        images = torch.cat([self.photo.flip(-1) if flip else self.photo for flip in flipped])
        latents = self.vae.encode(images).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (self.batch_size,), device=self.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        context = self.text_encoder(self.ids)[0]
        prediction = self.unet(noisy, timesteps, context).sample
        distance = F.pairwise_distance(self.table[VOCABULARY:], self.start, p=2).mean()
        loss = F.mse_loss(prediction, noise) + 1e-5 * distance
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.table[self.frozen] = self.kept[self.frozen]
        return loss.detach()


def measure(
    device: torch.device,
    *,
    resolution: int,
    batch_size: int,
    small: bool,
    steps: int,
    tf32: bool = False,
    recipe_of: Any = Recipe,
) -> dict[str, Any]:
    """Seconds a step of the recipe and its peak memory, after two steps to warm up; `recipe_of` is the class of it."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    # torch's default, which the published code leaves: convolutions may use TF32 whatever matrix products do.
    torch.backends.cudnn.allow_tf32 = True
    recipe = recipe_of(device, resolution, batch_size, small)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        loss = float(recipe.step())
        times.append(time.perf_counter() - began)
    times = sorted(times[2:])
    a_step = times[len(times) // 2]
    return {
        "ms_a_step": round(1e3 * a_step, 2),
        "seconds_25": round(25 * a_step, 2),
        "seconds_320": round(320 * a_step, 2),
        "seconds_400": round(400 * a_step, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else 0,
        "loss": loss,
        "tf32": tf32,
    }
