"""The version of the pack. Its one source is `version` in pyproject.toml."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

NAME = "crossinit"

# Python 3.10 has no TOML parser, and ComfyUI brings none. Two lines of a file of our own need none.
_PROJECT = re.compile(r"^\[project\][ \t]*(?:#.*?)?$(.*?)(?=^\[|\Z)", re.MULTILINE | re.DOTALL)
_FACT = re.compile(r"""^(name|version)\s*=\s*(["'])(.*?)\2""", re.MULTILINE)


def read_version(root: Path) -> str:
    """The version in `root`/pyproject.toml, for instance `0.1.0`; without such a file, that of the installed package.

    A clone and a folder in ComfyUI's `custom_nodes` have pyproject.toml beside the core, and pip knows nothing of them.
    What pip installed lies in `site-packages`, where there is no pyproject.toml of ours. A copy of the core that is
    neither, in another program for instance, is of an unknown version.
    """
    try:
        project = _PROJECT.search((root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or not UTF-8
        project = None
    facts = {key: value for key, _, value in _FACT.findall(project[1])} if project else {}
    if facts.get("name") == NAME and "version" in facts:
        return str(facts["version"])
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


__version__ = read_version(Path(__file__).resolve().parents[1])
