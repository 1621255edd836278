"""A learned token: its vectors, its name, the model family that it fits, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from ..families import BASES, CONTEXT_LENGTH, describe_widths, shown_widths
from ..files import is_windows_device
from ..text import normal_form, quoted
from .history import History

MOST_VECTORS_IN_A_FILE = CONTEXT_LENGTH - 2
"""What fits between BOS and EOS; other tools write more vectors than this pack learns."""

LONGEST_NAME = 100
LONGEST_NAME_IN_BYTES = 200
"""File systems allow 255 bytes, of which a suffix and the mark of a temporary file take some."""

_LONGEST_TYPED = 1000
"""Characters of a text that are looked at for a name."""

_SUFFIXES = re.compile(r"(\.(safetensors|pt|bin))+$", re.IGNORECASE)

_FORBIDDEN = re.compile(r"[\s,:;()<>\[\]{}\\/|?*\"'\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_token_name(name: str) -> str:
    """The name as it is kept: composed (NFC), without format characters and without the suffix of a token file.

    What is kept can stand in a prompt and in a file name on every system. `My-Face.safetensors` is `My-Face`: ComfyUI would
    find the file by both. Raises ValueError with the reason and a name that would do.
    """
    kept = name if len(name) > _LONGEST_TYPED else _without_suffix(normal_form(name))
    problem = None
    if not kept:
        problem = "is empty"
    elif len(kept) > LONGEST_NAME:
        problem = f"is {len(kept)} characters long (at most {LONGEST_NAME})"
    elif found := _FORBIDDEN.search(kept):
        what = "a space" if found.group().isspace() else f"'{quoted(found.group())}'"
        problem = f"holds {what}, which ends a name inside a prompt or a path"
    elif kept.startswith(".") or kept.endswith("."):
        problem = "starts or ends with a dot"
    elif is_windows_device(kept):
        problem = "is the name of a device on Windows"
    elif len(kept.encode()) > LONGEST_NAME_IN_BYTES:
        problem = f"takes {len(kept.encode())} bytes as a file name (at most {LONGEST_NAME_IN_BYTES})"
    if problem:
        raise ValueError(
            f"The token name '{quoted(name)}' {problem}. Use letters, digits, '-' and '_', "
            f"for example '{suggest_token_name(name)}'."
        )
    return kept


def suggest_token_name(text: str) -> str:
    """The nearest usable name to any text: `../My Face (1).pt` gives `My-Face-1`."""
    # Stripping and cutting can each bring a suffix or a device's name to light.
    name = _FORBIDDEN.sub("-", _without_suffix(normal_form(text[:_LONGEST_TYPED])))
    name = _without_suffix(re.sub(r"-{2,}", "-", name).strip("-."))
    name = _without_suffix(_cut(name).strip("-.")) or "my-face"
    return _cut(f"my-{name}").rstrip("-.") if is_windows_device(name) else name


def numbered(name: str, number: int) -> str:
    """The name with a number, `anna-2`; a long name is shortened, so that the result is a usable one."""
    end = f"-{number}"
    return f"{_cut(name, len(end)).rstrip('-.')}{end}"


def _without_suffix(name: str) -> str:
    """Without `.safetensors` and the like, as often as they stand there."""
    return _SUFFIXES.sub("", name)


def _cut(name: str, room: int = 0) -> str:
    """So much of a name that `room` more ASCII characters fit behind it."""
    short = name[: LONGEST_NAME - room].encode(errors="replace")[: LONGEST_NAME_IN_BYTES - room]
    return short.decode(errors="ignore")


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A person as K word vectors.

    `vectors` is (K, d) float32 on the CPU; `widths` says how many of its columns are for each text encoder: (768,) for
    SD 1.x, (1024,) for SD 2.x, (768, 1280) for SDXL. `base` is `sd1`, `sd2` or `sdxl`, or `width-D` for a model of another
    width. `metadata` holds provenance as strings; keys are
    `modelspec.*` and `crossinit.*` as written to safetensors files. `history` is there for a token that was just learned;
    files do not keep it.

    `name` is kept as `check_token_name` gives it.

    Raises ValueError if the vectors are not K finite rows or the name cannot stand in a prompt.
    """

    vectors: Tensor
    name: str
    base: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    history: History | None = None
    widths: tuple[int, ...] = ()
    """Empty: those of the base, or one encoder."""

    def __post_init__(self) -> None:
        vectors = self.vectors
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or not 1 <= len(vectors) <= MOST_VECTORS_IN_A_FILE:
            shape = quoted(tuple(vectors.shape)) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(
                f"A learned token is 1 to {MOST_VECTORS_IN_A_FILE} vectors of shape (K, d), but got {shape}."
            )
        # Inside ComfyUI the tensor may be an inference tensor; a copy made outside of that mode is an ordinary one.
        with torch.inference_mode(False):
            vectors = vectors.detach().to("cpu", torch.float32).contiguous().clone()
        if not torch.isfinite(vectors).all():
            raise ValueError(f"The token '{quoted(self.name)}' holds values that are not numbers (NaN or infinite).")
        widths = tuple(self.widths) or next(
            (known for known, base in BASES.items() if base == self.base and sum(known) == vectors.shape[1]),
            (vectors.shape[1],),
        )
        if sum(widths) != vectors.shape[1] or min(widths) < 1:
            raise ValueError(f"A token of width {vectors.shape[1]} cannot be cut into {shown_widths(widths)}.")
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "name", check_token_name(self.name))
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[type[LearnedToken], tuple[object, ...]]:
        """Copies and pickles go through the constructor: the metadata's read-only view can be neither."""
        return LearnedToken, (self.vectors, self.name, self.base, dict(self.metadata), self.history, self.widths)

    @property
    def width(self) -> int:
        """d, the sum of the widths of the text encoders that the token fits."""
        return self.vectors.shape[1]

    def renamed(self, name: str) -> LearnedToken:
        """The same vectors under another name."""
        return replace(self, name=name)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The columns of each text encoder: views (K, w) of `vectors`."""
        return self.vectors.split(self.widths, dim=1)

    def check_fits(self, widths: Sequence[int]) -> None:
        """Raises ValueError if text encoders of these widths cannot use the token."""
        if tuple(widths) != self.widths:
            raise ValueError(
                f"CLIP has width {shown_widths(widths)} ({describe_widths(widths)}), but the token '{self.name}' was learned "
                f"on width {shown_widths(self.widths)} ({describe_widths(self.widths)}). Use a model of that family, or "
                "another token."
            )
