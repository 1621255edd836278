"""The type checkers over what users download: see pack_types.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pack_types import PACK, check, check_with_pyright, check_with_vermin, copy_pack, program_of


def _program(name: str) -> str:
    return program_of(name) or pytest.skip(f"{name} is not installed; use: python3 run.py test")


@pytest.mark.slow
def test_the_type_checker_finds_nothing_in_the_pack(tmp_path: Path) -> None:
    copy_pack(tmp_path)
    done = check(tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_pyright_finds_nothing_in_the_core_and_the_nodes(tmp_path: Path) -> None:
    program = _program("pyright")
    copy_pack(tmp_path)
    done = check_with_pyright(program, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "0 errors" in done.stdout


def test_the_oldest_python_has_every_module(tmp_path: Path) -> None:
    program = _program("vermin")
    copy_pack(tmp_path)
    done = check_with_vermin(program, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


NEWER = {
    "import tomllib": "'tomllib' module requires !2, 3.11",
    "from datetime import UTC": 'Module "datetime" has no attribute "UTC"',
    "from typing import Self": 'Module "typing" has no attribute "Self"',
    "ValueError().add_note('')": '"ValueError" has no attribute "add_note"',
    "import hashlib\n\nhashlib.file_digest": '"file_digest"',
    "from pathlib import Path\n\nPath().walk()": '"Path" has no attribute "walk"',
    "from pathlib import Path\n\nPath().glob('*', case_sensitive=False)": 'Unexpected keyword argument "case_sensitive"',
}
"""What Python 3.10 does not have, and what a tool says of it. ruff knows what it cannot read."""


def test_what_only_newer_pythons_have_is_found(tmp_path: Path) -> None:
    """By the tools above, so that they can be believed where they find nothing."""
    program = _program("vermin")
    (tmp_path / PACK).mkdir()
    for number, source in enumerate(NEWER):
        (tmp_path / PACK / f"newer_{number}.py").write_text(f"{source}\n", encoding="utf-8")
    told = check(tmp_path).stdout + check_with_vermin(program, tmp_path).stdout
    assert [source for source, objection in NEWER.items() if objection not in told] == [], told
