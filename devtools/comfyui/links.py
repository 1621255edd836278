"""The private base directory of a ComfyUI server, and the link that brings this pack into it.

Standard library only: `run.py` needs it before anything is installed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
"""The root of this repository, which is the pack."""

PACK_NAME = "comfyui-crossinit"
"""Its folder in custom_nodes."""

_BASE_FOLDERS = (
    "models/checkpoints",
    "models/embeddings",
    "models/loras",
    "models/vae",
    "custom_nodes",
    "input",
    "output",
    "user",
    "temp",
)
# What a copy must leave out: .host holds the base directory itself, so copying it would never end.
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".host", ".dev*", "demo-output", "test-output", "__pycache__", ".*_cache"
)
_COPY_MARK = ".copied-by-run-py"


def prepare_base(base: Path, pack_root: Path, name: str = PACK_NAME) -> Path:
    """Make `base` usable as ComfyUI's `--base-directory`, with the pack in its custom_nodes.

    Returns the path of the pack inside `base`. Folders and files that are there already are kept.
    """
    for folder in _BASE_FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    return link_pack(pack_root, base / "custom_nodes", name)


def link_pack(pack_root: Path, custom_nodes: Path, name: str = PACK_NAME) -> Path:
    """Bring `pack_root` into `custom_nodes` as `name`: a symlink, on Windows a junction, else a copy.

    A copy is made anew at every call, so it never runs stale code. Raises FileExistsError where
    `name` is a folder that this function did not make.
    """
    link = custom_nodes / name
    if _is_link(link):
        if _same_place(link, pack_root):
            return link
        _remove_link(link)
    elif link.exists():
        if not (link / _COPY_MARK).is_file():
            raise FileExistsError(
                f"{link} exists and is neither a link nor a copy made by run.py. "
                "Move it away, or give another base directory."
            )
        shutil.rmtree(link)

    try:
        _make_link(pack_root, link)
    except OSError:  # no right to make links, or a file system without them
        shutil.copytree(pack_root, link, ignore=_NOT_COPIED)
        (link / _COPY_MARK).write_text("Made anew by run.py at every start.\n", encoding="utf-8")
    return link


def _make_link(target: Path, link: Path) -> None:
    if os.name == "nt":
        # A symlink needs administrator rights or developer mode on Windows; a junction needs neither.
        import _winapi

        _winapi.CreateJunction(str(target.resolve()), str(link))  # type: ignore[attr-defined,unused-ignore]
    else:
        link.symlink_to(target.resolve(), target_is_directory=True)


def _is_link(path: Path) -> bool:
    try:
        path.readlink()  # unlike Path.is_symlink, this also knows junctions on Python 3.11
    except OSError:
        return False
    return True


def _remove_link(link: Path) -> None:
    if link.is_symlink():
        link.unlink()
    else:
        link.rmdir()  # a junction: removes the junction, not what it leads to


def _same_place(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)
