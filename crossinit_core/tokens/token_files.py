"""Every file format of learned tokens, in and out.

Written: one tensor (K, d) float32, because ComfyUI, diffusers, A1111, kohya and InvokeAI all read
that, and most of them lose or refuse a second tensor.
Read: that; the published two-key `.bin`; diffusers; `.pt` of A1111 and of the original textual
inversion (`string_to_param`); kohya and InvokeAI (`emb_params`); OneTrainer (`emp_params`); a bare
tensor. Pickles are opened with `weights_only=True`, never otherwise.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..families import base_of_width
from ..files import write_atomically
from .learned_token import LearnedToken, suggest_token_name
from .metadata import BASE, CHECKPOINT, steps_of

SUFFIXES = (".safetensors", ".pt", ".bin")

_NUMBERED = re.compile(r"^(?P<name>.+)_v(?P<number>\d+)$")
_NAMED_PARAMETERS = ("emb_params", "emp_params", "clip_h", "clip_l")


def load_learned_token(path: str | Path, *, name: str | None = None) -> LearnedToken:
    """A token from a file in any format that textual inversion tools write.

    The token's name is `name` if given, else the one in the file, else the file's own.
    Raises FileNotFoundError, or ValueError that says which file, which key and why.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no token file at '{path}'.")
    if path.suffix.lower() in (".safetensors", ".sft"):
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_pickle(path), {}
    vectors, stored_name, more = _vectors_in(content, path.name)
    metadata = {**metadata, **more}
    try:
        return LearnedToken(
            vectors=vectors,
            name=name or suggest_token_name(stored_name or path.stem),
            base=metadata.get(BASE) or base_of_width(vectors.shape[-1]),
            metadata=metadata,
        )
    except ValueError as error:
        raise ValueError(f"'{path.name}': {error}") from error


def save_learned_token(token: LearnedToken, path: str | Path) -> Path:
    """Write a token; the suffix chooses the format. An existing file is replaced in one step.

    `.safetensors`: one tensor under the key `<NAME>`, with the metadata. `.pt`: A1111's layout.
    `.bin`: diffusers' layout, one tensor under `<NAME>`; it has no place for the metadata.
    Raises ValueError for another suffix.
    """
    path = Path(path)
    placeholder = f"<{token.name}>"
    if path.suffix == ".safetensors":
        write_atomically(path, save({placeholder: token.vectors}, dict(token.metadata)))
    elif path.suffix == ".pt":
        content = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": token.vectors},
            "name": token.name,
            "step": steps_of(token.metadata) or 0,
            "sd_checkpoint": None,
            "sd_checkpoint_name": token.metadata.get(CHECKPOINT) or None,
            "crossinit": json.dumps(dict(token.metadata)),
        }
        write_atomically(path, _pickled(content))
    elif path.suffix == ".bin":
        write_atomically(path, _pickled({placeholder: token.vectors}))
    else:
        raise ValueError(
            f"Cannot write a token as '{path.name}'. The file name must end in one of {', '.join(SUFFIXES)}."
        )
    return path


def _pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"'{path.name}' is damaged or no safetensors file ({error}). Copy or download it again."
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        # The original textual inversion writes its vectors as one.
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ValueError(
                f"'{path.name}' holds more than tensors: opening it could run foreign code, so it was not opened. "
                "Ask for it in the safetensors format."
            ) from error
        # torch's own text on unpickling advises to trust the file.
        reason = "" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        raise ValueError(
            f"'{path.name}' is damaged or no token file ({reason or type(error).__name__}). Copy or download it again."
        ) from error


def _vectors_in(content: Any, file: str) -> tuple[Tensor, str | None, dict[str, str]]:
    """The (K, d) tensor of a file's content, the name stored with it, and metadata."""
    if isinstance(content, Tensor):
        return _rows([content], file), None, {}
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' holds a {type(content).__name__}, but a token file holds tensors by name.")
    if "string_to_param" in content:
        parameters = content["string_to_param"]
        # The values() of a ParameterDict that an older torch wrote are empty.
        parameters = getattr(parameters, "_parameters", parameters)
        found = [value for value in getattr(parameters, "values", list)() if isinstance(value, Tensor)]
        name = content.get("name")
        metadata = _stored_metadata(content.get("crossinit"))
        if len(found) != 1:
            raise ValueError(f"'{file}': 'string_to_param' holds {len(found)} tensors, but one was expected.")
        return _rows(found, file), name if isinstance(name, str) else None, metadata
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if "clip_g" in tensors:
        raise ValueError(f"'{file}' is an SDXL embedding (it holds 'clip_g'). Use one for SD 1.x or SD 2.x.")
    for key in _NAMED_PARAMETERS:
        if key in tensors:
            vectors = _rows([tensors[key]], file)
            for other, tensor in tensors.items():
                if tensor.ndim == 2 and tensor.shape[1] != vectors.shape[1]:
                    raise ValueError(
                        f"'{file}' is an embedding of another model family: beside '{key}' of width {vectors.shape[1]} it "
                        f"holds '{other}' of width {tensor.shape[1]}. Use one for SD 1.x or SD 2.x."
                    )
            return vectors, None, {}
    numbered = {key: match for key in tensors if (match := _NUMBERED.match(key))}
    if tensors and len(numbered) == len(tensors) and len({match["name"] for match in numbered.values()}) == 1:
        order = sorted(numbered, key=lambda key: int(numbered[key]["number"]))
        return _rows([tensors[key] for key in order], file), numbered[order[0]]["name"], {}
    if len(tensors) == 1:
        key, tensor = next(iter(tensors.items()))
        return _rows([tensor], file), key.strip("<>") if key.startswith("<") else None, {}
    raise ValueError(
        f"'{file}' is no token file: its keys are {', '.join(sorted(map(str, content))[:6]) or 'none'}. "
        "Expected one tensor, or NAME_v0, NAME_v1 .. as the published code writes."
    )


def _stored_metadata(stored: object) -> dict[str, str]:
    """What `save_learned_token` put into a `.pt` file; nothing if another tool wrote something else there."""
    try:
        content = json.loads(stored) if isinstance(stored, str) else {}
    except json.JSONDecodeError:
        content = {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _rows(tensors: list[Tensor], file: str) -> Tensor:
    """One (K, d) tensor from (d,) or (k, d) tensors of the same width."""
    rows = [
        tensor.detach().float().reshape(-1, tensor.shape[-1])
        for tensor in tensors
        if tensor.ndim in (1, 2) and tensor.numel()
    ]
    if len(rows) != len(tensors) or len({row.shape[-1] for row in rows}) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(
            f"'{file}' holds tensors of shape {shapes}, but a token is (d,) or (K, d) vectors of one width."
        )
    return torch.cat(rows)
