"""Prompts for pictures of any length: as chunks of 77 tokens, cut where ComfyUI cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .backbone import Encoded
from .families import CONTEXT_LENGTH
from .models.clip_text import padding_row
from .prompts import Vocabulary

MAX_WORD_LENGTH = 8
"""A piece shorter than this moves to the next chunk as a whole; a longer one is cut (ComfyUI, comfy/sd1_clip.py,
`SDTokenizer.max_word_length`)."""


class TextEncoder(Vocabulary, Protocol):
    """What turns token ids into vectors and these into the UNet's context; every `Backbone` is one."""

    widths: tuple[int, ...]
    pads: tuple[int, ...]

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of the token table, (n,) int64 -> (n, d) float32."""
        ...

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        """Token embeddings (B, 77, d) and the places (B,) of EOS -> context (B, 77, d) and pooled output, float32."""
        ...


def encode_prompt(words: TextEncoder, pieces: Sequence[str | Tensor]) -> Encoded:
    """The context of a prompt, (1, 77 n, d) float32 on the CPU, for the n chunks that it takes, and on SDXL the pooled output
    of the first chunk, as in ComfyUI.

    `pieces` are the prompt in its order: texts, and the vectors (K, d) of people. Chunks are cut, closed, padded and
    joined as ComfyUI does (comfy/sd1_clip.py, `SDTokenizer.tokenize_with_weights`, `ClipTokenWeightEncoder`).
    """
    groups = [_rows(words, piece) for piece in pieces if not isinstance(piece, str) or piece]
    bos, eos = words.embed(torch.tensor([words.bos, words.eos])).split(1)
    padding = padding_row(words.embed, words.widths, words.pads, torch.device("cpu"))[None]
    chunks = _chunks(groups, bos, eos, padding)
    encoded = [words.encode(chunk[None], torch.tensor([end])) for chunk, end in chunks]
    return Encoded(torch.cat([part.context for part in encoded], dim=1), encoded[0].pooled)


def _rows(words: TextEncoder, piece: str | Tensor) -> Tensor:
    """(n, d) of one piece."""
    if isinstance(piece, Tensor):
        return piece.float().cpu()
    return words.embed(torch.tensor(words.tokenize(piece), dtype=torch.int64))


def _chunks(groups: Sequence[Tensor], bos: Tensor, eos: Tensor, pad: Tensor) -> list[tuple[Tensor, int]]:
    """The groups (n, d) in chunks (77, d), each with BOS, EOS and padding, and the place of its EOS."""
    room = CONTEXT_LENGTH - 2
    chunks: list[list[Tensor]] = [[]]
    used = 0
    for group in groups:
        may_be_cut = len(group) >= MAX_WORD_LENGTH
        while len(group):
            if len(group) + used <= room:
                chunks[-1].append(group)
                used += len(group)
                break
            if may_be_cut:
                chunks[-1].append(group[: room - used])
                group = group[room - used :]
            chunks.append([])
            used = 0
    closed = []
    for parts in chunks:
        length = sum(map(len, parts))
        closed.append((torch.cat([bos, *parts, eos, pad.expand(room - length, -1)]), 1 + length))
    return closed
