"""The version of the pack. Its one source is `version` in pyproject.toml."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

NAME = "crossinit"


def read_version(root: Path) -> str:
    """The version in `root`/pyproject.toml, for instance `0.1.0`; without such a file, that of the installed package.

    A clone and a folder in ComfyUI's `custom_nodes` have pyproject.toml beside the core, and pip knows nothing of them.
    What pip installed lies in `site-packages`, where there is no pyproject.toml of ours. A copy of the core that is
    neither, in another program for instance, is of an unknown version.
    """
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == NAME:
            return str(project["version"])
    except (OSError, KeyError, ValueError):  # absent, of another kind, or not TOML
        pass
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


__version__ = read_version(Path(__file__).resolve().parents[1])
