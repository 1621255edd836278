"""A learned token: its vectors, its name, the model family that it fits, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from ..families import CONTEXT_LENGTH, describe_width
from ..files import is_windows_device
from .history import History

MOST_VECTORS_IN_A_FILE = CONTEXT_LENGTH - 2
"""What fits between BOS and EOS; other tools write more vectors than this pack learns."""

LONGEST_NAME = 100
LONGEST_NAME_IN_BYTES = 200
"""File systems allow 255 bytes, of which a suffix and the mark of a temporary file take some."""

_FORBIDDEN = re.compile(r"[\s,:;()<>\[\]{}\\/|?*\"'\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_token_name(name: str) -> str:
    """The name itself, if it can stand in a prompt and in a file name on every system.

    Raises ValueError with the reason and a name that would do.
    """
    problem = None
    if not name:
        problem = "is empty"
    elif found := _FORBIDDEN.search(name):
        what = "a space" if found.group().isspace() else f"'{found.group()}'"
        problem = f"holds {what}, which ends a name inside a prompt or a path"
    elif name.startswith(".") or name.endswith("."):
        problem = "starts or ends with a dot"
    elif is_windows_device(name):
        problem = "is the name of a device on Windows"
    elif len(name) > LONGEST_NAME:
        problem = f"is {len(name)} characters long (at most {LONGEST_NAME})"
    elif len(name.encode()) > LONGEST_NAME_IN_BYTES:
        problem = f"takes {len(name.encode())} bytes as a file name (at most {LONGEST_NAME_IN_BYTES})"
    if problem:
        raise ValueError(
            f"The token name '{name}' {problem}. Use letters, digits, '-' and '_', "
            f"for example '{suggest_token_name(name)}'."
        )
    return name


def suggest_token_name(text: str) -> str:
    """The nearest usable name to any text: `../My Face (1)` gives `My-Face-1`."""
    name = re.sub(r"-{2,}", "-", _FORBIDDEN.sub("-", text)).strip("-.") or "my-face"
    if is_windows_device(name):
        name = f"my-{name}"
    return name[:LONGEST_NAME].encode()[:LONGEST_NAME_IN_BYTES].decode(errors="ignore").rstrip("-.")


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A person as K word vectors.

    `vectors` is (K, d) float32 on the CPU, d = 768 for SD 1.x and 1024 for SD 2.x. `base` is `sd1`, `sd2`,
    or `width-D` for a model of another width. `metadata` holds provenance as strings; keys are
    `modelspec.*` and `crossinit.*` as written to safetensors files. `history` is there for a token that was just learned;
    files do not keep it.

    Raises ValueError if the vectors are not K finite rows or the name cannot stand in a prompt.
    """

    vectors: Tensor
    name: str
    base: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    history: History | None = None

    def __post_init__(self) -> None:
        vectors = self.vectors
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or not 1 <= len(vectors) <= MOST_VECTORS_IN_A_FILE:
            shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(
                f"A learned token is 1 to {MOST_VECTORS_IN_A_FILE} vectors of shape (K, d), but got {shape}."
            )
        # Inside ComfyUI the tensor may be an inference tensor; a copy made outside of that mode is an ordinary one.
        with torch.inference_mode(False):
            vectors = vectors.detach().to("cpu", torch.float32).contiguous().clone()
        if not torch.isfinite(vectors).all():
            raise ValueError(f"The token '{self.name}' holds values that are not numbers (NaN or infinite).")
        check_token_name(self.name)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[type[LearnedToken], tuple[object, ...]]:
        """Copies and pickles go through the constructor: the metadata's read-only view can be neither."""
        return LearnedToken, (self.vectors, self.name, self.base, dict(self.metadata), self.history)

    @property
    def width(self) -> int:
        """d, the width of the text encoder that the token fits."""
        return self.vectors.shape[1]

    def renamed(self, name: str) -> LearnedToken:
        """The same vectors under another name."""
        return replace(self, name=name)

    def check_fits(self, width: int) -> None:
        """Raises ValueError if a text encoder of this width cannot use the token."""
        if width != self.width:
            raise ValueError(
                f"CLIP has width {width} ({describe_width(width)}), but the token '{self.name}' was learned on width "
                f"{self.width} ({describe_width(self.width)}). Use a model of that family, or another token."
            )
