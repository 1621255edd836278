"""Photos and their masks among files and folders, each made small as it is read.

A mask lies beside its photo under one of `MASK_ENDINGS` (`anna-masklabel.png` beside `anna.jpg`: OneTrainer,
`modules/dataLoader/mixin/DataLoaderText2ImageMixin.py`), or under its photo's name in a folder called `masks` or `anna_mask`
(kohya's sd-scripts, `docs/masked_loss_README.md`). So has a photo that is given by its own name. Folders in folders are
searched too, such as kohya's `10_anna person`, whose count is not used; what is hidden is left alone.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..text import normal_form, quoted
from .images import check_resolution, load_training_mask, load_training_photo

MASK_ENDINGS = ("-masklabel", "-mask", "_mask", ".mask")
MASK_FOLDERS = ("mask", "masks", "masklabel")
MASK_FOLDER_ENDINGS = ("_mask", "_masks", "-mask", "-masks")
CONDITION_ENDING = "-condlabel"
"""OneTrainer's pictures that steer a ControlNet: nobody's photo."""
BESIDE_PHOTOS = frozenset(
    {
        *(
            ".txt",
            ".caption",
            ".json",
            ".jsonl",
            ".csv",
            ".tsv",
            ".yaml",
            ".yml",
            ".toml",
            ".xml",
            ".xmp",
            ".aae",
            ".thm",
        ),
        *(".md", ".html", ".ini", ".db", ".npz", ".npy", ".pt", ".bin", ".safetensors", ".ckpt", ".log", ".py", ".sh"),
        *(".bat", ".lnk", ".url", ".tmp", ".part", ".crdownload"),
    }
)
"""What lies beside photos: captions, settings, caches. It is not opened."""
SYSTEM_FOLDERS = ("__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found")
_REPEATS = re.compile(r"[1-9][0-9]*_.+", re.DOTALL)
_MOST_NAMES = 4


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos as learning sees them: each (1, R, R, 3) float32 in 0..1, and a mask (1, R, R) in 0..1 for each.

    `masks` is None if no photo has one; a photo without one is white all over.
    """

    images: list[Tensor]
    masks: list[Tensor] | None


Loader = Callable[[Path, Path | None, int], tuple[Tensor, Tensor | None]]
"""A photo, its mask if there is one, and the resolution R -> (1, R, R, 3) and (1, R, R) in 0..1."""


def _middle_square(photo: Path, mask: Path | None, resolution: int) -> tuple[Tensor, Tensor | None]:
    image, size = load_training_photo(photo, resolution)
    return image, None if mask is None else load_training_mask(mask, size, resolution)


def read_photos(
    paths: Sequence[Path],
    resolution: int,
    say: Callable[[str], None] = lambda line: None,
    load: Loader = _middle_square,
) -> Photos:
    """The photos among files and folders, in the order of `paths`, those of a folder by name and before its folders'.

    Pixels are those of `images.training_images` at `resolution`, or those that another `load` gives, whose ValueError says why a
    photo is not used. `say` gets one line for whatever is not used, with the
    reason. Raises FileNotFoundError for a path that does not exist, and ValueError if there is no photo at all.
    """
    check_resolution(resolution)
    files, beside = _files(paths, say)
    named = {path.absolute() for path in paths}
    masks, photos = _masks_and_photos(files, named, say)
    alone = [photo for photo in photos if photo.absolute() in named and photo not in masks]
    for photo, found in _masks_of_named(alone):
        say(f"Using '{quoted(found, 200)}' as the mask of '{quoted(photo.name, 100)}'")
        masks[photo] = found
    _say_repeats(photos, say)
    if beside:
        names = ", ".join(f"'{quoted(file.name, 60)}'" for file in beside[:_MOST_NAMES])
        more = f" and {len(beside) - _MOST_NAMES} more" if len(beside) > _MOST_NAMES else ""
        say(f"Skipping what is not a picture: {names}{more}")
    images: list[Tensor] = []
    weights: list[Tensor | None] = []
    for photo in photos:
        try:
            image, mask = load(photo, masks.get(photo), resolution)
        except (ValueError, OSError) as error:
            what = "its mask cannot be used. " if photo in masks and masks[photo].name in str(error) else ""
            say(f"Skipping '{quoted(photo, 200)}': {what}{quoted(error, 360)}")
            continue
        images.append(image)
        weights.append(mask)
    if not images:
        raise ValueError(
            f"There is no usable photo in {_named(paths)}: {_census([*files, *beside])}. Use JPEG, PNG or WebP files."
        )
    if all(mask is None for mask in weights):
        return Photos(images, None)
    white = torch.ones(1, resolution, resolution)
    return Photos(images, [white if mask is None else mask for mask in weights])


def _named(paths: Sequence[Path]) -> str:
    names = ", ".join(f"'{quoted(path, 120)}'" for path in paths[:2])
    return f"{names} and {len(paths) - 2} more" if len(paths) > 2 else names


def _census(files: Sequence[Path]) -> str:
    """What was seen: `4 files (3 .txt, 1 .mp4)`."""
    if not files:
        return "it holds no files that are not hidden"
    kinds = Counter(quoted(file.suffix.lower(), 12) or "without an ending" for file in files).most_common(_MOST_NAMES)
    count = "1 file was" if len(files) == 1 else f"{len(files)} files were"
    return f"{count} seen ({', '.join(f'{number} {kind}' for kind, number in kinds)})"


