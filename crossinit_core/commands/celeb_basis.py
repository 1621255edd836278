"""Pictures where the evaluation of Celeb Basis looks for them (ygtxr1997/CelebBasis, `GeneratedDataset` in
evaluation/base_class.py).

    prompts.txt            a prompt a line, in which the person is `sks`, whom the evaluation deletes from it
    in_image_paths.txt     for each prompt the photo that the pictures are compared with
    in_image_ids.txt       for each prompt a number for the person
    imgs/00000_id00000_a photo of a sks person/00000.png, 00001.png ..

It reads one person a folder, and every file in a prompt's folder as a picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..files import is_windows_device, write_atomically
from ..text import quoted

PERSON = "sks"
_PATH = re.compile(r"[a-zA-Z\d#.:/_-]+")
"""What it takes for a path in `in_image_paths.txt`."""
_NOT_IN_FOLDERS = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_LONGEST_FOLDER = 255


def picture_of_celeb_basis(number: int, prompt: str, place: int) -> str:
    """The path of a picture below the evaluation's folder; prompts and pictures are counted from 0. The prompt names the person
    `PERSON`."""
    return f"imgs/{number:05d}_id00000_{prompt}/{place:05d}.png"


def check_celeb_basis(prompts: Sequence[str], people: int, photo: Path | None) -> Path:
    """The photo. Raises ValueError for what that evaluation cannot read: other than one person, a photo that is missing or whose path it
    splits, or a prompt that cannot be a folder's name."""
    if people != 1:
        raise ValueError(
            f"--layout celeb-basis is for the pictures of one person, but {people} tokens were given. Give one."
        )
    if photo is None:
        raise ValueError("--layout celeb-basis needs --photo FILE, the photo that its evaluation compares with.")
    if not photo.is_file():
        raise FileNotFoundError(f"--photo: there is no file at '{quoted(photo, 300)}'.")
    shown = photo.resolve().as_posix()
    if not _PATH.fullmatch(shown):
        raise ValueError(
            f"--photo is '{quoted(shown, 250)}', but the evaluation of Celeb Basis reads only paths of letters a to z, digits "
            "and . _ - # : /. Put the photo into such a folder."
        )
    for number, prompt in enumerate(prompts, start=1):
        folder = f"{number - 1:05d}_id00000_{prompt}"
        wrong = _NOT_IN_FOLDERS.search(prompt)
        if wrong or prompt.endswith((".", " ")) or is_windows_device(folder) or len(folder.encode()) > _LONGEST_FOLDER:
            why = f"the sign '{quoted(wrong[0])}'" if wrong else "its length, or its last sign"
            raise ValueError(
                f"Prompt {number} cannot be the name of a folder, which the evaluation of Celeb Basis makes of it: {why}. "
                f"Shorten or change '{quoted(prompt, 150)}'."
            )
    return photo


def check_no_others(folder: Path, prompts: Sequence[str]) -> None:
    """Raises ValueError if a prompt's folder holds something already: the evaluation would count it in."""
    for number, prompt in enumerate(prompts):
        home = folder / Path(picture_of_celeb_basis(number, prompt, 0)).parent
        if home.is_dir() and any(home.iterdir()):
            raise ValueError(
                f"'{quoted(home, 250)}' holds pictures already, and the evaluation of Celeb Basis counts them in. Choose another "
                "--out, or go on with the same person and --skip-existing."
            )


def write_lists(folder: Path, prompts: Sequence[str], photo: Path) -> None:
    """The three lists that the evaluation reads beside the pictures."""
    for name, lines in (
        ("prompts.txt", prompts),
        ("in_image_paths.txt", [photo.resolve().as_posix()] * len(prompts)),
        ("in_image_ids.txt", ["0"] * len(prompts)),
    ):
        write_atomically(folder / name, "".join(f"{line}\n" for line in lines).encode())
