"""Which pictures are to be evaluated: whose they are, and of which prompt.

Folders as they are made by `generate` (`001-a-photo-of-a-person-0.png`, or a folder for each prompt), by the published
`test_cross_init.py` (a folder for each prompt) and by Celeb Basis (`imgs/00000_id00001_PROMPT/00000.jpg`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..photos.folders import MASK_ENDINGS, MASK_FOLDER_ENDINGS, MASK_FOLDERS
from ..photos.picture_files import read_picture
from ..prompts import PLACE, load_prompts
from ..text import normal_form, quoted

PAPER_PROMPTS = Path(__file__).resolve().parent.parent / "data" / "paper_prompts.txt"

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"))

_NUMBERED = re.compile(r"(?:\d+_id\d+_|\d+-)(?=.)")
_SEED = re.compile(r"(?:-\d+){1,2}$")
_PLACEHOLDERS = re.compile(r"\bsks\b|<[^<>]*>|\b\w+_v\d+\b|\{\}", re.IGNORECASE)
_DIGEST = re.compile(r"-(?:[0-9a-f]{8}|\d+)$")
"""What `generate` adds to the name of a folder: of a long prompt, and of one that another folder is called after."""
_SHORTENED = 60
"""A name of a picture that has as many characters may be the beginning of a prompt."""


@dataclass(frozen=True)
class PictureFile:
    """A picture and its prompt, which is None if neither its name nor its folder's tells one."""

    path: Path
    prompt: str | None


@dataclass(frozen=True)
class Person:
    """Somebody's photos, and the pictures that were generated."""

    name: str
    photos: tuple[Path, ...]
    pictures: tuple[PictureFile, ...]


def paper_prompts() -> tuple[str, ...]:
    """The 20 prompts of the publication."""
    return load_prompts(PAPER_PROMPTS)


def find_people(
    pictures: Path, photos: Path, prompts: Sequence[str], say: Callable[[str], None] = lambda line: None
) -> list[Person]:
    """One person, or everybody of a folder that holds a folder of pictures for each.

    There are several people if folders in `pictures` are called as files or folders in `photos` are. `say` gets a line for those
    whose photos or pictures are missing. Raises FileNotFoundError for
    a path that does not exist, and ValueError if pictures or photos are missing; each names the path.
    """
    for path in (pictures, photos):
        if not path.exists():
            raise FileNotFoundError(f"There is no file or folder at '{quoted(path, 300)}'.")
    if not pictures.is_dir():
        raise ValueError(f"'{quoted(pictures, 200)}' is a file. Give the folder that holds the generated pictures.")
    owners = photos_of_people(photos) if photos.is_dir() else {}
    folders = {_key(entry.name): entry for entry in sorted(pictures.iterdir()) if entry.is_dir()}
    shared = [name for name in owners if _key(name) in folders]
    if shared:
        found = [Person(name, owners[name], _pictures(folders[_key(name)], prompts)) for name in shared]
        unknown = [entry.name for name, entry in folders.items() if name not in {_key(owner) for owner in shared}]
        if unknown:
            say(f"Left out, for their photos are not there: {quoted(', '.join(unknown), 400)}")
    else:
        found = [Person(pictures.resolve().name, tuple(picture_files(photos)), _pictures(pictures, prompts))]
    for person in found:
        if not person.pictures:
            raise ValueError(f"There are no pictures of '{quoted(person.name)}' in '{quoted(pictures, 200)}'.")
        if not person.photos:
            raise ValueError(f"There are no photos in '{quoted(photos, 200)}'. Use JPEG, PNG or WebP files.")
    return found


def photos_of_people(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Everybody in a folder by name: a folder with photos for each, or one photo. A folder's photos go before a single one."""
    found: dict[str, tuple[Path, ...]] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name)):
        photos = () if entry.name.startswith(".") else tuple(picture_files(entry))
        name = entry.name if entry.is_dir() else entry.stem
        if photos and name not in found:
            found[name] = photos
    return dict(sorted(found.items()))


def picture_files(path: Path) -> list[Path]:
    """The picture files at a path, a file or a folder with its folders, in order; masks and what is hidden are left out."""
    if path.is_file():
        files = [path]
    else:
        files = sorted(file for file in path.rglob("*") if file.is_file())
        files = [file for file in files if not any(map(_is_aside, file.relative_to(path).parts[:-1]))]
        files = [file for file in files if not file.name.startswith(".")]
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.stem.lower().endswith(MASK_ENDINGS)]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: grey is repeated, transparency is laid on white. Raises what `picture_files.read_picture` does."""
    pixels = read_picture(path)
    if pixels.dtype != np.uint8:
        return np.repeat((pixels * 255).round().clip(0, 255).astype(np.uint8), 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _pictures(folder: Path, prompts: Sequence[str]) -> tuple[PictureFile, ...]:
    known = {_words(prompt): prompt for prompt in reversed(prompts)}
    return tuple(PictureFile(file, _prompt_of(file.relative_to(folder), known)) for file in picture_files(folder))


def _prompt_of(path: Path, known: dict[str, str]) -> str | None:
    """The prompt that a folder or a file is called after: one of the known ones, or the folder's own words."""
    folders = [_NUMBERED.sub("", sendable(name), count=1) for name in reversed(path.parts[:-1])]
    stem = _SEED.sub("", _NUMBERED.sub("", path.stem, count=1))
    for name in (*folders, *(_DIGEST.sub("", name) for name in folders), stem):
        words = _words(name)
        if words in known:
            return known[words]
        longer = [prompt for text, prompt in known.items() if len(words) >= _SHORTENED and text.startswith(words)]
        if len(longer) == 1:
            return longer[0]
    own = [name for name in folders if " " in _words(name)]
    return " ".join(_PLACEHOLDERS.sub("{}", own[0].replace("_", " ")).split()) if own else None


def _words(text: str) -> str:
    """The words of a prompt without the person's place, for comparisons: `a photo of a person`."""
    bare = _PLACEHOLDERS.sub(" ", PLACE.sub(" ", normal_form(text)))
    return " ".join(re.findall(r"[^\W_]+", bare.casefold()))


def sendable(text: str) -> str:
    """A name as it can be written: on Linux any bytes can be one, and Python makes halves of characters of them."""
    return text.encode(errors="replace").decode()


def _is_aside(folder: str) -> bool:
    """Whether a folder holds masks, or is hidden."""
    name = _key(folder)
    return name.startswith(".") or name in MASK_FOLDERS or name.endswith(MASK_FOLDER_ENDINGS)


def _key(name: str) -> str:
    return normal_form(name).casefold()
