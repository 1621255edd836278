"""Learned tokens in ComfyUI's prompts: a CLIP whose tokenizer knows them by name, without files, and what files give."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from comfy.sd1_clip import load_embed
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...crossinit_core import LearnedToken, load_learned_token
from ...crossinit_core.families import base_of_widths
from ...crossinit_core.text import normal_form
from .models import ENCODERS, clip_widths, encoder_names

_LARGEST_FOR_THE_HOST = 64 * 2**20

_NAME = re.compile(r"\s*([^\s<\[]*)(.*)", re.DOTALL)

_SUFFIXES = (".safetensors", ".pt", ".bin")
"""ComfyUI reads `embedding:NAME` and `embedding:NAME.safetensors` from the same file."""


def clip_with_tokens(
    clip: Any,
    tokens: Mapping[str, LearnedToken],
    on_read: Callable[[str], object] = lambda name: None,
    on_lost: Callable[[str], object] = lambda word: None,
) -> Any:
    """A clone of CLIP that finds `embedding:NAME` for these names before it looks at the embeddings folders.

    The clone shares the model; only its tokenizers are its own. They call `on_read` with each of these names that all of
    them found in a prompt, and `on_lost` with each word after `embedding:` that nobody has for a name: ComfyUI leaves it out
    of the prompt. Each text encoder gets its own columns of the vectors. Raises ValueError if a token does not fit the CLIP.
    """
    for token in tokens.values():
        token.check_fits(clip_widths(clip))
    names = encoder_names(clip)
    clone = clip.clone()
    clone.tokenizer = copy.copy(clip.tokenizer)
    said = _SaidOnce(len(names), on_read)
    for index, name in enumerate(names):
        tokenizer = copy.copy(getattr(clip.tokenizer, name))
        # The host skips `embedding:` altogether if it has no folder to look in.
        tokenizer.embedding_directory = tokenizer.embedding_directory or []
        # Every prompt goes through all tokenizers, so one of them tells what is lost.
        lost = on_lost if index == 0 else _nobody
        tokenizer._try_get_embedding = _Lookup(tokenizer._try_get_embedding, tokens, index, said.by(index), lost)
        setattr(clone.tokenizer, name, tokenizer)
    return clone


def applied_token(clip: Any, name: str) -> LearnedToken | None:
    """Who has this name in the CLIP by `clip_with_tokens`; None: nobody, or a file."""
    lookup = getattr(getattr(clip.tokenizer, encoder_names(clip)[0]), "_try_get_embedding", None)
    while isinstance(lookup, _Lookup):
        if name in lookup.tokens:
            return lookup.tokens[name]
        lookup = lookup.before
    return None


def current_run() -> str | None:
    """The id of the run that ComfyUI is at; None outside of one."""
    context = get_executing_context()
    return None if context is None else context.prompt_id


def split_tokens(tokenized: Any, tokens: Mapping[str, LearnedToken]) -> set[str]:
    """The names of those of whom the vectors of one place are in two sections of 77 tokens.

    tokenized: what CLIP's `tokenize` gave, for each encoder the sections of (token or vector, weight). ComfyUI encodes each
    section by itself, and moves a word of up to seven tokens to the next one as a whole, but cuts a longer one.
    """
    found = set()
    for sections in tokenized.values():
        for before, after in itertools.pairwise(sections):
            ends, starts = _rows(before, tokens), _rows(after, tokens)
            last, first = next(reversed(list(ends)), None), next(starts, None)
            if last and first and last[0] == first[0] and last[1] + 1 == first[1]:
                found.add(last[0])
    return found


def weights_of(tokenized: Any) -> set[float]:
    """The weights of all tokens of a prompt, which its text gave."""
    return {entry[1] for sections in tokenized.values() for section in sections for entry in section}


def _rows(section: Any, tokens: Mapping[str, LearnedToken]) -> Iterator[tuple[str, int]]:
    """Whose vectors are in the section, and which of them; the host gives views of ours."""
    for value, *_ in section:
        if not isinstance(value, Tensor):
            continue
        for name, token in tokens.items():
            if value.untyped_storage().data_ptr() == token.vectors.untyped_storage().data_ptr():
                yield name, value.storage_offset() // token.width


def vectors_in_prompts(path: Path, widths: Sequence[int]) -> Tensor | None:
    """(K, d) float32, what `embedding:` makes of a file for text encoders of these widths. None: nothing, or not for all.

    Of several tensors ComfyUI takes the one under the encoder's own key (`clip_l`, `clip_g`), else the first one. Its loader
    gets only files that hold a token and are not large: of others it believes what they declare.
    """
    base = base_of_widths(widths)
    keys = next((names for names, known in ENCODERS.items() if known == base), ("clip_l", "clip_g")[: len(widths)])
    try:
        load_learned_token(path)
        if path.stat().st_size > _LARGEST_FOR_THE_HOST:
            return None
        # A copy in a folder of its own: ComfyUI looks through all folders below, and has no end where links lead in circles.
        with tempfile.TemporaryDirectory() as folder:
            name = shutil.copyfile(path, Path(folder) / path.name).name
            parts = [load_embed(name, [folder], width, key) for width, key in zip(widths, keys, strict=True)]
        rows = [part.detach().float().reshape(-1, part.shape[-1]) for part in parts if part is not None]
        # The loader does not compare widths, but CLIP leaves out what is of another width.
        if any(part.shape != (len(rows[0]), width) for part, width in zip(rows, widths, strict=True)):
            return None
        return torch.cat(rows, dim=1)
    except Exception:  # the host raises nearly anything: UnboundLocalError for the original textual inversion's files
        return None


def _nobody(_word: str) -> None:
    """Hears nothing."""


class _SaidOnce:
    """Says a name when each of the text encoders' tokenizers has read it, and then begins anew."""

    def __init__(self, encoders: int, on_read: Callable[[str], object]) -> None:
        self._encoders, self._on_read = encoders, on_read
        self._readers: dict[str, set[int]] = {}

    def by(self, encoder: int) -> Callable[[str], None]:
        def read(name: str) -> None:
            readers = self._readers.setdefault(name, set())
            readers.add(encoder)
            if len(readers) == self._encoders:
                readers.clear()
                self._on_read(name)

        return read


