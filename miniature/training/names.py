"""Made-up names for people of the drawn world: pronounceable, each two or three tokens of CLIP's vocabulary.

A name is a given name of one token and a family name of one or two, such as "Kani Moro". Many people share a given name
and some share a family name, so that only both together say who is meant, as with the names that Stable Diffusion learned.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

_STARTS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "dr",
    "tr",
    "kr",
    "st",
    "th",
    "sh",
]
_MIDDLES = ["b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"]
_ENDS = ("", "n", "l", "r", "s", "m")
WORDS, PIECES = 320, 160
"""Given names, family names of one token and of two, so many of each; and the different first (and last) tokens that those of
two are made of. Together they take less than a thousand rows of the token table."""


def made_up_names(tokenizer: Any, count: int, apart_from: Collection[str] = ()) -> tuple[str, ...]:
    """The first `count` made-up names, always the same ones. Every other one has two tokens, the rest have three.

    `apart_from` are texts whose tokens no made-up name has.
    Raises ValueError if there are not so many.
    """
    if count < 0:
        raise ValueError(f"{count} made-up names were asked for, but it must be 0 or more.")
    taken = {token for text in apart_from for token in _ids(tokenizer, [text])[0]}
    words = _words()
    tokens = {word: ids for word, ids in zip(words, _ids(tokenizer, words), strict=True) if not taken & set(ids)}
    one = [word for word, ids in tokens.items() if len(ids) == 1 and word[-1] in "aio" and len(word) == 4]
    rng = np.random.Generator(np.random.PCG64(20_240_617))
    order = [one[i] for i in rng.permutation(len(one))]
    given, short = order[:WORDS], order[WORDS : 2 * WORDS]
    long = _of_two_tokens(tokens, {tokens[word][0] for word in order})
    long = [long[i] for i in rng.permutation(len(long))[:WORDS]]
    names = []
    for families in (short, long):
        pairs = list(itertools.product(given, families))
        chosen = rng.permutation(len(pairs))[: (count + 1) // 2]
        names.append([" ".join(pairs[i]).title() for i in chosen])
    found = tuple(name for pair in zip(*names, strict=False) for name in pair)[:count]
    if len(found) < count:
        raise ValueError(f"{count} made-up names were asked for, but there are only {len(found)}. Ask for fewer.")
    return found


def _words() -> list[str]:
    """Words of two syllables, without those that are spelt alike."""
    vowels = "aeiou"
    parts = itertools.product(_STARTS, vowels, _MIDDLES, vowels, _ENDS)
    return list(dict.fromkeys("".join(each) for each in parts))


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _of_two_tokens(tokens: dict[str, list[int]], single: Collection[int]) -> list[str]:
    """Words of two tokens, of few different ones, none of which is in `single`."""
    pairs = {word: ids for word, ids in tokens.items() if len(ids) == 2 and not set(ids) & set(single)}
    for place in (0, 1):
        # The commonest pieces that still make a syllable; a word's own letters break ties.
        counts = Counter(ids[place] for ids in pairs.values())
        common = {token for token, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:PIECES]}
        pairs = {word: ids for word, ids in pairs.items() if ids[place] in common}
    return [word for word in pairs if re.fullmatch(r"[a-z]{5,6}", word)]
