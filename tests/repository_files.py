"""The files of this repository, and those of them that go into the archive for ComfyUI's registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pathspec

REPOSITORY = Path(__file__).resolve().parents[1]
MADE = {".git", ".venv", ".host", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}


def tracked_files() -> list[Path]:
    """Every file that git tracks; in a copy without git, every file but those that tools make."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        everything = REPOSITORY.rglob("*")
        return [path for path in everything if path.is_file() and not MADE & set(path.relative_to(REPOSITORY).parts)]
    return [path for name in done.stdout.decode().split("\0") if name and (path := REPOSITORY / name).is_file()]


def text_of(path: Path) -> str | None:
    """The text of a file that git would call text."""
    raw = path.read_bytes()
    return None if b"\0" in raw else raw.decode("utf-8", errors="replace")


def archived_files() -> list[str]:
    """The paths in the archive: what git tracks and .comfyignore, which reads like .gitignore, does not leave out."""
    ignored = pathspec.GitIgnoreSpec.from_lines((REPOSITORY / ".comfyignore").read_text(encoding="utf-8").splitlines())
    names = [path.relative_to(REPOSITORY).as_posix() for path in tracked_files()]
    return sorted(name for name in names if not ignored.match_file(name))
