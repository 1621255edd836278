"""Random names, prompts and folders: what is taken is right, and what is not gives one short sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossinit_core.celebrity_names import parse_celebrity_names
from crossinit_core.files import is_windows_device
from crossinit_core.prompt_labels import label_of_prompt, labels_of_prompts
from crossinit_core.prompts import absent_people, fill_places, parse_prompts
from crossinit_core.tokens.learned_token import suggest_token_name

_MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

TRAPS = [
    *("{}", "{", "}", "{1}", "{2}", "{ }", "{a|b}", "%person%", "%1%", "%", "\\{", "\\}", "|", "(", ")", ":1.2)", "#"),
    *(
        "\n",
        "\r",
        "\u2028",
        "\x85",
        "\x0c",
        "\0",
        "\ud83d",
        "\U0001f642",
        "\u200b",
        "\ufeff",
        "e\u0301",
        "\u00e9",
        "\u0130",
    ),
    *(
        "embedding:",
        "anna",
        "Anna Smith",
        "{anna}",
        "con",
        "COM\u00b9",
        "lpt1.png",
        ".",
        "..",
        "/",
        "\\",
        "<b>",
        "nul",
        " ",
    ),
]
TEXTS = st.lists(st.sampled_from(TRAPS) | st.text(max_size=5) | st.characters(), max_size=30).map("".join)
NAMES = st.lists(TEXTS.map(suggest_token_name) | st.sampled_from(["1", "2", "anna", "person"]), min_size=1, max_size=4)


def _taken(call: Callable[[], Any]) -> Any:
    """What the call gives; None if it refuses, with one short sentence."""
    try:
        return call()
    except ValueError as error:
        message = str(error)
        assert 10 < len(message) <= 600 and message.isprintable() and len(message.splitlines()) == 1, message
        message.encode()
        return None


@_MANY
@given(TEXTS, NAMES)
def test_a_filled_prompt_holds_each_person_or_says_who_is_absent(text: str, names: list[str]) -> None:
    written: list[int] = []

    def written_as(index: int, _: re.Match[str]) -> str:
        written.append(index)
        return f"\ue000{index}\ue001"

    filled = _taken(lambda: fill_places(text, names, written_as))
    if filled is None:
        return
    absent = absent_people(text, names)
    assert written and len(absent) + len(set(written)) == len(names)
    for index, name in enumerate(names):
        assert f"\ue000{index}\ue001" in filled or name in absent


@_MANY
@given(NAMES, st.sampled_from(["{%s}", "%%%s%%", "{ %s }"]))
def test_each_name_finds_its_person_or_is_ambiguous(names: list[str], place: str) -> None:
    for wanted, name in enumerate(names):
        found: list[int] = []

        def note(index: int, place: re.Match[str], found: list[int] = found) -> str:
            found.append(index)
            return place[0]

        if _taken(partial(fill_places, place % name, names, note)):
            same = [unicodedata.normalize("NFC", one) for one in names]
            assert found == [wanted] or (name == "person" and same.count("person") == 1), (names, name)


@_MANY
@given(st.lists(TEXTS, max_size=6))
def test_every_label_is_a_folder_on_windows(prompts: list[str]) -> None:
    labels = labels_of_prompts(prompts)
    assert len({label.casefold() for label in labels}) == len(prompts)
    for label in labels:
        assert label and not set(label) & set('<>:"/\\|?*%') and not label.endswith((".", " "))
        assert not is_windows_device(label) and len(label.encode()) < 200
        assert all(unicodedata.category(character)[0] in "LMN" or character == "-" for character in label)
    assert all(label_of_prompt(label) for label in labels)


@_MANY
@given(TEXTS)
def test_lines_end_at_line_ends_alone(text: str) -> None:
    for parse in (parse_prompts, lambda given: parse_celebrity_names(given).names):
        lines = _taken(partial(parse, text))
        if lines is not None:
            assert 1 <= len(lines) <= text.count("\n") + text.count("\r") + 1
            assert all(line and not line.startswith("#") for line in lines)


@_MANY
@given(TEXTS)
def test_a_folder_for_prompts_is_taken_or_refused(pack: ModuleType, folder: str) -> None:
    prefix = _taken(lambda: pack.nodes.prompt_list.prefix_of(folder, "x"))
    for part in (prefix or "x").split("/"):
        assert part and part == part.strip() and not part.endswith(".") and not is_windows_device(part)
        assert not set(part) & set('<>:"\\|?*%') and part.encode()
