"""The pictures of prompts with people in them: which, from which seeds, and where each lies."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import is_windows_device, write_atomically
from ..prompts import PLACE, fill_places
from ..text import check_text, normal_form, quoted
from ..tokens.learned_token import suggest_token_name
from .celeb_basis import PERSON, picture_of_celeb_basis
from .sampling_settings import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_LINE = 580
_LONGEST_FOLDER = 160
"""Bytes of a folder's name. File systems allow 255, and Windows 259 characters for a whole path."""
_NOT_IN_NAMES = re.compile(r'[\s<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True)
class PlacedPrompt:
    """A prompt, and the same as texts and numbers of people, in its order."""

    text: str
    pieces: tuple[str | int, ...]

    @classmethod
    def of(cls, prompt: str, names: Sequence[str]) -> PlacedPrompt:
        """Raises as `prompts.fill_places` does."""
        check_text(prompt, "The prompt")
        people: list[int] = []

        def write(index: int, _: object) -> str:
            people.append(index)
            return "\0"

        pieces: list[str | int] = [*fill_places(prompt, names, write).split("\0")]
        for position, person in enumerate(people):
            pieces.insert(2 * position + 1, person)
        return cls(prompt, tuple(pieces))

    @property
    def of_celeb_basis(self) -> str:
        """The text with `sks` for everybody."""
        return "".join(piece if isinstance(piece, str) else PERSON for piece in self.pieces)


def check_everybody_is_placed(
    names: Sequence[str], prompts: Sequence[PlacedPrompt], say: Callable[[str], None]
) -> None:
    """`say` gets a line for each prompt that does not place every person. Raises ValueError for a person in no prompt."""
    for index, name in enumerate(names):
        if not any(index in prompt.pieces for prompt in prompts):
            raise ValueError(
                f"No prompt places '{quoted(name)}'. Write {{{quoted(name)}}} or {{{index + 1}}} where the person goes, or "
                "leave the token out."
            )
    for number, prompt in enumerate(prompts, start=1):
        absent = [quoted(name, 60) for index, name in enumerate(names) if index not in prompt.pieces]
        if absent:
            say(quoted(f"Prompt {number} does not place: {', '.join(absent)}.", _LONGEST_LINE))


@dataclass(frozen=True)
class Picture:
    """A picture to be made: of a prompt, from a seed, at a path."""

    prompt: PlacedPrompt
    seed: int
    path: Path


def plan_pictures(prompts: Sequence[PlacedPrompt], sampling: Sampling, folder: Path, layout: str) -> list[Picture]:
    """All pictures, those of one prompt after the other. The same command gives the same paths."""
    pictures = []
    taken: set[str] = set()
    for number, prompt in enumerate(prompts, start=1):
        home = folder_name(prompt.text, taken) if layout == "published" else ""
        name = suggest_token_name(PLACE.sub("", prompt.text))[:80]
        for place in range(sampling.count):
            seed = sampling.seed + place
            if layout == "celeb-basis":
                path = folder / picture_of_celeb_basis(number - 1, prompt.of_celeb_basis, place)
            elif home:
                path = folder / home / f"{place}.png"
            else:
                path = folder / f"{number:03d}-{name}-{seed}.png"
            pictures.append(Picture(prompt, seed, path))
    return pictures


def folder_name(prompt: str, taken: set[str]) -> str:
    """A prompt as the published script names its folder, `a_photo_of_a_{}_person`, and as every system takes it.

    A number follows if an earlier prompt has the same, upper and lower case being one, as on Windows and macOS. It is added to
    `taken`.
    """
    name = _NOT_IN_NAMES.sub("_", normal_form(prompt))
    if len(name.encode()) > _LONGEST_FOLDER:  # the next run may have another prompt that begins in this way
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
        name = f"{name.encode()[: _LONGEST_FOLDER - 9].decode(errors='ignore')}-{digest}"
    name = name.rstrip(". ") or "_"
    name = f"_{name}" if is_windows_device(name) else name
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free


def write_picture(picture: Image, path: Path, way_out: str = "Make room or choose another place.") -> None:
    """Write a PNG file whole or not at all. Raises OSError that names it and ends in `way_out`."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise OSError(
            f"The picture '{quoted(path, 250)}' could not be written ({quoted(error.strerror or error)}). {way_out}"
        ) from error