def _files(paths: Iterable[Path], say: Callable[[str], None]) -> tuple[list[Path], list[Path]]:
    """Each file once: those that may be pictures, and those that lie beside them."""
    files: list[Path] = []
    beside: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found = _of_folder(path, say)
        elif path.exists():
            found = [path]
        else:
            raise FileNotFoundError(f"There is no photo or folder at '{quoted(path, 300)}'.")
        for file in found:
            place = file.resolve()
            if place not in seen:
                seen.add(place)
                (beside if file.suffix.lower() in BESIDE_PHOTOS else files).append(file)
    return files, beside


def _of_folder(folder: Path, say: Callable[[str], None]) -> list[Path]:
    """The files of a folder by name, then those of its folders. Links that lead back in a circle are followed once."""
    files: list[Path] = []
    waiting, visited = [folder], set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
            files += [entry for entry in entries if entry.is_file() and entry.name.lower() != "thumbs.db"]
            folders = [entry for entry in entries if entry.name.lower() not in SYSTEM_FOLDERS and entry.is_dir()]
        except OSError as error:
            say(f"Skipping the folder '{quoted(folder, 200)}': {quoted(error.strerror or error)}")
            continue
        waiting += reversed(folders)
    return files


def _masks_and_photos(
    files: Sequence[Path], named: set[Path], say: Callable[[str], None]
) -> tuple[dict[Path, Path], list[Path]]:
    """The mask of each photo that has one, and all photos. Masks without a photo are said, and nobody learns them."""
    masks: list[Path] = []
    photos: list[Path] = []
    for file in files:
        stem = _key(file.stem)
        if stem.endswith(CONDITION_ENDING):
            say(f"Skipping '{quoted(file, 200)}': it steers a ControlNet, and is not a photo")
        elif stem.endswith(MASK_ENDINGS) or _in_mask_folder(file, named):
            masks.append(file)
        else:
            photos.append(file)
    of: dict[Path, Path] = {}
    for mask in masks:
        owners = _owners(mask, photos)
        for photo in owners:
            if photo in of:
                say(f"Skipping '{quoted(mask, 200)}': '{quoted(of[photo].name, 60)}' is the mask of its photo already")
            else:
                of[photo] = mask
        if not owners and mask.absolute() in named and not _key(mask.stem).endswith(MASK_ENDINGS[0]):
            photos.append(mask)  # somebody's photo that happens to be called so
        elif not owners:
            say(
                f"Skipping '{quoted(mask, 200)}': by its name it is a mask, and its photo is not there. If it is a photo, "
                "rename it."
            )
    order = {file: place for place, file in enumerate(files)}
    return of, sorted(photos, key=order.__getitem__)


def _masks_of_named(photos: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """The masks that lie where a folder's would, of photos that were given by their own names."""
    for photo in photos:
        home = photo.absolute().parent
        places = [home]
        with contextlib.suppress(OSError):
            places += sorted(place for place in home.iterdir() if _key(place.name) in MASK_FOLDERS)
        with contextlib.suppress(OSError):
            wanted = {_key(home.name) + ending for ending in MASK_FOLDER_ENDINGS}
            places += sorted(place for place in home.parent.iterdir() if _key(place.name) in wanted)
        for place in places:
            entries: list[Path] = []
            with contextlib.suppress(OSError):
                entries = sorted(
                    entry for entry in place.iterdir() if not entry.name.startswith(".") and entry.is_file()
                )
            of = [
                entry
                for entry in entries
                if entry.suffix.lower() not in BESIDE_PHOTOS
                and (place != home or _key(entry.stem).endswith(MASK_ENDINGS))
                and _owners(entry, [photo.absolute()])
            ]
            if of:
                yield photo, of[0]
                break


def _say_repeats(photos: Iterable[Path], say: Callable[[str], None]) -> None:
    folders = {photo.absolute().parent.name for photo in photos}
    if counted := sorted(name for name in folders if _REPEATS.fullmatch(name)):
        say(
            f"The number before '_' in a folder's name, as in '{quoted(counted[0], 60)}', is not used: every photo counts the "
            "same."
        )


def _in_mask_folder(file: Path, named: set[Path]) -> bool:
    if file.parent.absolute() in named or file.absolute() in named:
        return False
    folder = _key(file.parent.name)
    return folder in MASK_FOLDERS or folder.endswith(MASK_FOLDER_ENDINGS)


def _owners(mask: Path, photos: Sequence[Path]) -> list[Path]:
    """The photos that a mask belongs to; several only if they have one name with different endings."""
    stem, folder, home = _key(mask.stem), _key(mask.parent.name), mask.parent.parent
    bare = _without(stem, MASK_ENDINGS)
    alike = [
        photo for photo in photos if _key(photo.stem) in (bare, stem) or (bare != stem and _key(photo.name) == bare)
    ]
    beside = [photo for photo in alike if photo.parent == mask.parent]
    if beside or not (folder in MASK_FOLDERS or folder.endswith(MASK_FOLDER_ENDINGS)):
        return beside
    sibling = _without(folder, MASK_FOLDER_ENDINGS)
    for near in (
        [photo for photo in alike if photo.parent.parent == home and _key(photo.parent.name) == sibling],
        [photo for photo in alike if photo.parent == home],
        [photo for photo in alike if home in photo.parents],
    ):
        if near:
            return near if len({photo.parent for photo in near}) == 1 else []
    return []


def _without(name: str, endings: Sequence[str]) -> str:
    return next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), name)


def _key(name: str) -> str:
    return normal_form(name).casefold()
