"""Where a learned token starts: cross initialization, and textual inversion's start for comparison.

Source: Pang et al., "Cross Initialization for Face Personalization of Text-to-Image Models",
CVPR 2024 (arXiv 2312.15905), section 4.1: the *output* of the text encoder for an average
celebrity becomes the *input* embedding of the learned token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backbone import Backbone
from .choices import START_STATES, StartStates
from .families import CONTEXT_LENGTH
from .models.clip_text import padding_row
from .prompts import MAX_VECTORS


def cross_initialize(
    backbone: Backbone, names: Sequence[str], vectors: int = 2, *, states: StartStates = "last"
) -> Tensor:
    """`v0` from names: the text encoder's output for the mean embedding of the names' tokens.

    Returns (K, d) float32 on the CPU, K = `vectors`. See `StartStates` for `states`; each of SDXL's text encoders gives its
    own columns.
    Raises ValueError if K is not 1..8, or no name has K tokens.
    """
    return _output_for(backbone, celebrity_mean(backbone, names, vectors), states)


def celebrity_mean(backbone: Backbone, names: Sequence[str], vectors: int = 2) -> Tensor:
    """`m_1 .. m_K`: for each k the mean of `E[k-th BPE token]` over the names with at least k tokens.

    A name counts as often as it occurs. Returns (K, d) float32 on the CPU: a start *without* the pass
    through the text encoder, kept as a baseline. Raises as `cross_initialize`.
    """
    _check_vectors(vectors)
    if isinstance(names, str) or not names:
        raise ValueError("There is no name to start from. Give a list with at least one name.")
    tokenized = [backbone.tokenize(name)[: CONTEXT_LENGTH - 2] for name in names]
    longest = max(tokenized, key=len)
    if len(longest) < vectors:
        raise ValueError(
            f"{vectors} vectors were asked for, but the longest name, "
            f"'{names[tokenized.index(longest)]}', has {len(longest)} tokens. "
            "Use fewer vectors, or a list with longer names."
        )
    columns = [[ids[k] for ids in tokenized if len(ids) > k] for k in range(vectors)]
    return torch.stack([backbone.embed(torch.tensor(column)).float().mean(dim=0) for column in columns])


def cross_initialize_words(
    backbone: Backbone, words: str, vectors: int | None = None, *, states: StartStates = "last"
) -> Tensor:
    """`v0` from words such as "human face": the text encoder's output for them.

    K is the number of BPE tokens of the words. Returns (K, d) float32 on the CPU; `states` as for `cross_initialize`.
    Raises ValueError if K is not 1..8, or is not `vectors` although `vectors` is given.
    """
    return _output_for(backbone, lookup_words(backbone, words, vectors), states)


def lookup_words(backbone: Backbone, words: str, vectors: int | None = None) -> Tensor:
    """Plain textual inversion's start: `E[word]`, one row for each BPE token of the words.

    The baseline that the paper compares with. Returns (K, d) float32 on the CPU.
    Raises as `cross_initialize_words`.
    """
    ids = backbone.tokenize(words) if words.strip() else []
    if not ids:
        raise ValueError("There is no word to start from. Write a word or two, such as: human face")
    if vectors is not None and len(ids) != vectors:
        raise ValueError(
            f"'{words}' is {len(ids)} tokens long, but {vectors} vectors were asked for. "
            "Each token gives one vector: use other words, or ask for that many vectors."
        )
    if len(ids) > MAX_VECTORS:
        raise ValueError(
            f"'{words}' is {len(ids)} tokens long, and each token gives one vector; at most {MAX_VECTORS} can be "
            "learned. Use fewer or more common words."
        )
    return backbone.embed(torch.tensor(ids)).float()


def _output_for(backbone: Backbone, means: Tensor, states: StartStates) -> Tensor:
    """T([E[BOS], m_1 .. m_K, E[EOS], E[PAD] ...])[1 : 1+K]."""
    if states not in START_STATES:
        raise ValueError(f"states is '{states}', but must be one of {', '.join(START_STATES)}.")
    count = len(means)
    bos, eos = backbone.embed(torch.tensor([backbone.bos, backbone.eos])).float().split(1)
    padding = padding_row(backbone.embed, backbone.widths, backbone.pads, torch.device("cpu"))
    sequence = torch.cat([bos, means, eos, padding.expand(CONTEXT_LENGTH - count - 2, -1)])[None]
    if states == "last":
        found = backbone.last_states(sequence)
    else:
        found = backbone.encode(sequence, torch.tensor([1 + count])).context
    return found[0, 1 : 1 + count].float().clone()


def _check_vectors(vectors: int) -> None:
    if not 1 <= vectors <= MAX_VECTORS:
        raise ValueError(f"vectors is {vectors}, but must be from 1 to {MAX_VECTORS}. The published method uses 2.")
