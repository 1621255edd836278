"""The type checkers over what users download: see pack_types.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pack_types import check, check_with_pyright, pyright_program


def test_the_type_checker_finds_nothing_in_the_nodes(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_pyright_finds_nothing_in_the_core_and_the_nodes(tmp_path: Path) -> None:
    program = pyright_program()
    if program is None:
        pytest.skip('pyright is not installed: pip install "pyright[nodejs]"')
    done = check_with_pyright(program, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "0 errors" in done.stdout
