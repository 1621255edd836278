"""The code itself: lint, format, types, and what must not be in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MADE = {".git", ".venv", ".host", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), pytest.param(("mypy",), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_the_tools_find_nothing(command: tuple[str, ...]) -> None:
    done = _run("-m", *command)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_core_knows_no_host() -> None:
    """Every module is imported in a fresh interpreter: none brings ComfyUI, and diffusers waits until it is used."""
    core = REPOSITORY / "crossinit_core"
    modules = sorted(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in core.rglob("*.py")
    )
    assert "crossinit_core.learning.inversion" in modules
    program = f"""
import importlib, sys
for name in {modules!r}:
    if name != "crossinit_core.__main__":
        importlib.import_module(name)
print(*sorted(set(sys.modules) & {{"comfy", "comfy_api", "folder_paths", "nodes", "server", "diffusers", "transformers"}}))
"""
    done = _run("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def _tracked() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        everything = REPOSITORY.rglob("*")
        return [path for path in everything if path.is_file() and not MADE & set(path.relative_to(REPOSITORY).parts)]
    return [path for name in done.stdout.decode().split("\0") if name and (path := REPOSITORY / name).is_file()]


def _text(path: Path) -> str | None:
    """The text of a file that git would call text."""
    raw = path.read_bytes()
    return None if b"\0" in raw else raw.decode("utf-8", errors="replace")


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    # Written in pieces, so that this file does not find itself.
    roots = [rf"(?<![\w.}}/:-])/{root}/\w" for root in ("home", "work", "root", "Users", "tmp", "mnt", "media")]
    pattern = re.compile("|".join([*roots, r"\b[A-Z]:\\" + r"\\?(?:Users|home)\b"]))
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}"
        for path in _tracked()
        for number, line in enumerate((_text(path) or "").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_text_is_utf8_with_unix_line_ends() -> None:
    found = []
    for path in _tracked():
        if b"\0" in (raw := path.read_bytes()):
            continue
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found.append(f"{path.relative_to(REPOSITORY)}: {error}")
        if b"\r" in raw:
            found.append(f"{path.relative_to(REPOSITORY)}: carriage return")
    assert not found, "\n".join(found)
