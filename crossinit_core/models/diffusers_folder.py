"""A model folder in diffusers' layout: what it is, said before anything of it is loaded, and under which names its weights lie."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..text import quoted

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler/scheduler_config.json")

_CHECKPOINTS = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"}
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?(?:model|pytorch_model)(?:\.(?P<variant>[A-Za-z_]\w*))?"
    r"(?:-\d{5}-of-\d{5})?(?:\.(?P<late>[A-Za-z_]\w*))?\.(?P<suffix>safetensors|bin)"
)
_POINTER = b"version https://git-lfs"
_OTHERS = {
    "text_encoder_2": "Stable Diffusion XL, SD3 or Flux",
    "transformer": "SD3, Flux or another transformer model",
    "image_encoder": "SD 2.1 unCLIP",
    "image_normalizer": "SD 2.1 unCLIP",
    "prior": "a two-stage model",
}


def check_folder(folder: Path) -> None:
    """Raises FileNotFoundError if the folder is not a diffusers model, and ValueError if it is one of another family, a
    checkpoint file, a hub's id, or a download that is not complete."""
    shown = quoted(folder, 200)
    if folder.is_file():
        if folder.suffix.lower() in _CHECKPOINTS:
            raise ValueError(
                f"'{shown}' is a checkpoint file, but a model folder in diffusers' layout is expected. Use the file in "
                "ComfyUI, or make a folder of it with diffusers' convert_original_stable_diffusion_to_diffusers.py."
            )
        raise ValueError(f"'{shown}' is a file, but a model folder in diffusers' layout is expected.")
    if not folder.exists() and re.fullmatch(r"[\w.-]+[/\\][\w.-]+", str(folder)) and not folder.parent.exists():
        raise FileNotFoundError(
            f"'{shown}' is not a diffusers model folder: there is none of that name here. If it is a model's name on a hub, "
            f"download it first (hf download {quoted(folder.as_posix(), 100)} --local-dir FOLDER), then give that FOLDER."
        )
    for part, family in _OTHERS.items():
        if (folder / part).exists():
            raise ValueError(f"'{shown}' is not Stable Diffusion 1.x or 2.x, but {family}. Use a model of that family.")
    if folder.is_dir() and not any(folder.iterdir()):
        raise FileNotFoundError(f"'{shown}' is not a diffusers model folder: it is empty. Download the model again.")
    for part in PARTS:
        if not (folder / part).exists():
            raise FileNotFoundError(f"'{shown}' is not a diffusers model folder: '{part}' is missing.")
    for part in ("text_encoder", "unet", "vae"):
        weights_variant(folder / part)
    config = read_object(folder / "unet/config.json")
    channels = config.get("in_channels", 4)
    if channels != 4:
        raise ValueError(
            f"The UNet takes {quoted(channels, 20)} channels: an inpainting or editing model. Use the base model of its family."
        )
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise ValueError(
            f"'{shown}' is SD 2.1 unCLIP or another model that wants a picture or a class beside the text, which is not "
            "supported. Use the base model of its family."
        )
    if config.get("addition_embed_type") is not None:
        raise ValueError(
            f"'{shown}' is of the SDXL family (its refiner, perhaps), not Stable Diffusion 1.x or 2.x. Use one of these."
        )


def weights_variant(part: Path) -> dict[str, Any]:
    """What `from_pretrained` needs to find the weights of a part: `variant` and `use_safetensors`.

    Plain names come before `fp16`, and that before others such as `non_ema`; safetensors come before .bin. Raises
    FileNotFoundError if there are none, and ValueError for an LFS pointer in the place of a file.
    """
    found = []
    for path in sorted(part.iterdir()) if part.is_dir() else ():
        match = _WEIGHTS.fullmatch(path.name)
        if match and path.is_file():
            found.append((match["suffix"], match["variant"] or match["late"], path))
    if not found:
        raise FileNotFoundError(
            f"'{quoted(part, 200)}' holds no weights (.safetensors or .bin). Download the model again, whole."
        )
    order = ("safetensors", "bin")
    suffix, variant, _ = min(found, key=lambda one: (one[1] is not None, one[1] != "fp16", order.index(one[0])))
    for path in (path for *kind, path in found if kind == [suffix, variant]):
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if start == _POINTER:
            raise ValueError(
                f"'{quoted(path, 250)}' is a pointer of Git LFS, not the weights. Run git lfs pull in the model's folder, "
                "or download the file."
            )
    return {"variant": variant, "use_safetensors": suffix == "safetensors"}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises FileNotFoundError if there is none, and ValueError if it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"'{quoted(path, 250)}' is missing. Download the model again, whole.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(
            f"'{quoted(path, 250)}' does not hold a JSON object, so it is damaged. Download the model again."
        )
    return content
