"""Thousands of damaged token files: each is a token, or one line that names the file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossinit_core import load_learned_token
from devtools.hostile.token_files import damaged, damaged_files, valid_files

FILES = valid_files()


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        token = load_learned_token(path)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert path.name in text and len(text) <= 600 and text.isprintable(), text
    else:
        assert 1 <= len(token.vectors) <= 75 and token.vectors.dtype == torch.float32
        assert torch.isfinite(token.vectors).all()
        assert token.name == path.stem


@pytest.mark.parametrize("name", FILES)
def test_files_for_damage_are_read_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    token = load_learned_token(tmp_path / name)
    assert len(token.vectors) == 2 and token.widths == ((16, 32) if name.startswith("two") else (16,))


@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_give_one_line(tmp_path: Path, seed: int) -> None:
    for (name, content), _ in zip(damaged_files(seed), range(2500), strict=False):
        check(tmp_path / f"x{Path(name).suffix}", content)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32), st.binary(max_size=64), st.floats(0, 1))
def test_any_bytes_in_a_file_give_one_line(tmp_path: Path, name: str, seed: int, put: bytes, where: float) -> None:
    content = damaged(FILES[name], random.Random(seed))
    place = int(where * len(content))
    check(tmp_path / "x.pt", content[:place] + put + content[place + len(put) :])


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02"]
    ),
    st.binary(max_size=300),
)
def test_any_bytes_at_all_give_one_line(tmp_path: Path, start: bytes, content: bytes) -> None:
    check(tmp_path / "x.safetensors", start + content)
