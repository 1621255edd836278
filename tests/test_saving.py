"""A token whose place went away is kept elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossinit_core import LearnedToken, load_learned_token
from crossinit_core.tokens.saving import KeptElsewhereError, save_or_keep


@pytest.fixture
def token() -> LearnedToken:
    return LearnedToken(torch.randn(2, 8), "anna", "width-8")


def test_a_place_in_order_is_used(token: LearnedToken, tmp_path: Path) -> None:
    path = tmp_path / "here" / "anna.safetensors"
    assert save_or_keep(token, path, [tmp_path / "there"]) == path
    assert not (tmp_path / "there").exists()


def test_a_lost_place_costs_nothing(token: LearnedToken, tmp_path: Path) -> None:
    """A folder that became a file; of the other places the first is no better, and the second holds somebody."""
    blocked, kept = tmp_path / "here", tmp_path / "kept"
    blocked.write_text("a file")
    kept.mkdir()
    (kept / "anna.safetensors").write_bytes(b"somebody else")
    with pytest.raises(KeptElsewhereError) as caught:
        save_or_keep(token, blocked / "anna.safetensors", [blocked, kept])
    assert caught.value.path == kept / "anna-2.safetensors"
    assert str(caught.value.path) in str(caught.value) and len(str(caught.value)) <= 600
    assert torch.equal(load_learned_token(caught.value.path).vectors, token.vectors)
    assert (kept / "anna.safetensors").read_bytes() == b"somebody else"


def test_the_first_reason_is_told_if_no_place_is_left(token: LearnedToken, tmp_path: Path) -> None:
    blocked = tmp_path / "here"
    blocked.write_text("a file")
    with pytest.raises(RuntimeError, match="nor anywhere else") as caught:
        save_or_keep(token, blocked / "anna.safetensors", [blocked])
    assert isinstance(caught.value.__cause__, OSError) and not isinstance(caught.value, KeptElsewhereError)
