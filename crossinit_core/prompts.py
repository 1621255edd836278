"""Training templates, prompts with places for a person, and prompt files.

The templates are those of textual inversion's "imagenet small" set as Cross Initialization uses
it: 81 entries with 57 distinct sentences, so that a sentence which does not name its medium is three
times as likely as one that does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .errors import InputError
from .families import CONTEXT_LENGTH

_PLAIN = (
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a dark photo of the {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a good photo of the {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a rendition of a {}",
    "a good photo of a {}",
)
_SUBJECTS = (
    "a {}",
    "a clean {}",
    "a dirty {}",
    "my {}",
    "the cool {}",
    "the {}",
    "one {}",
    "the clean {}",
    "a nice {}",
    "the nice {}",
    "the small {}",
    "the weird {}",
    "the large {}",
    "a cool {}",
    "a small {}",
)
_MEDIA = ("a photo", "an illustration", "a depiction")

TEMPLATES: tuple[str, ...] = tuple(
    template for medium in _MEDIA for template in (*_PLAIN, *(f"{medium} of {subject}" for subject in _SUBJECTS))
)

SUBJECT = "face of {} person"
"""What fills a training template; its `{}` is where the learned vectors go."""

MAX_VECTORS = 8

PLACE = re.compile(r"\{([^{}\s|]*)\}")
"""`{}`, `{1}` or `{name}` in a prompt for pictures; other braces are left alone."""


def training_prompts(templates: Sequence[str] = TEMPLATES, subject: str = SUBJECT) -> tuple[str, ...]:
    """The templates with the subject filled in: `a photo of a face of {} person`, one for each template.

    Raises ValueError if a template or the subject does not hold exactly one `{}`.
    """
    for text in (subject, *templates):
        if text.count("{}") != 1:
            raise ValueError(f"A training prompt needs exactly one {{}} for the person, but got: '{text}'")
    if not templates:
        raise ValueError("There is no training template. Give at least one sentence with a {} for the person.")
    return tuple(template.replace("{}", subject) for template in templates)


class Vocabulary(Protocol):
    """What turns a text into token ids; every `Backbone` is one."""

    @property
    def bos(self) -> int: ...

    @property
    def eos(self) -> int: ...

    @property
    def pad(self) -> int: ...

    @property
    def vocabulary_size(self) -> int:
        """V; ids from V on are free for learned vectors."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The BPE ids of a text, without BOS and EOS."""
        ...


def token_ids_with_placeholders(
    words: Vocabulary, prompt: str, vectors: int, length: int = CONTEXT_LENGTH
) -> list[int]:
    """One prompt as `length` token ids; every `{}` becomes the ids V, V+1 .. V+K-1.

    The pieces between the `{}` are tokenized one by one, exactly as a tokenizer splits a text at its added tokens.

    Raises ValueError if the prompt has no `{}` or does not fit.
    """
    pieces = prompt.split("{}")
    if len(pieces) < 2:
        raise ValueError(f"The training prompt '{prompt}' has no {{}} for the person.")
    placeholders = [words.vocabulary_size + k for k in range(vectors)]
    ids = [words.bos]
    for index, piece in enumerate(pieces):
        if index:
            ids += placeholders
        if piece.strip():
            ids += words.tokenize(piece)
    ids.append(words.eos)
    if len(ids) > length:
        raise ValueError(
            f"The training prompt '{prompt}' takes {len(ids)} tokens with {vectors} learned vectors, "
            f"but the text encoder reads {length}. Shorten it."
        )
    return ids + [words.pad] * (length - len(ids))


def fill_places(prompt: str, names: Sequence[str], write: Callable[[int, re.Match[str]], str]) -> str:
    """A prompt for pictures with its people in place: `write(index, match)` gives the text for person `index`.

    `{}` is the person; with several people each `{}` takes the next one. `{name}` is the person of that name, `{1}` the
    first. Raises ValueError if places and people do not match.
    """
    if not names:
        raise InputError("There is no learned token for the prompt, but at least one is needed.", "tokens")
    places = PLACE.findall(prompt)
    if not places:
        raise ValueError(
            f"The prompt '{prompt}' has no {{}} for the person. Write it where the person goes: a photo of a {{}} person"
        )
    if len(names) > 1 and places.count("") not in (0, len(names)):
        raise ValueError(
            f"The prompt has {places.count('')} times {{}}, but there are {len(names)} tokens. Write {{}} once for each of "
            f"them, in order, or use {{1}}, {{2}} and so on, or their names: {', '.join(names)}."
        )
    following = itertools.cycle(range(len(names)))
    return PLACE.sub(lambda match: write(_person(match[1], names) if match[1] else next(following), match), prompt)


def _person(wanted: str, names: Sequence[str]) -> int:
    if names.count(wanted) == 1:
        return names.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    reason = "is the name of several tokens" if wanted in names else "is no token that is there"
    raise ValueError(
        f"{{{wanted}}} in the prompt {reason}: {', '.join(names)}. Use {{}}, a name, or {{1}} to {{{len(names)}}}."
    )


def parse_prompts(text: str, source: str = "text") -> tuple[str, ...]:
    """Prompts from text, one a line; blank lines and lines that start with `#` are skipped.

    Raises ValueError if no line holds a prompt.
    """
    lines = (line.strip() for line in text.splitlines())
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not prompts:
        raise ValueError(f"'{source}' holds no prompt. Put one prompt on each line.")
    return prompts


def load_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts from a UTF-8 text file in the published format, one a line.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not UTF-8 text or holds no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no prompt file at '{path}'. Choose a text file with one prompt on each line."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The prompt file '{path.name}' is not UTF-8 text ({error}). Save it as UTF-8 "
            "(in Notepad: Save as, Encoding, UTF-8)."
        ) from error
    return parse_prompts(text, path.name)
