"""File-name-safe labels of prompts, so that pictures are sorted into a folder for each prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .files import is_windows_device
from .prompts import ANYBODY

LONGEST_LABEL = 60
"""Characters. Windows allows 260 for a whole path."""
LONGEST_LABEL_IN_BYTES = 120

_EMBEDDING = re.compile(r"\bembedding:", re.IGNORECASE)
_WEIGHT = re.compile(r":[\d.]+\s*(?=\))")
_ANYBODY = f"%{ANYBODY}%"
"""As `{}` it names nobody."""


def label_of_prompt(prompt: str) -> str:
    """A prompt as a name for a file or a folder on every system: `a photo of a ({}:1.2) person` gives
    `a-photo-of-a-person`.

    Letters and digits of every script stay, in lower case; all else becomes one `-`. Device names of Windows get a prefix,
    and what is too long ends after a whole word. A prompt without any letter is `prompt`.
    """
    text = unicodedata.normalize("NFC", _WEIGHT.sub("", _EMBEDDING.sub("", prompt.replace(_ANYBODY, " "))))
    kept = "".join(character if _stays(character) else " " for character in text.lower())
    label = _shortened(unicodedata.normalize("NFC", "-".join(kept.split()))) or "prompt"
    return f"prompt-{label}" if is_windows_device(label) else label


def labels_of_prompts(prompts: Iterable[str]) -> tuple[str, ...]:
    """A label for each prompt, no two alike even if capitals do not count: the second `a-smile` is `a-smile-2`.

    The same prompts give the same labels, and a prompt that is added at the end changes none before it.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # up to which each label's numbers are taken: thousands of prompts may have one
    labels = []
    for prompt in prompts:
        label = first = label_of_prompt(prompt)
        number = numbers.get(first, 1)
        while unicodedata.normalize("NFC", label.casefold()) in taken:
            number += 1
            label = f"{first}-{number}"
        numbers[first] = number
        taken.add(unicodedata.normalize("NFC", label.casefold()))
        labels.append(label)
    return tuple(labels)


def _stays(character: str) -> bool:
    # Letters, digits, and the marks that many scripts write vowels with.
    return unicodedata.category(character)[0] in "LM" or unicodedata.category(character) == "Nd"


def _shortened(label: str) -> str:
    if len(label) > LONGEST_LABEL or len(label.encode()) > LONGEST_LABEL_IN_BYTES:
        cut = label[:LONGEST_LABEL].encode()[:LONGEST_LABEL_IN_BYTES].decode(errors="ignore")
        whole_word = cut.rpartition("-")[0]
        label = whole_word if len(whole_word) > len(cut) // 2 else cut
    return label.strip("-")
