"""The shipped files: written, and back to a diffusers folder or to networks in memory.

They are a compact folder (`crossinit_core.models.compact_folder`) in float16, each file below 15 MB. Its token table keeps the
rows that captions use; the row of all other words was learned as a word without meaning. With them come:

config.json             also `judges`, the widths of both, and `training`, how all was trained
judges.safetensors      0.*, 1.*: both judges
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.models.compact_folder import FORMAT, TABLE, load_modules, read_config, read_states, write_tokenizer

from .judge import Judge, build_judges
from .model import SCHEDULER, Parts

WEIGHTS = Path(__file__).parents[1] / "weights"
"""Where the shipped files lie."""

LARGEST_FILE = 14_500_000
LARGEST_FOLDER = 29_400_000
"""Leaves room for sample grids and the log within 30 MB."""

_WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def export(
    folder: Path,
    parts: Parts,
    judges: Iterable[Judge],
    *,
    configs: dict[str, dict[str, Any]],
    judge_widths: Iterable[Iterable[int]],
    used: Tensor,
    other_row: Tensor,
    training: dict[str, Any],
) -> dict[str, int]:
    """Write the shipped layout; gives the size of every file in bytes.

    used (V,) bool: the rows of the token table to keep. other_row (d,): what stands for the rest.

    Raises ValueError if the files grow past the limits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for part, module in parts.modules().items():
        for key, value in module.state_dict().items():
            if not key.endswith("position_ids"):
                name = key if part != "text_encoder" or key.startswith("text_model.") else f"text_model.{key}"
                tensors[f"{part}.{name}"] = _half(value)
    ids = used.nonzero()[:, 0].to(torch.int32)
    rows = tensors.pop(f"text_encoder.{TABLE}")
    tensors["text_encoder.rows"] = rows[ids.long()].contiguous()
    tensors["text_encoder.row_ids"] = ids
    tensors["text_encoder.other_row"] = _half(other_row)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    for number, group in enumerate(_groups(tensors), start=1):
        save_file(group, folder / f"model-{number}.safetensors")
    judge_tensors = {f"{i}.{k}": _half(v) for i, judge in enumerate(judges) for k, v in judge.state_dict().items()}
    save_file(judge_tensors, folder / "judges.safetensors")
    config = {
        "format": FORMAT,
        **configs,
        "scheduler": SCHEDULER,
        "judges": [list(widths) for widths in judge_widths],
        "training": training,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name == "config.json")
    sizes = {path.name: path.stat().st_size for path in paths}
    if max(sizes.values()) > 15_000_000 or sum(sizes.values()) > LARGEST_FOLDER:
        raise ValueError(f"The files are larger than 15 MB each or {LARGEST_FOLDER} bytes together: {sizes}")
    return sizes


def _half(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float16).contiguous()


def _groups(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors in order, in as few files as fit."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for key in sorted(tensors):
        grown = tensors[key].numel() * tensors[key].element_size()
        if size + grown > LARGEST_FILE:
            groups.append({})
            size = 0
        groups[-1][key] = tensors[key]
        size += grown
    return groups


def load(folder: Path) -> Parts:
    """The networks in float32 on the CPU, in evaluation mode."""
    return Parts(**load_modules(folder))


def load_judges(folder: Path) -> list[Judge]:
    """Both judges, in float32 on the CPU. The second took no part in training the generator."""
    judges, tensors = build_judges(read_config(folder)["judges"]), load_file(folder / "judges.safetensors")
    for i, judge in enumerate(judges):
        own = {k.split(".", 1)[1]: v.float() for k, v in tensors.items() if k.startswith(f"{i}.")}
        judge.load_state_dict(own)
        judge.eval().requires_grad_(False)
    return judges


def load_backbone(folder: Path, device: str | torch.device = "cpu") -> DiffusersBackbone:
    """The shipped model as the core's backbone."""
    return DiffusersBackbone.from_pretrained(folder, device)


def expand(folder: Path, target: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the diffusers folder that `DiffusersBackbone.from_pretrained` and diffusers' pipelines load: about 55 MB in
    float16. Gives `target`."""
    config, states = read_config(folder), read_states(folder, dtype)
    classes = {
        "text_encoder": ("transformers", "CLIPTextModel"),
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }
    for part, (library, name) in classes.items():
        (target / part).mkdir(parents=True, exist_ok=True)
        own = dict(config[part])
        own |= (
            {"architectures": [name], "model_type": "clip_text_model"}
            if library == "transformers"
            else {"_class_name": name}
        )
        (target / part / "config.json").write_text(json.dumps(own, indent=2), encoding="utf-8")
        save_file(states[part], target / part / _WEIGHTS[part], metadata={"format": "pt"})
    write_tokenizer(target / "tokenizer")
    (target / "scheduler").mkdir(exist_ok=True)
    (target / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(config["scheduler"], indent=2), encoding="utf-8"
    )
    index = {
        "_class_name": "StableDiffusionPipeline",
        **{part: list(kind) for part, kind in classes.items()},
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", config["scheduler"]["_class_name"]],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return target
