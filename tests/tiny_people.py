"""People whom nobody learned, random vectors under a name, and what a prompt with them means to a CLIP."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def person(pack: ModuleType, name: str, seed: int = 0, vectors: int = 2, widths: tuple[int, ...] = (32,)) -> Any:
    """A token of random vectors (vectors, the sum of the widths)."""
    values = torch.randn(vectors, sum(widths), generator=torch.Generator().manual_seed(seed))
    return pack.crossinit_core.LearnedToken(values, name, "sd2" if len(widths) == 1 else "sdxl", widths=widths)


def conditioning(clip: Any, text: str) -> torch.Tensor:
    """What a prompt becomes, (1, tokens, width)."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text)).clone()


def with_embeddings(clip: Any, folder: Path) -> Any:
    """A copy of the CLIP's tokenizer that looks for embeddings in this folder only."""
    tokenizer = copy.copy(clip.tokenizer)
    for name in [name for name in vars(tokenizer) if name.startswith("clip_") and name != "clip_name"]:
        own = copy.copy(getattr(tokenizer, name))
        own.embedding_directory = [str(folder)]
        setattr(tokenizer, name, own)
    return tokenizer
