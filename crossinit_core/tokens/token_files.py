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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..families import BASES, SDXL_WIDTHS, base_of_widths, describe_widths, is_pair, shown_widths
from ..files import write_atomically
from ..text import quoted
from .containers import opened, read_container
from .layouts import DEFAULT_LAYOUTS, FORMATS, LAYOUTS, Found, find_vectors, two_parts
from .learned_token import MOST_VECTORS_IN_A_FILE, LearnedToken, suggest_token_name
from .metadata import BASE, CHECKPOINT, steps_of
from .pickles import ForeignCodeError
from .stored import WIDEST, BadFileError

SUFFIXES = tuple(DEFAULT_LAYOUTS)

_LONGEST_MESSAGE = 590
_PICKLE_MEMBER = re.compile(r"[^/]+/(data/\d+|version|data\.pkl)")


def load_learned_token(path: str | Path, *, name: str | None = None) -> LearnedToken:
    """A token from a file in any format that textual inversion tools write. The first bytes decide, not the suffix.

    The token's name is `name` if given, else the file's own, made usable; what is stored inside does not count.
    SDXL's two parts lie in one file, or, as diffusers' textual_inversion_sdxl.py writes them, side by side in
    `learned_embeds.safetensors` and `learned_embeds_2.safetensors`: either path gives the token, named after the first.
    Raises FileNotFoundError, or ValueError of one line of at most 600 characters that says which file and why. Both come
    before more is read than a token may hold: 75 vectors of width 8192.
    """
    path = Path(path)
    shown = quoted(path.name, 100)
    try:
        held = _read(path)
        if len(held.parts) == 1 and (whole := _two_files(path, held)):
            held, path = whole
        widths = tuple(part.shape[1] for part in held.parts)
        if widths == SDXL_WIDTHS[1:]:
            raise BadFileError(
                f"holds one half of an SDXL token: vectors of width {widths[0]} are for the second of its two text encoders. Put "
                f"the file of the first, '{quoted(_other_half(path).name, 100)}', beside it, or ask for a file with clip_l and "
                "clip_g"
            )
        return LearnedToken(
            vectors=torch.cat(held.parts, dim=1) if len(held.parts) > 1 else held.parts[0],
            name=_name_of(path) if name is None else name,
            base=_base_of(widths, held.metadata),
            metadata=held.metadata,
            widths=widths,
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
    A token of two text encoders (SDXL) is `clip_l` (K, 768) and `clip_g` (K, 1280) in every file, and has its metadata in
    `.safetensors` alone: tools read nothing else of it.
    Raises ValueError for another suffix, or a layout that is not written with it or not for the token's family.
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
    two = len(token.widths) == 2
    if two and not LAYOUTS[layout].two_encoders:
        raise ValueError(_not_for_two(token, layout))
    tensors = two_parts(token.parts) if two else LAYOUTS[layout].content(token.vectors, token.name)
    metadata = _clean(token.metadata)
    if suffix == ".safetensors":
        write_atomically(path, save(tensors, metadata), replace=replace)
    elif layout == "a1111" and not two:
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


def files_of_token(path: Path) -> tuple[Path, ...]:
    """The files that `load_learned_token` may read for a path: itself, and beside it what may be the other half of SDXL."""
    try:
        other = _other_half(path)
        return (path, other) if other.is_file() else (path,)
    except (OSError, ValueError):  # a name that is too long, or none
        return (path,)


def keeps_metadata(token: LearnedToken, path: Path, layout: str | None = None) -> bool:
    """Whether `save_learned_token` puts the token's metadata into the file."""
    two = len(token.widths) == 2
    return path.suffix == ".safetensors" or ((layout or DEFAULT_LAYOUTS[path.suffix]) == "a1111" and not two)


@dataclass(frozen=True)
class _Held:
    """What a file holds: a part (K, w) float32 for each text encoder, the keys of the first part, and the metadata."""

    parts: list[Tensor]
    keys: list[str]
    metadata: dict[str, str]


def _read(path: Path) -> _Held:
    with opened(path) as file:
        held = read_container(file)
        found = find_vectors(held.values)
        parts = _parts(found)
        return _Held(parts, [key for key, _ in found[0]], _clean(held.metadata or _stored_metadata(held.values)))


_HALVES = (
    re.compile(r"(?P<before>learned_embeds)(?P<second>_2(?![0-9]))?(?P<after>.*)", re.DOTALL),
    re.compile(r"(?P<before>.+?)(?P<second>_2)?(?P<after>)", re.DOTALL),
)


def _other_half(path: Path) -> Path:
    """Where diffusers' textual_inversion_sdxl.py puts the other text encoder's part: `learned_embeds_2-steps-500` is beside
    `learned_embeds-steps-500`. For other names: `NAME_2` beside `NAME`."""
    match = next(filter(None, (pattern.fullmatch(path.stem) for pattern in _HALVES)))
    return path.with_name(f"{match['before']}{'' if match['second'] else '_2'}{match['after']}{path.suffix}")


def _two_files(path: Path, held: _Held) -> tuple[_Held, Path] | None:
    """Both halves of a token whose text encoders' parts lie in two files, and the first one's path; None if there is no
    other file, or if it has nothing to do with this one: another key, or a width that stands for itself."""
    other = _other_half(path)
    of_diffusers = path.stem.startswith("learned_embeds")
    try:
        if not other.is_file():
            return None
        there = _read(other)
    except (OSError, ValueError) as error:
        if not of_diffusers:
            return None
        raise BadFileError(f"has another half beside it, but '{quoted(other.name, 100)}' {str(error)[:200]}") from error
    if len(there.parts) != 1 or not (of_diffusers or there.keys == held.keys):
        return None
    second = len(path.stem) > len(other.stem)
    halves = (there, held) if second else (held, there)
    widths = tuple(half.parts[0].shape[1] for half in halves)
    names = [quoted(file.name, 100) for file in ((other, path) if second else (path, other))]
    if widths == SDXL_WIDTHS[::-1]:
        raise BadFileError(
            f"is one half of an SDXL token, but the other way round: '{names[0]}' has width {widths[0]} and '{names[1]}' "
            f"{widths[1]}. Swap the names of the two files"
        )
    if not is_pair(widths):
        return None
    if len(halves[0].parts[0]) != len(halves[1].parts[0]):
        raise BadFileError(
            f"is one half of a token whose halves do not fit: '{names[0]}' holds {len(halves[0].parts[0])} vectors and "
            f"'{names[1]}' {len(halves[1].parts[0])}. Ask for both files of one training"
        )
    parts = [half.parts[0] for half in halves]
    return _Held(parts, halves[0].keys, halves[1].metadata | halves[0].metadata), other if second else path


def _base_of(widths: tuple[int, ...], metadata: Mapping[str, str]) -> str:
    """The base by the widths if they are known. If they are not, what the metadata says, unless that has other widths."""
    stated = metadata.get(BASE, "")
    if (
        widths in BASES
        or not stated
        or any(len(known) != len(widths) for known, base in BASES.items() if base == stated)
    ):
        return base_of_widths(widths)
    return stated


def _not_for_two(token: LearnedToken, layout: str) -> str:
    asked = next((name for name, known in FORMATS.items() if known.layout == layout), layout)
    others = [name for name, known in FORMATS.items() if known.sdxl_readers]
    tool = (
        next((tool for tool in FORMATS[asked].readers if tool in FORMATS[others[0]].sdxl_readers), "")
        if (asked in FORMATS)
        else ""
    )
    return (
        f"'{token.name}' is for two text encoders (width {shown_widths(token.widths)}, {describe_widths(token.widths)}), but the "
        f"format '{asked}' holds the vectors of one. Choose '{others[0]}'{f', which {tool} reads' if tool else ''}."
    )


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


def _clean(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata that can be written again: half a surrogate pair becomes a question mark."""
    return {
        key.encode(errors="replace").decode(): value.encode(errors="replace").decode()
        for key, value in metadata.items()
    }


__all__ = [
    "FORMATS",
    "LAYOUTS",
    "SUFFIXES",
    "files_of_token",
    "keeps_metadata",
    "load_learned_token",
    "save_learned_token",
]
