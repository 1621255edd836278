"""People whom nobody learned, random vectors under a name, and what a prompt with them means to a CLIP."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def person(pack: ModuleType, name: str, seed: int = 0, vectors: int = 2, width: int = 32) -> Any:
    """A token of random vectors (vectors, width)."""
    values = torch.randn(vectors, width, generator=torch.Generator().manual_seed(seed))
    return pack.crossinit_core.LearnedToken(values, name, "sd2")


def conditioning(clip: Any, text: str) -> torch.Tensor:
    """What a prompt becomes, (1, tokens, width)."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text)).clone()


def with_embeddings(clip: Any, folder: Path) -> Any:
    """A copy of the CLIP's tokenizer that looks for embeddings in this folder only."""
    tokenizer = copy.copy(clip.tokenizer)
    tokenizer.clip_h = copy.copy(clip.tokenizer.clip_h)
    tokenizer.clip_h.embedding_directory = [str(folder)]
    return tokenizer
