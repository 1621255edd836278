"""A checkpoint file of SD 1.x, SD 2.x or SDXL, as ComfyUI and AUTOMATIC1111 load it, without a network.

diffusers would download a configuration for it; here it follows from the shapes in the file. `data/merges.txt` is CLIP's
(openai/CLIP, MIT licence): a checkpoint holds no tokenizer.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from ..families import UNCLIP, USE_KNOWN_FAMILY, for_inpainting, other_family, special_version
from ..text import quoted
from .checkpoint_configs import UNET, VAE, State, context_width, text_config, unet_config, vae_config
from .compact_folder import EOS, PAD, load_tokenizer
from .open_clip import clip_weights, open_clip_weights

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")

_CLIP, _OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_SDXL = "conditioner.embedders."
_SDXL_CLIP, _SDXL_OPEN_CLIP = f"{_SDXL}0.transformer.", f"{_SDXL}1.model."
_TEXT = "cond_stage_model.", _SDXL
_V_PREDICTION = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""As in the published folders of SD 1.5 and 2.1."""

_Family = Literal["sd1", "sd2", "sdxl"]
_PREFIXES: dict[_Family, tuple[str, ...]] = {
    "sd1": (_CLIP,),
    "sd2": (_OPEN_CLIP,),
    "sdxl": (_SDXL_CLIP, _SDXL_OPEN_CLIP),
}
"""Of the text encoders, in the order of a vector's columns."""
_TABLE = "token_embedding.weight"
_EDM = {
    ("edm_mean", "edm_std"): "Playground 2.5, which samples by EDM",
    ("edm_vpred.sigma_max",): "CosXL or another model of SDXL that samples by EDM",
}
"""Keys by which ComfyUI recognises them (comfy/supported_models.py, `SDXL.model_type`)."""
_SDXL_CONTEXTS = (2048, 1280)
"""Widths that the UNets of SDXL and of its refiner attend to."""
_SCALING = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def is_checkpoint(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name; nothing else in it is opened.

    Raises ValueError if it cannot be read, or if it is not SD 1.x, SD 2.x or SDXL.
    """
    shown = quoted(path, 200)
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start[8:9] == b"{":
            with safe_open(path, "pt") as tensors:
                state: Any = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=start[:2] == b"PK")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The checkpoint file '{shown}' is damaged, or holds more than tensors, so that opening it could run foreign code. Use a "
            ".safetensors file of it."
        ) from error
    except Exception as error:  # torch raises a dozen kinds, depending on where the file is damaged
        reason = quoted(error, 200)
        raise ValueError(
            f"The checkpoint file '{shown}' cannot be read ({reason}). Copy or download it again."
        ) from error
    while isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found = {}
    if isinstance(state, Mapping):
        found = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    _check(found, shown)
    return found


def resolution_of_checkpoint(state: State) -> int:
    """1024 for SDXL, 768 for a model of SD 2.x that predicts v, else 512."""
    if _family(state) == "sdxl":
        return 1024
    return 768 if _prediction_type(state) == "v_prediction" else 512


def widths_of_checkpoint(state: State) -> tuple[int, ...]:
    """The widths of the text encoders. Raises ValueError if there is none."""
    tables = [
        next((state[key].shape[1] for key in sorted(state) if key.startswith(prefix) and key.endswith(_TABLE)), None)
        for prefix in _PREFIXES[_family(state)]
    ]
    if None in tables:
        raise ValueError("The checkpoint holds no table of words.")
    return tuple(width for width in tables if width is not None)


def load_checkpoint(path: Path, dtype: torch.dtype, unet_dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The networks, tokenizers and `scheduler_config` of a checkpoint file, as `DiffusersBackbone` takes them; `unet_dtype` is
    the UNet's, if it is another.

    Raises ValueError as `read_checkpoint` does, and if weights are missing.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    state = read_checkpoint(path)
    family = _family(state)
    parts: dict[str, Any] = {}
    try:
        parts |= _unet_and_vae(state, family, dtype, unet_dtype or dtype)
        if family == "sd2":
            weights = open_clip_weights(state, _OPEN_CLIP, whole=False)
            parts["text_encoder"] = _text_encoder(CLIPTextModel, weights, dtype, open_clip=True)
        else:
            weights = clip_weights(state, _CLIP if family == "sd1" else _SDXL_CLIP)
            weights.pop("text_projection.weight", None)
            parts["text_encoder"] = _text_encoder(CLIPTextModel, weights, dtype, open_clip=False)
        if family == "sdxl":
            weights = open_clip_weights(state, _SDXL_OPEN_CLIP, whole=True)
            parts["text_encoder_2"] = _text_encoder(CLIPTextModelWithProjection, weights, dtype, open_clip=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # shapes and keys, in whatever way diffusers finds them wrong
        raise ValueError(
            f"'{quoted(path, 200)}' cannot be loaded: its weights are not all there, or of other shapes than those of "
            f"SD 1.x, SD 2.x and SDXL ({quoted(error, 160)}). Download it again, or use another checkpoint."
        ) from error
    if family == "sdxl":
        parts["tokenizer_2"] = load_tokenizer(pad=PAD)
    parts["tokenizer"] = load_tokenizer(pad=PAD if family == "sd2" else EOS)
    parts["scheduler_config"] = _scheduler_config(state)
    return parts


def _unet_and_vae(state: State, family: _Family, dtype: torch.dtype, unet_dtype: torch.dtype) -> dict[str, Any]:
    """Raises an error of any kind if the file does not hold all weights of both, or more of a UNet."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    resolution = resolution_of_checkpoint(state)
    configs = {
        "unet": unet_config(state, resolution=resolution, heads_of_64=family != "sd1"),
        "vae": vae_config(state, resolution=resolution, scaling_factor=_SCALING[family]),
    }
    with TemporaryDirectory() as folder:
        for part, config in configs.items():
            (Path(folder) / part).mkdir()
            (Path(folder) / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
        options: dict[str, Any] = {"config": folder, "local_files_only": True}
        unet = UNet2DConditionModel.from_single_file(dict(state), subfolder="unet", torch_dtype=unet_dtype, **options)  # pyright: ignore[reportArgumentType]
        vae = AutoencoderKL.from_single_file(dict(state), subfolder="vae", torch_dtype=dtype, **options)  # pyright: ignore[reportArgumentType]
    lost = [key for part in (unet, vae) for key, value in part.named_parameters() if value.is_meta]
    if lost:
        raise KeyError(lost[0])
    # diffusers leaves out what its network has no place for.
    there = sum(value.numel() for key, value in state.items() if key.startswith(UNET))
    taken = sum(value.numel() for value in unet.parameters())
    if there != taken:
        raise ValueError(f"the UNet has {there} weights, but a network of its layout {taken}")
    return {"unet": unet, "vae": vae}


def _text_encoder(kind: Any, weights: State, dtype: torch.dtype, *, open_clip: bool) -> Any:
    """A text encoder of one of transformers' classes. Raises KeyError or RuntimeError if the weights are not all there."""
    from transformers import CLIPTextConfig

    # Random numbers for a network of this size take longer than reading it.
    with torch.device("meta"):
        encoder = kind(CLIPTextConfig(**text_config(weights, open_clip=open_clip))).to(dtype)
    encoder.to_empty(device="cpu")
    own = encoder.state_dict()
    # transformers 4 keeps the encoder one level down.
    named = {key if key in own else f"text_model.{key}": value for key, value in weights.items()}
    encoder.load_state_dict({key: value for key, value in named.items() if key in own}, strict=True)
    for name, buffer in encoder.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return encoder


def _scheduler_config(state: State) -> dict[str, Any]:
    """The noise schedule; of SDXL, as in the published folder, or with zero terminal SNR if the file says so."""
    config = {**_SCHEDULER, "prediction_type": _prediction_type(state)}
    if _family(state) == "sdxl":
        zero = _prediction_type(state) == "v_prediction" and "ztsnr" in state
        config |= {"rescale_betas_zero_snr": zero, "timestep_spacing": "trailing" if zero else "leading"}
    return config


def _family(state: State) -> _Family:
    if any(key.startswith(_SDXL) for key in state):
        return "sdxl"
    return "sd2" if any(key.startswith(_OPEN_CLIP) for key in state) else "sd1"


def _prediction_type(state: State) -> str:
    """The rules by which ComfyUI tells models apart (comfy/supported_models.py, `SD20.model_type`, `SDXL.model_type`)."""
    family, weight = _family(state), state.get(_V_PREDICTION)
    if family == "sdxl":
        predicts_v = "v_pred" in state
    else:
        predicts_v = family == "sd2" and weight is not None and float(weight.float().std(unbiased=False)) > 0.09
    return "v_prediction" if predicts_v else "epsilon"


def _check(state: State, shown: str) -> None:
    """Raises ValueError with the reason if these are not the tensors of a whole SD 1.x, SD 2.x or SDXL."""
    first = state.get(f"{UNET}input_blocks.0.0.weight")
    if any("lora_" in key or ".lora" in key for key in state):
        raise ValueError(f"'{shown}' is a LoRA, not a checkpoint. {USE_KNOWN_FAMILY}")
    if first is None or first.dim() != 4:
        raise ValueError(f"'{shown}' is not a checkpoint of SD 1.x, SD 2.x or SDXL. {USE_KNOWN_FAMILY}")
    if first.shape[1] != 4:
        raise ValueError(f"'{shown}' {special_version(for_inpainting(first.shape[1]))}.")
    for keys, what in _EDM.items():
        if all(key in state for key in keys):
            raise ValueError(f"'{shown}' {other_family(what)}. {USE_KNOWN_FAMILY}")
    sdxl = any(key.startswith(_SDXL) for key in state)
    if sdxl and any(key.startswith(f"{_SDXL}0.model.") for key in state):
        raise ValueError(f"'{shown}' {special_version('the refiner of SDXL')}.")
    labelled = any(key.startswith(f"{UNET}label_emb.") for key in state)
    if labelled and not sdxl and context_width(state) not in _SDXL_CONTEXTS:
        raise ValueError(f"'{shown}' {special_version(UNCLIP)}.")
    if sdxl and not labelled:
        raise ValueError(f"'{shown}' has SDXL's text encoders, but not its UNet. Use a whole checkpoint.")
    wanted: dict[str, tuple[str, ...]] = {"text encoder": _TEXT}
    if sdxl:
        wanted = {f"text encoder '{prefix}*'": (prefix,) for prefix in _PREFIXES["sdxl"]}
    for part, prefixes in (*wanted.items(), ("VAE", (VAE,))):
        if not any(key.startswith(prefixes) for key in state):
            raise ValueError(f"'{shown}' holds no {part}. Use a whole checkpoint, or a folder in diffusers' layout.")
    for key, value in state.items():
        if key.startswith((UNET, VAE, *_TEXT)) and key.endswith((".weight", ".bias")) and value.dtype not in _FLOATS:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(
                f"'{shown}' is quantized: '{quoted(key, 120)}' is of {kind}, and learning needs plain weights. Use a checkpoint "
                "in fp16, bf16 or fp32."
            )
