"""A person as a worker learns them: photos, settings, start, and by what they are known again when they are finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..celebrity_names import load_celebrity_names
from ..families import base_of_widths
from ..initialization import START_STATES, StartStates
from ..learning.settings import InversionSettings, from_preset, presets_of
from ..models.checkpoint_file import is_checkpoint
from ..precision import Precision
from ..prompts import MAX_VECTORS
from ..text import check_text, quoted
from .manifest import Row

_MOST_STEPS = 1_000_000
_MOST_SAMPLES = 4096
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt")
_SAMPLE = 1 << 16
_YES, _NO = ("yes", "true", "on"), ("no", "false", "off")


@dataclass(frozen=True)
class Start:
    """Where learning begins: `words`, or a list of names in the file `names`, or the bundled one."""

    words: str | None = None
    names: Path | None = None
    vectors: int | None = None
    states: StartStates = "last"


@dataclass(frozen=True)
class Person:
    """What a worker needs to know of a person.

    `face` None takes photos as they are; otherwise they are framed around the face of that number, 1 the largest, and 0 the
    only one. `job` is JSON that says what was asked for, as the token's file keeps it.
    """

    name: str
    photos: tuple[Path, ...]
    settings: InversionSettings
    start: Start
    face: int | None
    job: str


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    if isinstance(value, str) and len(value) > 30:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and len(value) > 60):
        raise ValueError
    return float(value.replace(",", ".") if isinstance(value, str) else value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return check_text(value, "the text")


def _face(value: Any) -> int | None:
    text = str(value).strip().casefold()
    if value is False or text in _NO:
        return None
    number = 0 if value is True or text in _YES else _whole(value)
    if not 0 <= number <= 1000:
        raise ValueError
    return number


_SETTINGS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("steps", "seed", "batch_size", "micro_batch_size", "resolution"), _whole),
    **dict.fromkeys(("learning_rate", "regularization", "weight_decay", "flip_probability", "prior"), _number),
    **dict.fromkeys(("regularizer", "method", "schedule"), _text),
}
OPTIONS: dict[str, Callable[[Any], Any]] = {
    **_SETTINGS,
    **dict.fromkeys(("preset", "words", "states"), _text),
    "names": lambda value: Path(_text(value)),
    "vectors": _whole,
    "face": _face,
}
"""What a person's row may say, and how it is read. Raises ValueError for anything else."""
_EXPECTED: dict[Callable[[Any], Any], str] = {
    _whole: "a whole number",
    _number: "a number",
    _text: "text",
    _face: "yes, no, or a face's number",
}


