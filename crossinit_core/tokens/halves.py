"""What a token's file holds: a part of the vectors for each text encoder, side by side in one file or in two."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..families import SDXL_WIDTHS, is_pair, shown_widths
from ..text import quoted
from .containers import opened, read_container
from .layouts import Found, find_vectors
from .learned_token import MOST_VECTORS_IN_A_FILE
from .stored import WIDEST, BadFileError


@dataclass(frozen=True)
class Held:
    """A part (K, w) float32 for each text encoder, the keys of the first part, and the metadata."""

    parts: list[Tensor]
    keys: list[str]
    metadata: dict[str, str]


def read_file(path: Path) -> Held:
    """What a file holds. Raises FileNotFoundError, OSError or BadFileError; nothing is read before all is known to be one
    token."""
    with opened(path) as file:
        held = read_container(file)
        found = find_vectors(held.values)
        parts = _parts(found)
        return Held(parts, [key for key, _ in found[0]], clean(held.metadata or _stored_metadata(held.values)))


def files_of_token(path: Path) -> tuple[Path, ...]:
    """The files that `load_learned_token` may read for a path: itself, and beside it what may be the other half of SDXL."""
    try:
        other = other_half(path)
        return (path, other) if other.is_file() else (path,)
    except (OSError, ValueError):  # a name that is too long, or none
        return (path,)


_HALVES = (
    re.compile(r"(?P<before>learned_embeds)(?P<second>_2(?![0-9]))?(?P<after>.*)", re.DOTALL),
    re.compile(r"(?P<before>.+?)(?P<second>_2)?(?P<after>)", re.DOTALL),
)


def other_half(path: Path) -> Path:
    """Where diffusers' textual_inversion_sdxl.py puts the other text encoder's part: `learned_embeds_2-steps-500` is beside
    `learned_embeds-steps-500`. For other names: `NAME_2` beside `NAME`."""
    match = next(filter(None, (pattern.fullmatch(path.stem) for pattern in _HALVES)))
    other = "" if match["second"] else "_2"
    return path.with_name(f"{match['before']}{other}{match['after']}{path.suffix}")


def whole_of_two_files(path: Path, held: Held) -> tuple[Held, Path] | None:
    """Both halves of a token whose text encoders' parts lie in two files, and the path of the first.

    `held` is what `path` holds. None if there is no other file, or if it has nothing to do with this one. What diffusers'
    script named must fit; files of other names are halves only if they say so by their keys and widths.
    """
    of_diffusers = path.stem.startswith("learned_embeds")
    other = other_half(path)
    try:
        if not other.is_file():
            return None
        there = read_file(other)
    except (OSError, ValueError) as error:
        if not of_diffusers:
            return None
        raise BadFileError(f"has another half beside it, but '{quoted(other.name, 100)}' {str(error)[:200]}") from error
    if len(there.parts) != 1 or not (of_diffusers or there.keys == held.keys):
        return None
    is_second = len(path.stem) > len(other.stem)
    files, halves = (path, other), (held, there)
    if is_second:
        files, halves = files[::-1], halves[::-1]
    widths = tuple(half.parts[0].shape[1] for half in halves)
    rows = [len(half.parts[0]) for half in halves]
    first, second = (quoted(file.name, 100) for file in files)
    problem = ""
    if widths == SDXL_WIDTHS[::-1]:
        problem = (
            f"is one half of an SDXL token, but the other way round: '{first}' has width {widths[0]} and '{second}' {widths[1]}. "
            "Swap the names of the two files"
        )
    elif not is_pair(widths):
        return None
    elif of_diffusers and (third := files[1].with_name(files[1].name.replace("_2", "_3", 1))).is_file():
        problem = (
            f"is a part of an embedding of another model family: '{quoted(third.name, 100)}' beside it is for a third text "
            "encoder. Use one for SD 1.x, SD 2.x or SDXL"
        )
    elif rows[0] != rows[1]:
        problem = (
            f"is one half of a token whose halves do not fit: '{first}' holds {rows[0]} vectors and '{second}' {rows[1]}. Ask "
            "for both files of one training"
        )
    if not problem:
        parts = [half.parts[0] for half in halves]
        return Held(parts, halves[0].keys, halves[1].metadata | halves[0].metadata), files[0]
    if of_diffusers or held.parts[0].shape[1] == SDXL_WIDTHS[1]:
        raise BadFileError(problem)
    return None  # it stands for itself


def _parts(found: tuple[Found, ...]) -> list[Tensor]:
    """A part (K, w) float32 for each text encoder. Nothing is read before all of them are known to be one token."""
    for part in found:
        _check_rows(part)
    if len(found) == 2:
        rows = [sum(tensor.rows() for _, tensor in part) for part in found]
        names = [quoted(part[0][0], 60) for part in found]
        widths = tuple(part[0][1].shape[-1] for part in found)
        shown = f"'{names[0]}' has width {quoted(widths[0], 20)} and '{names[1]}' {quoted(widths[1], 20)}"
        if widths == SDXL_WIDTHS[::-1]:
            raise BadFileError(f"holds the two halves of an SDXL token the wrong way round: {shown}. Ask for it anew")
        if not is_pair(widths):
            raise BadFileError(
                f"is an embedding of another model family: {shown}, but SDXL's have {shown_widths(SDXL_WIDTHS)}. Use one for "
                "SD 1.x, SD 2.x or SDXL"
            )
        if rows[0] != rows[1]:
            raise BadFileError(
                f"holds {rows[0]} vectors in '{names[0]}' and {rows[1]} in '{names[1]}', but each of SDXL's two text encoders "
                "needs as many. Ask for the whole token"
            )
        if sum(widths) > WIDEST:
            raise BadFileError(
                f"is no token file: a token is 1 to {MOST_VECTORS_IN_A_FILE} vectors of width {WIDEST} at most, but got "
                f"{quoted(shown_widths(widths), 60)}"
            )
    for key, tensor in (named for part in found for named in part):
        tensor.check(key)
    return [torch.cat([tensor.load(key) for key, tensor in part]) for part in found]


def _check_rows(found: Found) -> None:
    """Raises BadFileError unless these tensors are 1 to 75 rows of one width."""
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


def clean(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata that can be written again: half a surrogate pair becomes a question mark."""
    return {
        key.encode(errors="replace").decode(): value.encode(errors="replace").decode()
        for key, value in metadata.items()
    }
