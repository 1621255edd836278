"""A model folder in diffusers' layout: what it is, said before anything of it is loaded, and under which names its weights lie."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from ..families import UNCLIP, USE_KNOWN_FAMILY, for_inpainting, other_family, special_version
from ..text import quoted
from .checkpoint_file import SUFFIXES

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler/scheduler_config.json")

SECOND_PARTS = ("tokenizer_2", "text_encoder_2")
"""What SDXL has beside them."""

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?(?:model|pytorch_model)(?:\.(?P<variant>[A-Za-z_]\w*))?"
    r"(?:-\d{5}-of-\d{5})?(?:\.(?P<late>[A-Za-z_]\w*))?\.(?P<suffix>safetensors|bin)"
)
_POINTER = b"version https://git-lfs"
_OTHERS = {
    "transformer": "SD3, Flux or another transformer model",
    "text_encoder_3": "SD3",
    "image_encoder": UNCLIP,
    "image_normalizer": UNCLIP,
    "prior": "a two-stage model",
}


def check_folder(folder: Path) -> None:
    """Raises FileNotFoundError if the folder is not a diffusers model, and ValueError if it is one of another family, a
    file, a hub's id, or a download that is not complete."""
    shown = quoted(folder, 200)
    if folder.is_file():
        raise ValueError(
            f"'{shown}' is a file, but a model is expected: a folder in diffusers' layout, or a checkpoint that ends in "
            ".safetensors or .ckpt."
        )
    if not folder.exists():
        _say_what_is_missing(folder)
    for part, family in _OTHERS.items():
        if (folder / part).exists():
            raise ValueError(f"'{shown}' {other_family(family)}. {USE_KNOWN_FAMILY}")
    if folder.is_dir() and not any(folder.iterdir()):
        raise FileNotFoundError(f"'{shown}' is not a diffusers model folder: it is empty. Download the model again.")
    has_two = any((folder / part).exists() for part in SECOND_PARTS)
    if has_two and not (folder / "text_encoder").exists():
        raise ValueError(f"'{shown}' {special_version('the refiner of SDXL')}.")
    for part in (*PARTS, *(SECOND_PARTS if has_two else ())):
        if not (folder / part).exists():
            raise FileNotFoundError(f"'{shown}' is not a diffusers model folder: '{part}' is missing.")
    for part in ("text_encoder", "unet", "vae", *(["text_encoder_2"] if has_two else [])):
        weights_variant(folder / part)
    config = read_object(folder / "unet/config.json")
    channels = config.get("in_channels", 4)
    if channels != 4:
        raise ValueError(f"'{shown}' {special_version(for_inpainting(quoted(channels, 20)))}.")
    for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if has_two else [])):
        quantization = read_object(folder / part / "config.json").get("quantization_config")
        if quantization is not None:
            method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
            raise ValueError(
                f"'{shown}' is quantized (its {part}: {quoted(method, 40)}), and learning needs plain weights. Use the model in fp16, "
                "bf16 or fp32."
            )
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        what = f"{UNCLIP} or another model that wants a picture or a class beside the text"
        raise ValueError(f"'{shown}' {special_version(what)}.")
    if config.get("addition_embed_type") is not None and not has_two:
        raise ValueError(f"'{shown}' {other_family('of the SDXL family (its refiner, perhaps)')}. {USE_KNOWN_FAMILY}")


def _say_what_is_missing(model: Path) -> NoReturn:
    """Raises FileNotFoundError or ValueError for a path at which there is nothing."""
    shown, text = quoted(model, 200), model.as_posix()
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/+\w", text):
        raise ValueError(
            f"'{shown}' is an address, and nothing is downloaded here. Download the model first, then give the path of its folder or "
            "of its checkpoint file."
        )
    if model.suffix.lower() in (*SUFFIXES, ".gguf"):
        there = "" if model.parent.exists() else f", and no folder '{quoted(model.parent, 150)}'"
        raise FileNotFoundError(f"There is no checkpoint file at '{shown}'{there}. Give the path of one that is there.")
    start = f"'{shown}' is not a diffusers model folder: there is none of that name here."
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) and not (model.parent.exists() and "/" in text):
        raise FileNotFoundError(
            f"{start} If it is a model's name on a hub, download it first "
            f"(hf download {quoted(text, 100) if '/' in text else 'OWNER/NAME'} --local-dir FOLDER), then give that FOLDER."
        )
    raise FileNotFoundError(f"{start} Give the path of a folder in diffusers' layout, or of a checkpoint file.")


def name_of(folder: Path) -> str:
    """The model's name: the folder's, or in the hub's cache (`models--OWNER--NAME/snapshots/HASH`) the one that it has there."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


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
