"""Lists of names: what the bundled one holds, and what a user's own file may look like."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

from crossinit_core import load_celebrity_names
from crossinit_core.celebrity_names import BUNDLED_LIST, parse_celebrity_names


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "my names.txt"
    path.write_bytes(content)
    return path


def test_the_bundled_list_is_long_and_clean() -> None:
    lines = BUNDLED_LIST.read_bytes().decode("utf-8").splitlines()
    names = load_celebrity_names().names
    assert len(names) >= 600
    assert list(names) == lines, "a blank line, a comment, or a space too many"
    assert len({name.casefold() for name in names}) == len(names), "a name occurs twice"
    assert all(any(letter.isalpha() for letter in name) for name in names)
    assert all(name == unicodedata.normalize("NFC", name) for name in names)


def test_the_bundled_list_is_sorted() -> None:
    names = load_celebrity_names().names
    assert list(names) == sorted(names, key=str.casefold)


def test_the_bundled_list_is_the_default() -> None:
    """The bundled list is what one gets without a path."""
    bundled = load_celebrity_names()
    assert bundled.names == load_celebrity_names(BUNDLED_LIST).names
    assert bundled.source == "bundled"


def test_the_published_list_is_read_whole(reference: Path) -> None:
    names = load_celebrity_names(reference / "celebrity-names.txt")
    assert len(names) == 691
    assert len(set(names.names)) == 646
    assert "Beyoncé" in names.names


def test_order_and_duplicates_are_kept(tmp_path: Path) -> None:
    names = load_celebrity_names(_file(tmp_path, b"Madonna\nCher\nMadonna\n"))
    assert names.names == ("Madonna", "Cher", "Madonna")
    assert len(names) == 3
    assert names.source == "my names.txt"


def test_blank_lines_comments_and_spaces_do_not_count(tmp_path: Path) -> None:
    text = "# singers\n\n  Cher  \n\t\nCeline\tDion\n   # not this one\nNumber #1 Fan"
    assert load_celebrity_names(_file(tmp_path, text.encode())).names == ("Cher", "Celine Dion", "Number #1 Fan")


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param("Beyoncé\r\n李小龍\r\n".encode(), id="windows line ends"),
        pytest.param("Beyoncé\r李小龍".encode(), id="old mac line ends"),
        pytest.param("Beyoncé\n李小龍\n".encode("utf-8-sig"), id="byte order mark"),
        pytest.param("Beyoncé\r\n李小龍\r\n".encode("utf-16"), id="utf-16"),
        pytest.param(b"\xfe\xff" + "Beyoncé\r\n李小龍\r\n".encode("utf-16-be"), id="utf-16 big endian"),
    ],
)
def test_files_of_every_editor_are_read(tmp_path: Path, encoded: bytes) -> None:
    assert load_celebrity_names(_file(tmp_path, encoded)).names == ("Beyoncé", "李小龍")


def test_the_wrong_encoding_is_refused_with_the_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "Cher\nCeline Dion\nBeyoncé\nAdele\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"'my names\.txt' is not UTF-8 text: line 3 holds the byte 0xe9"):
        load_celebrity_names(path)


def test_the_line_is_right_behind_a_byte_order_mark_too(tmp_path: Path) -> None:
    path = _file(tmp_path, b"\xef\xbb\xbfCher\nAb\xe9\n\n\n")
    with pytest.raises(ValueError, match=r"is not UTF-8 text: line 2 holds the byte 0xe9"):
        load_celebrity_names(path)


def test_a_damaged_file_in_utf_16_is_not_called_utf_8(tmp_path: Path) -> None:
    """Half of a pair of surrogates, as a file that was cut off ends with."""
    path = _file(tmp_path, "Cher\nAdele\n".encode("utf-16") + b"\x3d\xd8")
    with pytest.raises(ValueError, match=r"is not UTF-16 text: line 3 holds the byte 0x3d\. Save the file as UTF-8"):
        load_celebrity_names(path)


@pytest.mark.parametrize("content", [b"Cher\0\0\0Adele\n", "Cher".encode("utf-16-le"), "Cher".encode("utf-32")])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"'my names\.txt' is not a text file"):
        load_celebrity_names(_file(tmp_path, content))


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"# only\n# comments\n", b"\xef\xbb\xbf\n"])
def test_a_list_without_a_name_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"'my names\.txt' holds no name"):
        load_celebrity_names(_file(tmp_path, content))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no list of names at '.*gone\.txt'"):
        load_celebrity_names(tmp_path / "gone.txt")
    with pytest.raises(FileNotFoundError, match="no list of names at"):
        load_celebrity_names(tmp_path)


def test_the_hash_tells_lists_apart_and_nothing_else(tmp_path: Path) -> None:
    one = load_celebrity_names(_file(tmp_path, b"Cher\r\nAdele"))
    assert one.sha256 == parse_celebrity_names("# the same\nCher\n\nAdele\n").sha256
    assert one.sha256 != parse_celebrity_names("Adele\nCher\n").sha256
    assert one.sha256 != parse_celebrity_names("Cher\nAdele\nAdele\n").sha256


def test_two_lists_are_put_together_in_order() -> None:
    both = parse_celebrity_names("Cher\nAdele").plus(parse_celebrity_names("Adele\nBjörk"))
    assert both.names == ("Cher", "Adele", "Adele", "Björk")


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\u00a0"])
def test_only_line_ends_end_a_name(tmp_path: Path, inside: str) -> None:
    names = load_celebrity_names(_file(tmp_path, f"Ada Lovelace\r\nAlan{inside}Turing\rCher\n".encode()))
    assert names.names == ("Ada Lovelace", "Alan Turing", "Cher")


def test_names_that_look_alike_are_one() -> None:
    names = parse_celebrity_names("Beyonc\u00e9\nBeyonce\u0301\n\ufeffBeyon\u200bc\u00e9\n\u200b\n\ufeff# no").names
    assert set(names) == {"Beyonc\u00e9"} and len(names) == 3


@pytest.mark.parametrize("text", ["Cher\n\ud83d", "Cher\0"])
def test_names_that_cannot_be_sent_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"The list of names 'text' holds (half of a character|a NUL)"):
        parse_celebrity_names(text)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files whose names are not text")
def test_a_list_whose_own_name_is_not_text_is_left_out(pack: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Cher", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("Cher", encoding="utf-8")
    assert list(pack.nodes.files.text_files([tmp_path])) == ["mine.txt"]
