"""Lists of people as they come from spreadsheets, scripts and file systems, and what is said of those that cannot be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crossinit_core.many.manifest import read_manifest
from crossinit_core.many.people import OPTIONS


def _list(folder: Path, text: str | bytes, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _names(path: Path) -> list[str]:
    return [row.name for row in read_manifest(path, OPTIONS).rows]


def _refused(path: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_manifest(path, OPTIONS)
    message = str(caught.value)
    assert len(message) <= 600
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        "name,photos\nanna,a/1.jpg\nbob,b\n",
        "\ufeffname;photos\r\nanna;a/1.jpg\r\nbob;b\r\n",
        "Name\tPhotos\nanna\ta/1.jpg\nbob\tb",
        "photos, name\n a/1.jpg , anna\n b , bob\n",
        "\n\nname,photos\n\nanna,a/1.jpg\n,,\n  ,  \nbob,b\n\n",
        "person,photo\ranna,a/1.jpg\rbob,b\r",
        '"name","photos"\n"anna","a/1.jpg"\n"bob","b"\n',
    ],
    ids=["plain", "Excel's semicolons", "tabs", "other order and spaces", "empty rows", "old Mac", "quotes"],
)
def test_a_spreadsheets_list_is_read(tmp_path: Path, text: str) -> None:
    rows = read_manifest(_list(tmp_path, text), OPTIONS).rows
    assert [(row.name, row.photos) for row in rows] == [
        ("anna", (tmp_path / "a/1.jpg",)),
        ("bob", (tmp_path / "b",)),
    ]


def test_utf16_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = "name\tphotos\nZoë\tz.jpg\n".encode("utf-16")
    assert _names(_list(tmp_path, text)) == ["Zoë"]


def test_several_photos_and_options_of_a_person(tmp_path: Path) -> None:
    (tmp_path / "odd;name.jpg").touch()
    text = "name,photos,Batch-Size,words\nanna,a.jpg|b.jpg; c.jpg|odd;name.jpg,4,\nbob,b.jpg,,old man\n"
    anna, bob = read_manifest(_list(tmp_path, text), OPTIONS).rows
    assert [path.name for path in anna.photos] == ["a.jpg", "b.jpg", "c.jpg", "odd;name.jpg"]
    assert (anna.options, bob.options) == ({"batch_size": "4"}, {"words": "old man"})


def test_json_lines_are_read(tmp_path: Path) -> None:
    lines = [{"name": "anna", "photos": ["a.jpg", "b.jpg"], "steps": 25}, {"name": "bob", "photos": "b"}]
    path = _list(tmp_path, "\n\n".join(json.dumps(line) for line in lines), "people.jsonl")
    anna, bob = read_manifest(path, OPTIONS).rows
    assert (anna.name, len(anna.photos), anna.options) == ("anna", 2, {"steps": 25})
    assert bob.photos == (tmp_path / "b",)
    assert "2 empty rows" not in " ".join(read_manifest(path, OPTIONS).notes)
    assert "1 empty row" in " ".join(read_manifest(path, OPTIONS).notes)


def test_backslashes_lead_to_photos_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").touch()
    [row] = read_manifest(_list(tmp_path, "name,photos\nanna,a\\1.jpg\n"), OPTIONS).rows
    assert row.photos[0].is_file()


@pytest.mark.skipif(os.name == "nt", reason="there these paths are right")
@pytest.mark.parametrize("path", ["C:\\photos\\anna.jpg", "\\\\server\\photos\\anna", "d:\\x"])
def test_paths_of_another_system_are_named(tmp_path: Path, path: str) -> None:
    message = _refused(_list(tmp_path, f"name,photos\nanna,{path}\n"))
    assert "line 2" in message
    assert "is a path of Windows" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "names nobody"),
        ("name,photos\n\n", "names nobody"),
        ("anna,a.jpg\nbob,b.jpg\n", "no column 'name'"),
        ("name,pictures\nanna,a.jpg\n", "no column 'photos'"),
        ("name,photos,colour\nanna,a.jpg,red\n", "'colour', which is not known"),
        ("name,photos,name\nanna,a.jpg,bob\n", "two columns 'name'"),
        ("name,photos\nanna,a.jpg,b.jpg\n", "line 2, has 3 cells"),
        ('name,photos\nanna,"a.jpg\n', "is not CSV"),
        ("name,photos\n,a.jpg\n", "line 2, has no name"),
        ("name,photos\nanna,\n", "line 2, has no photos"),
        ("name,photos\n???,a.jpg\n", "no letter and no digit"),
        ("name,photos\nanna,a\nbob,b\nanna,c\n", "line 2 and line 4"),
        ("name,photos\nAnna,a\nanna,b\n", "(Anna and anna)"),
        ("name,photos\nAnna Lee,a\nAnna/Lee,b\n", "'Anna-Lee.safetensors'"),
        ("name,photos\nJosé,a\nJose\u0301,b\n", "share the file"),
        ("name,photos\nan\u200bna,a\nanna,b\n", "share the file"),
        (b"name,photos\nZo\xeb,a\n", "is not UTF-8 text: line 2"),
        (b"name,photos\nan\x00na,a\n", "NUL"),
        ('[{"name": "anna", "photos": "a"}]', "is one JSON list"),
        ('{"name": "anna", "photos": "a"}\n{"name": \n', "line 2, is not JSON"),
        ('{"name": "anna", "photos": "a"}\n"bob"\n', "an object was expected"),
        ('{"name": "anna", "photos": [1]}', "files or a folder were expected"),
        ('{"name": 5, "photos": "a"}', "has no name"),
        ('{"name": "anna", "Name": "bob", "photos": "a"}', "two values for 'name'"),
        ('{"name": "a\\ud800", "photos": "a"}', "half of a character"),
        ('{"name": "anna", "photos": "a\\u0000b"}', "NUL character"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "is not JSON"),
        ('{"name": "anna", "photos": "a", "steps": ' + "9" * 5000 + "}", "is not JSON"),
    ],
)
def test_a_bad_list_gets_one_clear_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    message = _refused(_list(tmp_path, text))
    assert expected in message
    assert "people.csv" in message


def test_names_become_words_of_a_prompt(tmp_path: Path) -> None:
    manifest = read_manifest(_list(tmp_path, "name,photos\nAnna Lee,a\n../up,b\ncon,c\nx.safetensors,d\n"), OPTIONS)
    assert [row.name for row in manifest.rows] == ["Anna-Lee", "up", "my-con", "x"]
    [note] = manifest.notes
    assert note.startswith("4 names cannot be")
    assert "'Anna Lee' is Anna-Lee" in note


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    assert "There is no list of people" in _refused(tmp_path / "none.csv")


def test_ten_thousand_rows_are_read_at_once(tmp_path: Path) -> None:
    text = "name,photos\n" + "".join(f"person {number},photos/{number}\n" for number in range(10_000))
    manifest = read_manifest(_list(tmp_path, text), OPTIONS)
    assert len({row.name for row in manifest.rows}) == 10_000
    assert len(manifest.notes) == 1
    assert len(manifest.notes[0]) < 600


def test_each_folder_is_a_person(tmp_path: Path) -> None:
    for name in ("Bob", "anna", "anna_mask", ".hidden", "__MACOSX", "Zoë Lee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    (tmp_path / "loose.jpg").touch()
    manifest = read_manifest(tmp_path)
    assert sorted(row.name for row in manifest.rows) == ["Bob", "Zoë-Lee", "anna"]
    notes = " ".join(manifest.notes)
    assert "1 mask folder beside the people's folders ('anna_mask')" in notes
    assert "1 loose file" in notes


def test_a_folder_without_people_says_what_it_holds(tmp_path: Path) -> None:
    assert "holds nothing and no folders" in _refused(tmp_path)
    (tmp_path / "1.jpg").touch()
    assert "holds 1 file and no folders" in _refused(tmp_path)
