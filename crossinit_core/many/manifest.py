"""Who is to be learned: a folder for each person, or a list in a file (CSV or JSON lines).

Nothing is opened here but the list itself. What is wrong with it is said before anything long begins: each problem in one line
that names the row.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..photos.folders import BESIDE_PHOTOS, MASK_FOLDER_ENDINGS, MASK_FOLDERS, SYSTEM_FOLDERS
from ..text import check_text, lines_of, normal_form, quoted, read_text
from ..tokens.learned_token import check_token_name, suggest_token_name

NAME, PHOTOS = "name", "photos"
_ALIASES = {"photo": PHOTOS, "person": NAME}
_DELIMITERS = ",;\t|"
_BETWEEN_PHOTOS = re.compile(r"[|\r\n]")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_MOST_NAMED = 3
_EXAMPLE = '"name,photos" and then one person a line: "anna,photos/anna"'


@dataclass(frozen=True)
class Row:
    """A person as the list names them. `name` can stand in a prompt and in a file name; `options` are as they were written."""

    name: str
    photos: tuple[Path, ...]
    options: Mapping[str, Any]
    where: str
    """For messages: `row 7`, or the folder's name."""


@dataclass(frozen=True)
class Manifest:
    """All people in their order, and what the user should know of the list, a line each."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def read_manifest(source: Path, options: Iterable[str] = ()) -> Manifest:
    """The people of a folder of folders, or of a CSV or JSON-lines file; `options` are the columns that it may have besides.

    A CSV file's first line names the columns. Commas, semicolons, tabs or `|` separate them, and photos in one cell are
    separated by `|`, `;` or a line break. Paths are relative to the file. Raises FileNotFoundError, or ValueError of one line that
    says which row is wrong and what was expected.
    """
    if source.is_dir():
        return _of_folder(source)
    text = read_text(source, "list of people")
    shown = f"The list of people '{quoted(source.name, 80)}'"
    known = {NAME, PHOTOS, *options}
    start = text.lstrip()[:1]
    if start == "[":
        raise ValueError(f"{shown} is one JSON list. Write one object a line instead (.jsonl), without the brackets.")
    records = _json_lines(text, shown) if start == "{" else _csv_rows(text, shown)
    rows: list[Row] = []
    renamed: list[str] = []
    empty = 0
    for where, record in records:
        if not any(_filled(value) for value in record.values()):
            empty += 1
            continue
        row = _row(record, f"{shown}, {where}", known, source.parent)
        if (given := str(record[NAME]).strip()) != row.name:
            renamed.append(f"'{quoted(given, 40)}' is {quoted(row.name, 40)}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{shown} names nobody. Write {_EXAMPLE}.")
    _check_names(rows, shown)
    notes = []
    if empty:
        notes.append(f"{shown} has {_count(empty, 'empty row')}, which {'is' if empty == 1 else 'are'} left out.")
    return Manifest(tuple(rows), (*notes, *_renaming(renamed)))


def _of_folder(folder: Path) -> Manifest:
    shown = f"The folder of people '{quoted(folder, 150)}'"
    entries = sorted(entry for entry in _entries(folder, shown) if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and entry.name.lower() not in SYSTEM_FOLDERS]
    names = {_key(entry.name) for entry in folders}
    masks = [entry for entry in folders if _holds_masks(entry.name, names)]
    people = [entry for entry in folders if entry not in masks]
    photos = [entry for entry in entries if entry.suffix.lower() not in BESIDE_PHOTOS and entry.is_file()]
    if not people:
        what = _count(len(photos), "file") if photos else "nothing"
        raise ValueError(
            f"{shown} holds {what} and no folders. Put the photos of each person into a folder of their own."
        )
    rows = []
    renamed = []
    for entry in people:
        row = Row(
            _usable(entry.name, f"{shown}, '{quoted(entry.name, 60)}'"), (entry,), {}, f"'{quoted(entry.name, 60)}'"
        )
        if row.name != entry.name:
            renamed.append(f"'{quoted(entry.name, 40)}' is {quoted(row.name, 40)}")
        rows.append(row)
    _check_names(rows, shown)
    notes = _renaming(renamed)
    for left, what in ((masks, "mask folder"), (photos, "loose file")):
        if left:
            names_left = _some([f"'{quoted(one.name, 40)}'" for one in left])
            notes.append(f"Not used: {_count(len(left), what)} beside the people's folders ({names_left}).")
    return Manifest(tuple(rows), tuple(notes))


def _entries(folder: Path, shown: str) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{shown} cannot be read ({quoted(error.strerror or error)}).") from error


def _holds_masks(name: str, names: set[str]) -> bool:
    """Whether a folder beside people's holds masks: `anna_mask` beside `anna`, or `masks`."""
    key = _key(name)
    return key in MASK_FOLDERS or any(
        key.endswith(ending) and key.removesuffix(ending) in names for ending in MASK_FOLDER_ENDINGS
    )


def _json_lines(text: str, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            yield f"line {number}", {}
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{shown}, line {number}, is not JSON ({quoted(getattr(error, 'msg', type(error).__name__), 80)}): "
                f"'{quoted(line, 80)}'. Write one object on each line."
            ) from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{shown}, line {number}, is '{quoted(line, 80)}', but an object was expected, such as "
                '{"name": "anna", "photos": ["anna/1.jpg"]}.'
            )
        yield f"line {number}", _named(record, f"{shown}, line {number},")


