"""What to type in order to install a package into the Python that runs now: ComfyUI has a Python of its own."""

from __future__ import annotations

import sys


def pip_command(*packages: str) -> str:
    """The command that installs `packages`, requirements as pip reads them (`opencv-python-headless<5`), with this Python.

    What a terminal would split or take for a redirection stands in double quotes, which bash, cmd and PowerShell know.
    """
    return " ".join([_quoted(sys.executable or "python"), "-m pip install", *map(_quoted, packages)])


def _quoted(word: str) -> str:
    return f'"{word}"' if any(sign in word for sign in " <>&()[];,'!*|^") else word
