"""ComfyUI's folders, which its start options may have put anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import folder_paths

from ...crossinit_core.text import normal_form


def input_folder() -> Path:
    """Where people put their pictures and texts."""
    return Path(folder_paths.get_input_directory())


def output_folder() -> Path:
    """Where pictures are saved."""
    return Path(folder_paths.get_output_directory())


def models_folders(name: str) -> list[Path]:
    """The folders of a kind of files, `models/NAME` and what the user's configuration adds; the first one is the usual one.

    A kind that ComfyUI does not know gets its `models/NAME`, which is made.
    """
    if name not in folder_paths.folder_names_and_paths:
        own = Path(folder_paths.models_dir) / name
        folder_paths.add_model_folder_path(name, str(own))
        with suppress(OSError):  # some installations may not write there
            own.mkdir(parents=True, exist_ok=True)
    return [Path(folder) for folder in folder_paths.get_folder_paths(name)]


def insightface_folders() -> list[Path]:
    """Where other packs keep InsightFace's networks: `models/insightface` and what the user's configuration adds. Not made."""
    name = "insightface"
    known = folder_paths.get_folder_paths(name) if name in folder_paths.folder_names_and_paths else []
    return list(dict.fromkeys(Path(folder) for folder in (*known, Path(folder_paths.models_dir) / name)))


def embeddings_folders() -> list[Path]:
    """Where `embedding:NAME` in a prompt is looked for; files are saved in the first one."""
    return models_folders("embeddings")


def folders_with_embeddings() -> Iterator[tuple[Path, list[str]]]:
    """Every folder in which `embedding:NAME` is looked for, with the names of its files: the embeddings folders and all below
    them. One that links lead to again and again comes once; one that cannot be read is empty."""
    seen: set[str] = set()
    for root in embeddings_folders():
        for folder, below, files in os.walk(root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            yield Path(folder), files


def embedding_names() -> list[str]:
    """The files in the embeddings folders, as a list of choices shows them."""
    return folder_paths.get_filename_list("embeddings")


def embedding_files(name: str) -> list[Path]:
    """The files that `embedding:NAME` may mean, of those that stand in the list of choices."""
    wanted = normal_form(name)
    return [
        path
        for shown in embedding_names()
        if normal_form(PurePosixPath(shown.replace("\\", "/")).stem) == wanted and (path := embedding_path(shown))
    ]


def embedding_path(name: str) -> Path | None:
    """The file of such a name; None if there is none (any more)."""
    found = folder_paths.get_full_path("embeddings", name)
    return Path(found) if found else None
