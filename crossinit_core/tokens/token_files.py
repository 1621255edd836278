"""Files of learned tokens, in and out.

`containers` opens safetensors and pickles without believing them, `layouts` knows where each tool puts the vectors, and which
tools read what is written here. docs/formats.md is the table for users.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..families import BASES, base_of_widths
from ..files import write_atomically
from ..text import quoted
from .containers import opened, read_container
from .layouts import DEFAULT_LAYOUTS, FORMATS, LAYOUTS, find_vectors
from .learned_token import MOST_VECTORS_IN_A_FILE, LearnedToken, suggest_token_name
from .metadata import BASE, CHECKPOINT, steps_of
from .pickles import ForeignCodeError
from .stored import BadFileError, StoredTensor

SUFFIXES = tuple(DEFAULT_LAYOUTS)

_LONGEST_MESSAGE = 590
_PICKLE_MEMBER = re.compile(r"[^/]+/(data/\d+|version|data\.pkl)")


def load_learned_token(path: str | Path, *, name: str | None = None) -> LearnedToken:
    """A token from a file in any format that textual inversion tools write. The first bytes decide, not the suffix.

    The token's name is `name` if given, else the file's own, made usable; what is stored inside does not count.
    Raises FileNotFoundError, or ValueError of one line of at most 600 characters that says which file and why. Both come
    before more is read than a token may hold: 75 vectors of width 8192.
    """
    path = Path(path)
    shown = quoted(path.name, 100)
    try:
        with opened(path) as file:
            held = read_container(file)
            vectors = _rows(find_vectors(held.values))
            metadata = _clean(held.metadata or _stored_metadata(held.values))
        width = vectors.shape[-1]
        return LearnedToken(
            vectors=vectors,
            name=_name_of(path) if name is None else name,
            base=base_of_widths((width,)) if (width,) in BASES else metadata.get(BASE) or base_of_widths((width,)),
            metadata=metadata,
        )
    except ForeignCodeError as error:
        raise ValueError(
            f"'{shown}' holds more than tensors: opening it could run foreign code, so it was not opened. "
            "Ask for it in the safetensors format."
        ) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"'{shown}' cannot be read ({quoted(error.strerror or type(error).__name__)}).") from error
    except BadFileError as error:
        what = str(error)
        advice = " Copy or download it again." if what.startswith("is damaged") else ""
        raise ValueError(f"'{shown}' {what[: _LONGEST_MESSAGE - 140]}.{advice}") from error
    except ValueError as error:
        raise ValueError(f"'{shown}': {error}"[:_LONGEST_MESSAGE]) from error


def save_learned_token(
    token: LearnedToken, path: str | Path, layout: str | None = None, *, replace: bool = True
) -> Path:
    """Write a token; the suffix chooses the container. An existing file is replaced in one step, or, unless `replace`, left
    alone: FileExistsError, also if another program has just made it.

    `.safetensors`: one tensor under the key `<NAME>`, with the metadata. `.pt`: A1111's layout. `.bin`: diffusers' layout,
    one tensor under `<NAME>`; it has no place for the metadata. Another `layout` is one of `layouts.LAYOUTS`:
    `emb_params` (InvokeAI), `emp_params` (OneTrainer), `published` (`NAME_v0`, `NAME_v1` ..), `named`, `a1111`.
    Raises ValueError for another suffix, or a layout that is not written with it.
    """
    path = Path(path)
    suffix = path.suffix
    if suffix not in DEFAULT_LAYOUTS:
        raise ValueError(
            f"Cannot write a token as '{quoted(path.name)}'. The file name must end in one of {', '.join(SUFFIXES)}."
        )
    layout = layout or DEFAULT_LAYOUTS[suffix]
    if layout not in LAYOUTS or suffix not in LAYOUTS[layout].suffixes:
        fitting = [name for name, known in LAYOUTS.items() if suffix in known.suffixes]
        raise ValueError(
            f"Cannot write a token as '{quoted(path.name)}' in the layout '{quoted(layout, 40)}'. With {suffix} the layout is "
            f"one of {', '.join(fitting)}."
        )
    tensors = LAYOUTS[layout].content(token.vectors, token.name)
    metadata = _clean(token.metadata)
    if suffix == ".safetensors":
        write_atomically(path, save(tensors, metadata), replace=replace)
    elif layout == "a1111":
        content = {
            "string_to_token": {"*": 265},
            "string_to_param": tensors,
            "name": token.name,
            "step": steps_of(metadata) or 0,
            "sd_checkpoint": None,
            "sd_checkpoint_name": metadata.get(CHECKPOINT) or None,
            "crossinit": json.dumps(metadata),
        }
        write_atomically(path, _pickled(content), replace=replace)
    else:
        write_atomically(path, _pickled(tensors), replace=replace)
    return path


def _name_of(path: Path) -> str:
    """A usable name after the file's, also where the system's own encoding cannot tell its characters."""
    return suggest_token_name(os.fsencode(path.stem).decode(errors="replace"))


def _pickled(content: object) -> bytes:
    """What torch.save writes, without the members that newer versions add.

    AUTOMATIC1111 refuses a file with any but these three kinds: `allowed_zip_names_re` in modules/safe.py.
    """
    written, kept = io.BytesIO(), io.BytesIO()
    torch.save(content, written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as target:
        for member in source.infolist():
            if _PICKLE_MEMBER.fullmatch(member.filename):
                target.writestr(zipfile.ZipInfo(member.filename), source.read(member))
    return kept.getvalue()


def _rows(found: list[tuple[str, StoredTensor]]) -> Tensor:
    """(K, d) float32 from tensors of the same width. Nothing is read before all of them are known to be a token."""
    tensors = [tensor for _, tensor in found]
    if any(len(tensor.shape) not in (1, 2) or 0 in tensor.shape for tensor in tensors) or (
        len({tensor.shape[-1] for tensor in tensors}) != 1
    ):
        shapes = ", ".join(tensor.shown_shape for tensor in tensors[:4]) + (" .." if len(tensors) > 4 else "")
        raise BadFileError(f"holds tensors of shape {shapes}, but a token is (d,) or (K, d) vectors of one width")
    if sum(tensor.rows() for tensor in tensors) > MOST_VECTORS_IN_A_FILE:
        total = quoted((sum(tensor.rows() for tensor in tensors), tensors[0].shape[-1]), 60)
        raise BadFileError(
            f"is no token file: a token is 1 to {MOST_VECTORS_IN_A_FILE} vectors of shape (K, d), but got {total}"
        )
    return torch.cat([tensor.load(key) for key, tensor in found])


def _stored_metadata(content: Any) -> dict[str, str]:
    """What `save_learned_token` put into a `.pt` file; nothing if another tool wrote something else there."""
    stored = content.get("crossinit") if isinstance(content, Mapping) else None
    try:
        facts = json.loads(stored) if isinstance(stored, str) else {}
        return {str(key): str(value) for key, value in facts.items()} if isinstance(facts, dict) else {}
    except RecursionError as error:
        raise BadFileError("is damaged or no token file: its metadata is nested too deeply") from error
    except ValueError:
        return {}


def _clean(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata that can be written again: half a surrogate pair becomes a question mark."""
    return {
        key.encode(errors="replace").decode(): value.encode(errors="replace").decode()
        for key, value in metadata.items()
    }


__all__ = ["FORMATS", "LAYOUTS", "SUFFIXES", "load_learned_token", "save_learned_token"]
