"""Files that hold no token that can be used: of something else, damaged, or with code in them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from crossinit_core import load_learned_token, save_learned_token
from crossinit_core.tokens.token_files import SUFFIXES
from tests.ann import ANN, VECTORS


class Touch:
    """A pickle that, where it is obeyed, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def _flux(path: Path) -> None:
    save_file({"clip_l": torch.zeros(2, 768), "t5xxl": torch.zeros(2, 4096)}, path)


def _two_encoders(path: Path) -> None:
    save_file({"emb_params": torch.zeros(2, 768), "emb_params_2": torch.zeros(2, 1280)}, path)


def _unrelated(path: Path) -> None:
    save_file({"conv.weight": torch.zeros(2, 3), "conv.bias": torch.zeros(2)}, path)


def _nan(path: Path) -> None:
    save_file({"<x>": torch.full((2, 768), torch.nan)}, path)


def _picture(path: Path) -> None:
    save_file({"<x>": torch.zeros(3, 64, 64)}, path)


def _no_vectors(path: Path) -> None:
    save_file({"<x>": torch.zeros(0, 768)}, path)


def _no_width(path: Path) -> None:
    save_file({"<x>": torch.zeros(2, 0)}, path)


def _mixed_widths(path: Path) -> None:
    save_file({"x_v0": torch.zeros(768), "x_v1": torch.zeros(1024)}, path)


def _whole_table(path: Path) -> None:
    save_file({"<x>": torch.zeros(76, 8)}, path)


def _nothing(path: Path) -> None:
    save_file({}, path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_flux, "of another model family: beside 'clip_l' of width 768 it holds 't5xxl' of width 4096"),
        (_two_encoders, "beside 'emb_params' of width 768 it holds 'emb_params_2' of width 1280. Use one for SD 1"),
        (_unrelated, r"is no token file: its keys are conv\.bias, conv\.weight"),
        (_nan, "not numbers"),
        (_picture, r"tensors of shape \(3, 64, 64\)"),
        (_no_vectors, r"tensors of shape \(0, 768\)"),
        (_no_width, r"tensors of shape \(2, 0\)"),
        (_mixed_widths, r"\(768,\), \(1024,\)"),
        (_whole_table, r"1 to 75 vectors .* got \(76, 8\)"),
        (_nothing, "is no token file: its keys are none"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "thing.safetensors"
    write(path)
    with pytest.raises(ValueError, match=rf"'thing\.safetensors'.* {reason}"):
        load_learned_token(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([VECTORS], "holds a list"),
        ({"string_to_param": {}}, "holds 0 tensors"),
        ({"string_to_param": {"*": VECTORS, "+": VECTORS}}, "holds 2 tensors"),
        ({"string_to_param": 3}, "holds 0 tensors"),
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, "is no token file: its keys are epoch, optimizer"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    torch.save(content, tmp_path / "thing.pt")
    with pytest.raises(ValueError, match=rf"'thing\.pt'.* {reason}"):
        load_learned_token(tmp_path / "thing.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save_learned_token(ANN, tmp_path / f"x{suffix}")
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"'x\{suffix}' is damaged or no "):
            load_learned_token(path)


def test_cut_off_old_pickles_are_refused(tmp_path: Path) -> None:
    """They are refused wherever the file ends."""
    path = tmp_path / "x.pt"
    torch.save({"<ann>": torch.ones(2, 16)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"'x\.pt' (is damaged or no token file|holds more than tensors)"):
            load_learned_token(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"Dear diary,\n", b"<html><body>Not found</body></html>", b"{}", b"\0" * 64])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_text_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    """A text file may have the suffix of a token."""
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"'x\{suffix}' is damaged or no ") as caught:
        load_learned_token(path)
    assert "weights_only" not in str(caught.value), "torch's advice to trust the file must not reach the user"


@pytest.mark.parametrize("plain", [True, False], ids=["plain pickle", "torch file"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_does_not_run(tmp_path: Path, plain: bool) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "x.pt"
    content = {"<ann>": VECTORS, "extra": Touch(marker)}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"'x\.pt' holds more than tensors.* was not opened"):
        load_learned_token(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if not plain else pickle.loads(path.read_bytes())
    assert marker.exists(), "the file of this test is harmless, so the test shows nothing"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="no token file at"):
            load_learned_token(path)
