"""The tables of what was tried, and docs/reliability.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import ROOT

KEPT = ROOT / "docs" / "measurements" / "reliability"


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: each part with its tries and failures."""
    lines = ["| what | tries | failures |", "| --- | --- | --- |"]
    lines += [f"| {record['part']} | {record['tries']:,} | {record['failures']:,} |" for record in records]
    return "\n".join(lines)


def page(kept: Path) -> str:
    """docs/reliability.md."""
    return ""
