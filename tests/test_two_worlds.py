"""One command measures both drawn worlds: each program gets options that it knows, in order, and none runs twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dial, two_worlds, worlds
from benchmarks.paper_claims import cli as claims
from benchmarks.ways import cli as ways
from benchmarks.ways import pictures
from benchmarks.ways.plan import WAYS
from miniature.training import train
from tests.repository_files import REPOSITORY

PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "miniature.training.train": train.parse,
    "benchmarks.worlds": lambda words: worlds._parser().parse_args(words),
    "benchmarks.ways": lambda words: ways._parser().parse_args(words),
    "benchmarks.ways.pictures": lambda words: pictures._parser().parse_args(words),
    "benchmarks.dial": lambda words: dial._parser().parse_args(words),
    "benchmarks.paper_claims": lambda words: claims._parser().parse_args(words),
}


class Programs:
    """Notes what is run in place of running it; `codes` are what the next ones end with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, Any]] = []
        self.codes: list[int] = []
        monkeypatch.setattr(two_worlds, "run", self._run)

    def _run(self, command: list[str]) -> int:
        _, flag, module, *words = command
        assert flag == "-m"
        self.ran.append((module, PARSERS[module](words)))
        return self.codes.pop(0) if self.codes else 0


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """The page's numbers, without two of the shipped world's: something is left to be measured there."""
    folder = tmp_path / "docs"
    folder.mkdir()
    numbers = json.loads((REPOSITORY / "docs" / "ways.json").read_text(encoding="utf-8"))
    del numbers["drawn"]["choose"]["configs"]["direction .1-100"]
    del numbers["drawn"]["report"]["configs"]["direction .2 falling most-25"]
    (folder / "ways.json").write_text(json.dumps(numbers), encoding="utf-8")
    return folder


def test_every_program_runs_once_with_what_it_knows(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, command = Programs(monkeypatch), ["--out", str(tmp_path / "out"), "--docs", str(docs)]
    programs.codes = [0, 0, two_worlds.OVER]
    assert two_worlds.main([*command, "--minutes", "30"]) == two_worlds.OVER
    assert [module for module, _ in programs.ran] == [
        "miniature.training.train",
        "benchmarks.worlds",
        "benchmarks.ways",
    ]
    assert programs.ran[0][1].time_limit > 1700
    assert two_worlds.main(command) == 0
    modules = [module for module, _ in programs.ran]
    assert len(modules) == len(two_worlds.PARTS) + 1  # the one that was stopped runs again
    assert modules[3:5] == ["benchmarks.ways", "benchmarks.ways"]
    assert programs.ran[3][1].time_limit is None
    assert json.loads((tmp_path / "out" / "finished.json").read_text(encoding="utf-8")) == [
        part.name for part in two_worlds.PARTS
    ]
    before = len(programs.ran)
    assert two_worlds.main(command) == 0
    assert len(programs.ran) == before


def test_the_second_world_is_measured_anew_and_the_shipped_one_added_to(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(monkeypatch)
    assert two_worlds.main(["--out", str(tmp_path / "out"), "--docs", str(docs)]) == 0
    searches = [options for module, options in programs.ran if module == "benchmarks.ways"]
    assert [options.stage for options in searches] == ["choose", "choose", "report", "report"]
    assert [[name for name, _ in options.world] for options in searches] == [["contrast"], ["drawn"]] * 2
    assert set(searches[0].ways) == set(WAYS)
    measured = json.loads((docs / "ways.json").read_text(encoding="utf-8"))["drawn"]["choose"]["configs"]
    known = {way for way in WAYS if len(measured.get(f"{way}-100", {"identities": []})["identities"]) >= 12}
    assert known and not set(searches[1].ways) & known and set(searches[1].ways) | known == set(WAYS)
    # Old numbers of a world that was trained anew go, those of the shipped one stay.
    kept = [["drawn", "earlier contrast"], ["drawn", "contrast", "earlier contrast"]]
    assert [options.keep for options in searches] == kept * 2
    assert {"plain", "published", "direction .2 falling most"} <= set(searches[2].ways)


@pytest.mark.parametrize("have", [False, True])
def test_pictures_that_are_there_are_not_taken_again(
    have: bool, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(monkeypatch)
    if have:
        (docs / "images").mkdir()
        (docs / "images" / "ways-drawn.png").touch()
    assert two_worlds.main(["--out", str(tmp_path / "out"), "--docs", str(docs)]) == 0
    (taken,) = [options.world for module, options in programs.ran if module == "benchmarks.ways.pictures"]
    assert [name for name, _ in taken] == (["contrast"] if have else ["drawn", "contrast"])


def test_a_program_that_fails_ends_it(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = Programs(monkeypatch)
    programs.codes = [1]
    assert two_worlds.main(["--out", str(tmp_path / "out"), "--docs", str(docs)]) == 1
    assert "'training' ended with code 1" in capsys.readouterr().err
    assert len(programs.ran) == 1
    assert two_worlds.main(["--out", str(tmp_path), "--docs", str(tmp_path / "none")]) == 2
    assert two_worlds.main(["--out", str(tmp_path), "--docs", str(docs), "--minutes", "0.1"]) == 2
