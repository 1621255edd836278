"""Learned tokens in ComfyUI's prompts: a CLIP whose tokenizer knows them by name, without files, and what files give."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from comfy.sd1_clip import load_embed
from torch import Tensor

from ...crossinit_core import LearnedToken
from ...crossinit_core.families import base_of_width
from .models import clip_width, encoder_name

_NAME = re.compile(r"\s*([^\s<\[]*)(.*)", re.DOTALL)


def clip_with_tokens(
    clip: Any, tokens: Mapping[str, LearnedToken], on_read: Callable[[str], object] = lambda name: None
) -> Any:
    """A clone of CLIP that finds `embedding:NAME` for these names before it looks at the embeddings folders.

    The clone shares the model; only its tokenizer is its own, and calls `on_read` with each of these names that it finds
    in a prompt. Raises ValueError if a token does not fit the CLIP.
    """
    for token in tokens.values():
        token.check_fits(clip_width(clip))
    name = encoder_name(clip)
    clone = clip.clone()
    clone.tokenizer = copy.copy(clip.tokenizer)
    tokenizer = copy.copy(getattr(clip.tokenizer, name))
    # The host skips `embedding:` altogether if it has no folder to look in.
    tokenizer.embedding_directory = tokenizer.embedding_directory or []
    tokenizer._try_get_embedding = _lookup(tokenizer._try_get_embedding, tokens, on_read)
    setattr(clone.tokenizer, name, tokenizer)
    return clone


def vectors_in_prompts(path: Path, width: int) -> Tensor | None:
    """(K, d) float32, what `embedding:` makes of a file: of several tensors it takes the first one. None: nothing."""
    key = "clip_h" if base_of_width(width) == "sd2" else "clip_l"
    # A copy in a folder of its own: ComfyUI looks through all folders below, and has no end where links lead in circles.
    with tempfile.TemporaryDirectory() as folder:
        vectors = load_embed(shutil.copyfile(path, Path(folder) / path.name).name, [folder], width, key)
    return None if vectors is None else vectors.float().reshape(-1, vectors.shape[-1])


def _lookup(
    host_lookup: Callable[[str], tuple], tokens: Mapping[str, LearnedToken], on_read: Callable[[str], object]
) -> Callable[[str], tuple]:
    """The host's lookup with ours before it. It gives (vectors, name, what is left of the text).

    Hosts before 0.4 gave (vectors, what is left).
    """

    def lookup(text: str) -> tuple:
        match = _NAME.match(text)
        assert match is not None
        word, rest = match.group(1), " ".join(match.group(2).split())
        name = word if word in tokens else word.strip(",")
        if name not in tokens:
            return host_lookup(text)
        on_read(name)
        left = f"{word[len(name) :]} {rest}" if word != name else rest
        vectors = tokens[name].vectors
        return (vectors, left) if len(host_lookup("crossinit-no-such-file")) == 2 else (vectors, name, left)

    return lookup
