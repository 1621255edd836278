"""Learning with the rest of a prompt held: the text encoder's term of CoRe (Wu et al., AAAI 2025, arXiv 2408.15914).

At every step the learned vectors are put into prompts of all kinds, of which no pictures are needed. What the text encoder makes of
the other words there is to stay what it makes of them beside a class word. (CoRe has a term of attention maps as well, which is not
tried.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossinit_core import lookup_words
from crossinit_core.backbone import Encoded, FrozenModel
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.objective import splice
from crossinit_core.models.clip_text import ends_of
from crossinit_core.prompts import token_ids_with_placeholders
from miniature.training.captions import caption
from miniature.world.scene import random_scene

HELD_PROMPTS = 16


def held_prompts() -> list[str]:
    """Prompts with a place for a person, in the manner of the training captions; the same ones every time.

    None is one that ways are chosen on. Two are of the paper, so a way with them is not one to report.
    """
    rng = np.random.Generator(np.random.PCG64(20))
    return [caption(random_scene(rng), ["{}"], rng) for _ in range(HELD_PROMPTS)]


class HeldContext:
    """A backbone whose training adds `weight` times the mean squared change of the other words' outputs to the loss.

    `word` stands for each of the `vectors` in what they are held to.
    """

    def __init__(self, backbone: DiffusersBackbone, word: str, vectors: int, weight: float) -> None:
        self._backbone, self.weight, self.vectors = backbone, weight, vectors
        size = backbone.vocabulary_size
        self.ids = torch.tensor([token_ids_with_placeholders(backbone, text, vectors) for text in held_prompts()])
        self.known = backbone.embed(self.ids.clamp_max(size - 1))
        self.ends = ends_of(self.ids, backbone.eos)
        words = lookup_words(backbone, " ".join([word] * vectors), vectors)
        self.wanted = backbone.encode(splice(words, self.known, self.ids, size), self.ends).context
        self.others = (self.ids < size).float()[..., None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    @contextmanager
    def training(self, **options: Any) -> Iterator[FrozenModel]:
        with self._backbone.training(**options) as model:
            yield _HeldModel(model, self)


class _HeldModel:
    """The frozen model of a run: `encode` adds the term's gradient on its way back."""

    def __init__(self, model: FrozenModel, held: HeldContext) -> None:
        self._model, self._held = model, held
        parts = (held.ids, held.known, held.ends, held.wanted, held.others)
        self._ids, self._known, self._ends, self._wanted, self._others = (part.to(model.device) for part in parts)
        self._places: Tensor | None = None
        self.signature = (model.signature, "held context", held.weight, held.vectors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed(self, token_ids: Tensor) -> Tensor:
        # The placeholders come as the last id of the vocabulary, which no training prompt has before its end.
        first = (token_ids[0] == self._held.vocabulary_size - 1).int().argmax()
        self._places = first + torch.arange(self._held.vectors, device=token_ids.device)
        return self._model.embed(token_ids)

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        encoded = self._model.encode(embeddings, ends)
        if self._places is None or not embeddings.requires_grad:
            return encoded
        vectors = embeddings[0].index_select(0, self._places)
        spliced = splice(vectors, self._known, self._ids, self._held.vocabulary_size)
        changed = (self._model.encode(spliced, self._ends).context - self._wanted).square() * self._others
        term = changed.sum() / (self._others.sum() * changed.shape[-1])
        return Encoded(_Also.apply(encoded.context, self._held.weight * term), encoded.pooled)


class _Also(torch.autograd.Function):
    """The first input as it is; on the way back the second, a number, gets the gradient 1, as a term of the loss has."""

    @staticmethod
    def forward(ctx: Any, context: Tensor, term: Tensor) -> Tensor:
        ctx.save_for_backward(term)
        return context.view_as(context)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], torch.ones_like(ctx.saved_tensors[0])
