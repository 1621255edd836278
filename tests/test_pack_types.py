"""The type checker over `nodes/`, which mypy cannot take as it takes the other folders: see pack_types.py."""

from __future__ import annotations

from pathlib import Path

from tests.pack_types import check


def test_the_type_checker_finds_nothing_in_the_nodes(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
