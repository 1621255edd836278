"""Training templates, prompts with places for a person, and prompt files.

The templates are those of textual inversion's "imagenet small" set as Cross Initialization uses
it: 81 entries with 57 distinct sentences, so that a sentence which does not name its medium is three
times as likely as one that does.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from .errors import InputError
from .families import CONTEXT_LENGTH
from .text import check_text, lines_of, normal_form, quoted, read_text

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

PLACE = re.compile(
    r"\\\{([^{}|\\]*)\\\}"  # as it is written for dynamic prompts, which take the backslashes away
    r"|\{([^{}|]*)\}"
    r"|(?<![\d%])%([^\s%{}|,:;()<>\[\]\\/?*\"'](?:[^%{}|,:;()<>\[\]\\/?*\"'\n\r]{0,198}[^\s%{}|,:;()<>\[\]\\/?*\"'])?)%"
)
"""`{}`, `{1}` or `{name}` in a prompt for pictures, or `%person%`, `%1%`, `%name%`, which mean the same. What stands between
decides: `{best quality}` and `50% wool, 50% silk` are places only if somebody is called so."""

ANYBODY = "person"
"""`%person%` and `{person}` are `{}`, unless a token has that name. Dynamic prompts, of ComfyUI's page and of many other
programs, take `{}` away, and leave this alone."""

_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
_LONGEST_NUMBER = 3


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


def fill_places(
    prompt: str,
    names: Sequence[str],
    write: Callable[[int, re.Match[str]], str],
    also: Sequence[Collection[str]] = (),
) -> str:
    """A prompt for pictures with its people in place: `write(index, match)` gives the text for person `index`.

    `{}` is the person; with several people each `{}` takes the next one. `{name}` is the person of that name, `{1}` the
    first. `%person%`, `%name%` and `%1%` mean the same. `also` has other names for each person, which count if nobody is
    called so. Raises ValueError if places and people do not match.
    """
    filled, end = [], 0
    for match, index in _places(prompt, names, also):
        filled += [prompt[end : match.start()], write(index, match)]
        end = match.end()
    return "".join([*filled, prompt[end:]])


def absent_people(prompt: str, names: Sequence[str], also: Sequence[Collection[str]] = ()) -> tuple[str, ...]:
    """Those of the people whom no place of the prompt means, in their order. Raises ValueError as `fill_places` does."""
    placed = {index for _, index in _places(prompt, names, also)}
    return tuple(name for index, name in enumerate(names) if index not in placed)


def has_place(prompt: str) -> bool:
    """Whether anything in the prompt may be a place for a person, whatever the people are called."""
    return PLACE.search(prompt) is not None


def words_in_places(prompt: str) -> tuple[str, ...]:
    """What stands in everything that may be a place: `anna` for `{anna}` and `%anna%`."""
    found = (next(group for group in match.groups() if group is not None) for match in PLACE.finditer(prompt))
    return tuple(dict.fromkeys(word.strip() for word in found if word.strip()))


def _places(prompt: str, names: Sequence[str], also: Sequence[Collection[str]] = ()) -> list[tuple[re.Match[str], int]]:
    """Each place of the prompt with the index of its person."""
    if not names:
        raise InputError("There is no learned token for the prompt, but at least one is needed.", "tokens")
    check_text(prompt, "The prompt")
    people = _People(names, also)
    found: list[tuple[re.Match[str], int | None]] = []
    position = 0
    while match := PLACE.search(prompt, position):
        try:
            found.append((match, people.meant(match)))
            position = match.end()
        except LookupError:  # other braces
            position = match.start() + 1
    for choice in _CHOICE.findall(prompt):
        if any(people.called(option) for option in choice.split("|")):
            raise ValueError(
                f"{{{quoted(choice)}}} in the prompt is a choice of dynamic prompts, which is not made here. "
                f"Write one place for each person: {people.shown}."
            )
    if not found:
        raise ValueError(
            f"The prompt '{quoted(prompt)}' has no {{}} for the person. Write {{}} or %{ANYBODY}% where the person goes: "
            "a photo of a {} person"
        )
    unnamed = sum(index is None for _, index in found)
    if len(names) > 1 and unnamed not in (0, len(names)):
        raise ValueError(
            f"The prompt has {unnamed} times {{}}, but there are {len(names)} tokens. Write {{}} once for each of "
            f"them, in order, or use {{1}}, {{2}} and so on, or their names: {people.shown}."
        )
    following = itertools.cycle(range(len(names)))
    return [(match, next(following) if index is None else index) for match, index in found]


class _People:
    """Who is meant by what stands in a place."""

    def __init__(self, names: Sequence[str], also: Sequence[Collection[str]]) -> None:
        self._also = [{_key(name) for name in others} - {""} for others in also]
        self._names = [normal_form(name) for name in names]
        self._keys = [_key(name) for name in names]
        self.shown = quoted(", ".join(names), 200)

    def meant(self, place: re.Match[str]) -> int | None:
        """The index of the person, None for the next one. Raises LookupError for other braces, ValueError for nobody."""
        inner = next(group for group in place.groups() if group is not None)
        text = normal_form(inner).strip()
        if not inner or (not text and not inner.isspace()):
            return None
        if not text:
            raise LookupError(inner)
        meant = self.called(text)
        if len(meant) > 1:
            raise ValueError(
                f"{quoted(place[0])} in the prompt is the name of several tokens or another one's number: {self.shown}. "
                "Rename one of them, or use {} once for each token, in order."
            )
        if meant:
            return meant.pop()
        if text == ANYBODY:
            return None
        close = difflib.get_close_matches(text.casefold(), [name.casefold() for name in self._names], 1, 0.75)
        if not close and " " in " ".join(f"_{text}_".split()):
            raise LookupError(inner)
        hint = ""
        if close:
            index = [name.casefold() for name in self._names].index(close[0])
            hint = f" Did you mean {{{quoted(self._names[index])}}}?"
        raise ValueError(
            f"{quoted(place[0])} in the prompt is no token that is there: {self.shown}.{hint} "
            f"Use {{}}, a name, or {{1}} to {{{len(self._names)}}}."
        )

    def called(self, text: str) -> set[int]:
        """Who is called so, or would be as a file: `Anna Smith` is `Anna-Smith`. `2` is the second as well."""
        text = normal_form(text).strip()
        key = _key(text)
        found = {index for index, name in enumerate(self._names) if name == text}
        found = found or {index for index, name in enumerate(self._keys) if key and name == key}
        found = found or {index for index, others in enumerate(self._also) if key in others}
        if text.isdecimal() and len(text) <= _LONGEST_NUMBER and 1 <= int(text) <= len(self._names):
            found.add(int(text) - 1)
        return found


def _key(name: str) -> str:
    """Its letters, marks and digits, with one `-` for all between: as names of files become names of tokens."""
    kept = (character if unicodedata.category(character)[0] in "LMN" else " " for character in normal_form(name))
    return "-".join("".join(kept).split())


def parse_prompts(text: str, source: str = "text") -> tuple[str, ...]:
    r"""Prompts from text, one a line; blank lines and lines that start with `#` are skipped.

    Only `\n`, `\r\n` and `\r` end a line; other separators, such as U+2028, stay in the prompt, where a tokenizer takes them
    for a space. Raises ValueError if no line holds a prompt, or one cannot be written.
    """
    check_text(text, f"'{quoted(source)}'")
    prompts = tuple(line.strip() for line in lines_of(text) if not is_skipped(line))
    if not prompts:
        raise ValueError(f"'{quoted(source)}' holds no prompt. Put one prompt on each line.")
    return prompts


def is_skipped(line: str) -> bool:
    """Whether a line holds no prompt: nothing that is seen, or a comment."""
    seen = normal_form(line).strip()
    return not seen or seen.startswith("#")


def load_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts from a text file in the published format, one a line: UTF-8, or UTF-16 with a byte order mark.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not text in one of these encodings or holds no
    prompt.
    """
    path = Path(path)
    return parse_prompts(read_text(path, "prompt file"), path.name)
