"""Files of learned tokens, in and out.

`containers` opens safetensors and pickles without believing them, `layouts` knows where each tool puts the vectors, and which
tools read what is written here, `halves` puts together what lies in one file or two. docs/formats.md is the table for users.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from ..families import BASES, SDXL_WIDTHS, base_of_widths, describe_widths, shown_widths
from ..files import write_atomically
from ..text import quoted
from .halves import clean, files_of_token, other_half, read_file, whole_of_two_files
from .layouts import DEFAULT_LAYOUTS, FORMATS, LAYOUTS, two_parts
from .learned_token import LearnedToken, suggest_token_name
from .metadata import BASE, CHECKPOINT, steps_of
from .pickles import ForeignCodeError
from .stored import BadFileError

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
        held = read_file(path)
        if len(held.parts) == 1 and (whole := whole_of_two_files(path, held)):
            held, path = whole
        widths = tuple(part.shape[1] for part in held.parts)
        if widths == SDXL_WIDTHS[1:]:
            raise BadFileError(
                f"holds one half of an SDXL token: vectors of width {widths[0]} are for the second of its two text encoders. Put "
                f"the file of the first, '{quoted(other_half(path).name, 100)}', beside it, or ask for a file with clip_l and "
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
    metadata = clean(token.metadata)
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


def keeps_metadata(token: LearnedToken, path: Path, layout: str | None = None) -> bool:
    """Whether `save_learned_token` puts the token's metadata into the file."""
    two = len(token.widths) == 2
    return path.suffix == ".safetensors" or ((layout or DEFAULT_LAYOUTS[path.suffix]) == "a1111" and not two)


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
    """Why a token of two text encoders cannot be written in a layout, and what to choose."""
    asked = next((name for name, known in FORMATS.items() if known.layout == layout), layout)
    other, readers = next((name, known.sdxl_readers) for name, known in FORMATS.items() if known.sdxl_readers)
    meant = [tool for tool in readers if tool in asked]  # `safetensors for InvokeAI`
    return (
        f"'{token.name}' is for two text encoders (width {shown_widths(token.widths)}, {describe_widths(token.widths)}), but the "
        f"format '{asked}' holds the vectors of one. Choose '{other}'{f', which {meant[0]} reads' if meant else ''}."
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


__all__ = [
    "FORMATS",
    "LAYOUTS",
    "SUFFIXES",
    "files_of_token",
    "keeps_metadata",
    "load_learned_token",
    "save_learned_token",
]