class _Lookup:
    """The host's lookup for one text encoder with ours before it. It gives (vectors, name, what is left of the text).

    Hosts before 0.4 gave (vectors, what is left).
    """

    def __init__(
        self,
        before: Callable[[str], tuple],
        tokens: Mapping[str, LearnedToken],
        encoder: int,
        on_read: Callable[[str], object],
        on_lost: Callable[[str], object],
    ) -> None:
        self.before, self.tokens = before, tokens
        self._encoder = encoder
        self._known = {normal_form(name): name for name in tokens}
        self._on_read, self._on_lost = on_read, on_lost

    def __call__(self, text: str) -> tuple:
        match = _NAME.match(text)
        assert match is not None
        word, rest = match.group(1), " ".join(match.group(2).split())
        stripped = word if self._name(word) else word.strip(",")
        name = self._name(stripped)
        if name is None:
            # The host fails at a text without a word.
            found = self.before(text) if text.strip() else self._answer(None, "", "")
            if found[0] is None:
                self._on_lost(word)
            return found
        self._on_read(name)
        left = f"{word[len(stripped) :]} {rest}" if word != stripped else rest
        return self._answer(self.tokens[name].parts[self._encoder], name, left)

    def _name(self, word: str) -> str | None:
        word = normal_form(word)
        for suffix in ("", *_SUFFIXES):
            if word.endswith(suffix) and (name := self._known.get(word.removesuffix(suffix))) is not None:
                return name
        return None

    def _answer(self, vectors: Tensor | None, name: str, left: str) -> tuple:
        return (vectors, left) if len(self.before("crossinit-no-such-file")) == 2 else (vectors, name, left)
