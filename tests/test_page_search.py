"""People who do not know the names of the nodes find them, by what they would call it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.page import hands
from devtools.page.driver import ComfyPage

SCREENSHOTS = Path(__file__).resolve().parents[1] / "test-output"
LEARN = "Learn Face (train)"
IN_SIGHT = 11
"""So many entries the search box shows without scrolling."""

WORDS = ("textual inversion", "embedding", "face", "portrait", "personalization", "train", "celeb basis")
MORE_WORDS = ("train face", "train embedding", "文本反转", "人脸", "训练", "顔", "学習", "얼굴", "лицо", "وجه")


@pytest.fixture(scope="module")
def ours(live: Any) -> set[str]:
    """What the nodes of the pack are called."""
    return {info["display_name"] for info in live.info.values() if info["category"] == "CrossInit"}


@pytest.fixture(scope="module")
def box(classic: ComfyPage) -> Iterator[ComfyPage]:
    """The search box that a double click on the canvas opens."""
    hands.new_graph(classic)
    hands.open_search(classic, (700, 700))
    yield classic
    hands.close_search(classic)


@pytest.mark.parametrize("word", [*WORDS, *MORE_WORDS])
def test_the_search_box_offers_every_node(box: ComfyPage, ours: set[str], word: str) -> None:
    offered = hands.search(box, word)
    assert ours <= set(offered)
    assert LEARN in offered[:IN_SIGHT]
    if word == WORDS[0]:
        box.screenshot(SCREENSHOTS / "search.png")


@pytest.mark.parametrize("word", ["photo", "crop face", "batch prompts", "mix", "norm", "demo"])
def test_words_of_single_nodes_find_them(box: ComfyPage, ours: set[str], word: str) -> None:
    assert ours & set(hands.search(box, word))


@pytest.mark.parametrize("word", ["vae decode", "upscale", "image", "sampler"])
def test_other_searches_find_other_nodes_first(box: ComfyPage, ours: set[str], word: str) -> None:
    """A search for something else does not show the pack first."""
    assert not ours & set(hands.search(box, word)[:IN_SIGHT])


@pytest.mark.parametrize("word", WORDS)
def test_the_library_at_the_side_offers_every_node(classic: ComfyPage, ours: set[str], word: str) -> None:
    shown = hands.search_library(classic, word)
    assert ours <= set(shown)
