"""Pages of the documentation as tests read them: their tables, their numbers, and what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PERFORMANCE = REPOSITORY / "docs" / "measurements" / "performance"


def text(name: str) -> str:
    """What stands in a page, by its path from the project's root."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def measured(name: str) -> Any:
    """A file of numbers that docs/performance.md is written from."""
    return json.loads((PERFORMANCE / name).read_text(encoding="utf-8"))


def rows(text: str) -> dict[str, list[str]]:
    """Of all tables: the first cell without its stars -> the other cells."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first.replace("*", ""): rest for first, *rest in cells}


def rounded(said: str, measured: float) -> bool:
    """Whether a number as it is written, `12.6 s`, is the measured one, rounded to as many places."""
    number = re.match(r"[\d.,]+", said)
    assert number, said
    digits = number.group().replace(",", "")
    _, _, places = digits.partition(".")
    return abs(float(digits) - measured) <= 0.5 * 10.0 ** -len(places) + 1e-9
