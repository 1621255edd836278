"""The short version of benchmarks.torture: nothing learned is lost, and no file is believed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.torture import page
from tests.repository_files import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the torture forks, and makes disks as Linux does"),
]


def _torture(out: Path, *words: str) -> list[dict[str, Any]]:
    """The records of some parts, run in a process of their own: this one has threads, which a fork would not have."""
    command = [sys.executable, "-m", "benchmarks.torture", "--out", str(out), *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", timeout=600, check=False)
    found = page.read(out)
    assert found, done.stderr[-2000:]
    return found


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Five tries of each part that learns."""
    words = [word for part in ("kill", "together", "places", "repeats") for word in ("--part", part)]
    records = _torture(tmp_path_factory.mktemp("torture"), *words, "--tries", "5")
    return {record["part"]: record for record in records}


@pytest.mark.parametrize(
    "part", ["kill -9", "two processes on one folder", "disks and folders", "learnings in one process"]
)
def test_nothing_learned_is_lost(learning: dict[str, dict[str, Any]], part: str) -> None:
    record = learning[part]
    assert record["tries"] >= 5
    assert record["failures"] == 0, record["failed"]


def test_fuzzed_resume_files_are_never_believed(tmp_path: Path) -> None:
    """Ten seconds of broken resume files: each is refused in a line, or holds a state that a run can have."""
    (record,) = _torture(tmp_path, "--part", "fuzz", "--kind", "resume files", "--seconds", "10", "--seed", "7")
    assert record["tries"] > 100 and record["facts"]["refused"] > 50
    assert record["failures"] == 0, record["failed"]


def test_bombs_of_resume_files_are_refused(tmp_path: Path) -> None:
    (record,) = _torture(tmp_path, "--part", "bombs", "--kind", "resume file")
    assert record["tries"] >= 10
    assert record["failures"] == 0, record["failed"]


def test_the_page_is_that_of_the_numbers() -> None:
    """`python -m benchmarks.torture --page` wrote docs/reliability.md from the numbers that are kept."""
    written = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert written == page.page(page.KEPT)
    records = page.read(page.KEPT)
    assert {record["part"] for record in records} >= {"kill -9", "bombs"}
    for record in records:
        assert f"{record['tries']:,} | {record['failures']:,} |" in written


def test_a_failure_is_counted_and_described(tmp_path: Path) -> None:
    record = {"part": "bombs", "what": "It is refused.", "tries": 2, "failures": 1, "failed": ["a | bomb\n<b>"]}
    where = {"system": "Linux", "python": "3.12.1", "torch": "2.11.0"}
    content = {"where": where, "records": [{**record, "facts": {"most memory, MB": 3.0}, "seconds": 90}]}
    (tmp_path / "bombs.json").write_text(json.dumps(content), encoding="utf-8")
    written = page.page(tmp_path)
    assert "| bombs | It is refused. | 2 | 1 | 1.5 | most memory, MB: 3.0 |" in written
    assert "Measured on: Linux, Python 3.12.1, torch 2.11.0." in written
    assert "- bombs: a | bomb?&lt;b>" in written