def _csv_rows(text: str, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    first = next((line for line in lines_of(text) if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    header: list[str] | None = None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            where = f"line {reader.line_num}"
            if header is None:
                if any(cell.strip() for cell in cells):
                    header = [_column(cell) for cell in cells]
                    _check_header(header, shown)
                continue
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise ValueError(
                    f"{shown}, {where}, has {len(cells)} cells, but the first line names {len(header)} columns. Put a cell that "
                    f"holds '{delimiter if delimiter != chr(9) else 'a tab'}' into double quotes."
                )
            yield where, {column: cell.strip() for column, cell in zip(header, cells, strict=False) if column}
    except csv.Error as error:
        raise ValueError(
            f"{shown}, line {reader.line_num}, is not CSV ({quoted(error, 80)}). Check its quotes."
        ) from None


def _check_header(header: Sequence[str], shown: str) -> None:
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise ValueError(f"{shown} has two columns '{quoted(twice[0], 60)}'. Leave one of them out.")
    missing = [column for column in (NAME, PHOTOS) if column not in header]
    if missing:
        found = ", ".join(f"'{quoted(column, 40)}'" for column in header[:6])
        raise ValueError(
            f"{shown} has no column '{missing[0]}': its first line names {found}. It must name the columns: {_EXAMPLE}."
        )


def _named(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in record.items():
        column = _column(key)
        if column in named:
            raise ValueError(f"{where} has two values for '{quoted(column, 60)}'. Leave one of them out.")
        named[column] = value
    return named


def _column(text: str) -> str:
    column = "_".join(normal_form(text).casefold().replace("-", " ").replace("_", " ").split())
    return _ALIASES.get(column, column)


def _row(record: Mapping[str, Any], where: str, known: set[str], home: Path) -> Row:
    for column in record:
        if column not in known:
            raise ValueError(
                f"{where}, has the column '{quoted(column, 60)}', which is not known. The columns are {', '.join(sorted(known))}."
            )
    name = record.get(NAME)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}, has no name. Write one, as text.")
    usable = _usable(name, where)
    photos = _photos(record.get(PHOTOS), where, home)
    options = {key: value for key, value in record.items() if key not in (NAME, PHOTOS) and _filled(value)}
    return Row(usable, photos, options, where)


def _usable(name: str, where: str) -> str:
    """The nearest name that can stand in a prompt and in a file name."""
    check_text(name, f"{where}: the name")
    try:
        return check_token_name(name.strip())
    except ValueError as error:
        if not any(character.isalnum() for character in name):
            raise ValueError(
                f"{where}: the name '{quoted(name, 60)}' has no letter and no digit. Write another."
            ) from error
        return suggest_token_name(name)


def _photos(given: Any, where: str, home: Path) -> tuple[Path, ...]:
    texts: list[Any] = list(given) if isinstance(given, list) else [given]
    if any(not isinstance(text, str) for text in texts) or not any(text.strip() for text in texts):
        what = "no photos" if given in (None, "", []) else f"'{quoted(given, 60)}' for photos"
        raise ValueError(f"{where}, has {what}, but files or a folder were expected.")
    for text in texts:
        check_text(text, f"{where}: the path of a photo")
    if isinstance(given, str):
        texts = _BETWEEN_PHOTOS.split(given)
        texts = [part for text in texts for part in ([text] if (home / text.strip()).exists() else text.split(";"))]
    return tuple(_path(text.strip(), where, home) for text in texts if text.strip())


def _path(text: str, where: str, home: Path) -> Path:
    path = home / text
    if os.name != "nt" and "\\" in text and not path.exists():
        if _WINDOWS_PATH.match(text):
            raise ValueError(
                f"{where}: '{quoted(text, 120)}' is a path of Windows, which this computer does not have. Write paths that are "
                "relative to the list, with '/': they work everywhere."
            )
        path = home / text.replace("\\", "/")
    return path


def _check_names(rows: Sequence[Row], shown: str) -> None:
    """Two people must not share a file, on systems that do not tell capitals either."""
    seen: dict[str, Row] = {}
    for row in rows:
        before = seen.setdefault(_key(row.name), row)
        if before is not row:
            places = f"{before.where.removeprefix(f'{shown}, ')} and {row.where.removeprefix(f'{shown}, ')}"
            alike = "" if before.name == row.name else f" ({quoted(before.name, 40)} and {quoted(row.name, 40)})"
            raise ValueError(
                f"{shown} has two people who would share the file '{quoted(row.name, 60)}.safetensors'{alike}: {places}. "
                "Give one of them another name."
            )


def _key(name: str) -> str:
    return normal_form(name).casefold()


def _filled(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None and value != []


def _renaming(renamed: Sequence[str]) -> list[str]:
    if not renamed:
        return []
    return [
        f"{_count(len(renamed), 'name')} cannot be a file's name and a word of a prompt, and were changed: {_some(renamed)}."
    ]


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return f"{', '.join(texts[:_MOST_NAMED])}{more}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
