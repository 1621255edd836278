"""docs/scale.md says what was measured, and names every option of a person."""

from __future__ import annotations

import json

import pytest

from benchmarks.many.scale_page import MEASURED, PAGE, filled
from crossinit_core.many.people import OPTIONS


def test_the_tables_are_what_was_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "write it anew: python -m benchmarks.many.scale_page"


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_every_option_of_a_person_is_named(option: str) -> None:
    assert f"`{option}`" in PAGE.read_text(encoding="utf-8")


def test_nobody_was_changed_by_a_kill() -> None:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(MEASURED.glob("kills-*.json"))]
    assert found
    for data in found:
        assert (data["people_with_other_bits"], data["orphans"], data["left_behind"]) == ([], 0, [])
        assert data["kills"] >= 10
