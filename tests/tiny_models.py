"""Tiny models with random weights and the structure of Stable Diffusion 2 or SDXL, and draws to train them with: made on the
spot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossinit_core import TrainingBatch, cross_initialize, load_celebrity_names
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.models.compact_folder import EOS, FORMAT, TABLE, build_modules, write_tokenizer
from crossinit_core.prompts import token_ids_with_placeholders, training_prompts

MODELS = {"tiny-eps": "epsilon", "tiny-v": "v_prediction"}

_CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "max_position_embeddings": 77,
        "projection_dim": 32,
        "bos_token_id": 49406,
        "eos_token_id": EOS,
        "pad_token_id": 0,
    },
    "unet": {
        "sample_size": 8,
        "block_out_channels": [64, 128],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": [1, 2],
        "cross_attention_dim": 32,
        "use_linear_projection": True,
    },
    "vae": {
        "block_out_channels": [32] * 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "sample_size": 64,
    },
}

_XL_CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": _CONFIGS["text_encoder"] | {"hidden_act": "quick_gelu"},
    "text_encoder_2": _CONFIGS["text_encoder"],
    "unet": {
        "sample_size": 8,
        "block_out_channels": [64, 128, 128],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
        "attention_head_dim": [1, 2, 2],
        "transformer_layers_per_block": [1, 2, 3],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
    },
    "vae": {**_CONFIGS["vae"], "scaling_factor": 0.13025},
}
"""As in SDXL, every attention head is 64 wide."""


def make_tiny(folder: Path, prediction_type: str) -> Path:
    """Write a diffusers folder: text width 32, UNet widths 64 and 128, a VAE of factor 8, CLIP's tokenizer. Returns it."""
    from diffusers import DDPMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = build_modules(_CONFIGS)
    for part, module in modules.items():
        module.save_pretrained(folder / part)
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    ).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def make_tiny_xl(
    folder: Path, unet: dict[str, Any] | None = None, widths: tuple[int, int] = (64, 128), **scheduler: Any
) -> Path:
    """Write a diffusers folder with SDXL's structure: UNet widths 64, 128 and 128. Returns it.

    `widths` are those of the text encoders, `unet` is put into the UNet's configuration, and `scheduler` into that of the
    noise schedule.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    first, second = (
        _XL_CONFIGS[part] | {"hidden_size": width, "projection_dim": width, "num_attention_heads": width // 64}
        for part, width in zip(("text_encoder", "text_encoder_2"), widths, strict=True)
    )
    conditions = {"cross_attention_dim": sum(widths), "projection_class_embeddings_input_dim": widths[1] + 6 * 256}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules: dict[str, Any] = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**first)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**second)),
            "unet": UNet2DConditionModel(**(_XL_CONFIGS["unet"] | conditions | (unet or {}))),
            "vae": AutoencoderKL(**_XL_CONFIGS["vae"]),
        }
    for part, module in modules.items():
        module.save_pretrained(folder / part)
    # As in the published folder of SDXL base.
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    EulerDiscreteScheduler(
        **{"timestep_spacing": "leading", "steps_offset": 1, **schedule, **scheduler}
    ).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer", pad=EOS)
    write_tokenizer(folder / "tokenizer_2")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def make_compact(folder: Path, target: Path) -> Path:
    """Write a tiny diffusers folder as a compact folder, which becomes ComfyUI's objects as the miniature does."""
    files = dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model") | {"text_encoder": "model"}
    config: dict[str, Any] = {"format": FORMAT}
    tensors: dict[str, Tensor] = {}
    for part, name in files.items():
        config[part] = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
        for key, value in load_file(folder / part / f"{name}.safetensors").items():
            # transformers 5 may write its encoders without a level of that name.
            prefix = "text_model." if part == "text_encoder" and not key.startswith("text_model.") else ""
            if not key.endswith("position_ids"):
                tensors[f"{part}.{prefix}{key}"] = value
    config["scheduler"] = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    # The tokenizer's end token; the 2 in old folders is a relic that transformers replaces as well.
    config["text_encoder"]["eos_token_id"] = EOS
    rows = tensors.pop(f"text_encoder.{TABLE}")
    ids = torch.arange(len(rows), dtype=torch.int32)
    tensors |= {f"text_encoder.{key}": value for key, value in (("rows", rows), ("row_ids", ids))}
    tensors["text_encoder.other_row"] = torch.zeros(rows.shape[1])
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "model-1.safetensors")
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@dataclass(frozen=True)
class Prepared:
    """A model, a start, and ready-made batches: the same for all tests."""

    backbone: DiffusersBackbone
    start: Tensor
    ready: tuple[TrainingBatch, ...]

    def batches(self, steps: int) -> list[TrainingBatch]:
        return list(self.ready[:steps])


def prepare(backbone: DiffusersBackbone, steps: int = 6, batch: int = 8) -> Prepared:
    """With batches for latents of 8 x 8, with the training prompts for two vectors."""
    generator = torch.Generator().manual_seed(0)
    prompts = sorted(set(training_prompts()))
    ids = torch.tensor([token_ids_with_placeholders(backbone, prompt, 2) for prompt in prompts])

    def make() -> TrainingBatch:
        return TrainingBatch(
            torch.randn(batch, 4, 8, 8, generator=generator),
            torch.randn(batch, 4, 8, 8, generator=generator),
            torch.randint(0, 1000, (batch,), generator=generator),
            ids[torch.randint(len(ids), (batch,), generator=generator)],
        )

    start = cross_initialize(backbone, load_celebrity_names().names, 2)
    return Prepared(backbone, start, tuple(make() for _ in range(steps)))