class Options:
    """Turns rows into people: `given` on the command line for all, and a row's own options before them.

    Raises ValueError of one line for the first option that cannot be.
    """

    def __init__(self, model: Path, given: Mapping[str, Any], widths: Sequence[int], precision: Precision) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self._base, self._precision = base_of_widths(tuple(widths)), precision
        self._model = model_digest(model)
        self._lists: dict[Path | None, str] = {}

    def person(self, row: Row, home: Path) -> Person:
        """`home` is where relative paths of names files begin."""
        own = {name: self._read(name, value, row.where) for name, value in row.options.items()}
        if "names" in own:
            own["names"] = home / own["names"]
        for one, other in (("words", "names"), ("names", "words")):
            if own.get(one) is not None and other in self._given and other not in own:
                own[other] = None  # the row's start counts, not that of the others
        options = {**self._given, **own}
        try:
            settings, start = self._settings(options), self._start(options)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{row.where}: {error}" if own else str(error)) from error
        face = options.get("face")
        return Person(row.name, row.photos, settings, start, face, self._job(row, settings, start, face))

    def _read(self, name: str, value: Any, where: str) -> Any:
        try:
            return OPTIONS[name](value)
        except (ValueError, TypeError, OverflowError):
            expected = _EXPECTED.get(OPTIONS[name], "text")
            raise ValueError(f"{where}: {name} is '{quoted(value, 60)}', but {expected} was expected.") from None

    def _settings(self, options: Mapping[str, Any]) -> InversionSettings:
        presets = presets_of(self._base)
        preset = options.get("preset", "full")
        if preset not in presets:
            raise ValueError(f"preset is '{quoted(preset, 40)}', but one of {', '.join(presets)} was expected.")
        names = {field.name for field in fields(InversionSettings)}
        given = {name: value for name, value in options.items() if name in names}
        settings = replace(from_preset(self._base, preset, given), precision=self._precision)
        settings.check()
        for name, value, most in (
            ("steps", settings.steps, _MOST_STEPS),
            ("batch_size", settings.batch_size, _MOST_SAMPLES),
        ):
            if value > most:
                raise ValueError(f"{name} is {quoted(value, 60)}, but at most {most} are possible.")
        return settings

    def _start(self, options: Mapping[str, Any]) -> Start:
        words, names = options.get("words"), options.get("names")
        vectors, states = options.get("vectors"), options.get("states", "last")
        if words is not None and names is not None:
            raise ValueError("words and names are both given, but learning starts at one of them. Leave one out.")
        if words is not None and not words.strip():
            raise ValueError("words is empty, but words to start from were expected, such as 'human face'.")
        if vectors is not None and not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"vectors is {quoted(vectors, 40)}, but must be from 1 to {MAX_VECTORS}.")
        if states not in START_STATES:
            raise ValueError(f"states is '{quoted(states, 40)}', but one of {', '.join(START_STATES)} was expected.")
        if words is None and names not in self._lists:
            self._lists[names] = load_celebrity_names(names).sha256[:16]
        return Start(words, names, vectors, states)

    def _job(self, row: Row, settings: InversionSettings, start: Start, face: int | None) -> str:
        identity = settings.identity()
        identity |= {"templates": _digest(identity["templates"]), "steps": settings.steps}
        begins = f"words '{start.words}'" if start.words is not None else f"names {self._lists[start.names]}"
        job = {
            **identity,
            "start": begins,
            "vectors": start.vectors,
            "states": start.states,
            "face": face,
            "photos": _digest(list(_files(row.photos))),
            "model": self._model,
        }
        return json.dumps(job, sort_keys=True)


def differences(asked: str, found: str) -> list[str]:
    """What two jobs differ in: `steps 320, not 25`; the value that was found comes first."""
    try:
        one, other = json.loads(asked), json.loads(found)
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    except (ValueError, RecursionError, AttributeError):
        return ["settings that cannot be read"]
    plain = {"photos": "other photos", "model": "another model", "templates": "other prompts"}
    return [
        plain.get(name) or f"{name} {quoted(other.get(name), 60)}, not {quoted(one.get(name), 60)}"
        for name in sorted(names)
    ]


def missing_photos(person: Person) -> list[Path]:
    """The photos and folders that are not there."""
    return [path for path in person.photos if not _exists(path)]


def model_digest(model: Path) -> str:
    """Names a model by its files' names and sizes and by a sample of their content, so that gigabytes need not be read."""
    digest = hashlib.sha256()
    if is_checkpoint(model) or not model.is_dir():
        files = [(model.name, model)]
    else:
        files = sorted((path.relative_to(model).as_posix(), path) for path in model.rglob("*") if path.is_file())
        files = [(name, path) for name, path in files if path.suffix in _WEIGHTS or path.suffix == ".json"]
    for name, path in files:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                parts = [file.read(_SAMPLE)]
                for place in (size // 2, max(0, size - _SAMPLE)):
                    file.seek(place)
                    parts.append(file.read(_SAMPLE))
        except OSError:
            continue  # loading the model says what is wrong with it
        digest.update(json.dumps([name if len(files) > 1 else "", size]).encode())
        for part in parts:
            digest.update(part)
    return digest.hexdigest()[:16]


def _files(photos: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """The names and sizes of all files among photos and folders: a copy of the same photos elsewhere is the same."""
    for path in photos:
        if path.is_dir():
            for folder, _, names in sorted(os.walk(path)):
                for name in sorted(names):
                    file = Path(folder) / name
                    yield file.relative_to(path).as_posix(), _size(file)
        else:
            yield path.name, _size(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]
