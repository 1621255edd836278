"""What to type in order to install a package into the Python that runs now: ComfyUI has a Python of its own."""

from __future__ import annotations

import sys
from pathlib import Path


def pip_command(*packages: str) -> str:
    """The command that installs `packages`, requirements as pip reads them (`opencv-python-headless<5`), with this Python.

    What a terminal would split or take for a redirection stands in double quotes, which bash, cmd and PowerShell know.
    """
    return " ".join([_quoted(sys.executable or "python"), "-m pip install", *map(_quoted, packages)])


def _quoted(word: str) -> str:
    return f'"{word}"' if any(sign in word for sign in " <>&()[];,'!*|^") else word


def install_extra(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, `cli` for instance, with the Python that runs now."""
    root = Path(__file__).resolve().parents[1]
    source = str(root) if (root / "pyproject.toml").is_file() else "crossinit"  # pip knows it: it lies in site-packages
    return pip_command(f"{source}[{extra}]")
