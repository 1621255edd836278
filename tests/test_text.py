"""Texts of people: read, cut into lines, compared and quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossinit_core.files import is_windows_device
from crossinit_core.text import check_text, lines_of, normal_form, quoted, read_text


def test_only_line_ends_end_a_line() -> None:
    text = "one\u2028still one\u2029\x85\x0b\x0c\x1c\n two\r\nthree\rfour\n\n"
    assert lines_of(text) == ["one\u2028still one\u2029\x85\x0b\x0c\x1c", " two", "three", "four", ""]
    assert lines_of("") == []


def test_names_that_look_alike_are_one() -> None:
    assert normal_form("Jose\u0301") == normal_form("Jos\u00e9") == normal_form("\ufeffJos\u200b\u00e9") == "Jos\u00e9"


@pytest.mark.parametrize("text", ["a \ud83d person", "a \udc00", "a \0"])
def test_what_cannot_be_sent_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"The prompt holds .* at place 3"):
        check_text(text, "The prompt")
    assert check_text("a 😀 person\u2028", "The prompt") == "a 😀 person\u2028"


def test_a_quote_is_short_and_visible() -> None:
    assert quoted("line\nbreak\x1b[31m\u202e") == "line?break?[31m?"
    assert len(quoted("x" * 5_000_000)) <= 120
    assert quoted("anna") == "anna"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_every_marked_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(("\ufeff" * (encoding == "utf-16-le") + "José\nZoë").encode(encoding))
    assert read_text(path, "list of names") == "José\nZoë"


def test_no_text_is_refused_by_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"one\r\ntwo\nJos\xe9\n")
    with pytest.raises(ValueError, match=r"'names.txt' is not UTF-8 text: line 3 holds the byte 0xe9"):
        read_text(path, "list of names")
    path.write_bytes(b"PK\0\0")
    with pytest.raises(ValueError, match="not a text file"):
        read_text(path, "list of names")
    with pytest.raises(FileNotFoundError, match="no list of names at"):
        read_text(tmp_path / "none.txt", "list of names")


@pytest.mark.parametrize("name", ["CONIN$", "conout$", "COM\u00b9", "lpt\u00b3.png", "aux .txt", "nul.tar.gz"])
def test_devices_of_windows(name: str) -> None:
    assert is_windows_device(name)
    assert not is_windows_device("comet")
