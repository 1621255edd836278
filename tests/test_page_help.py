"""The help pages of the nodes, and how ComfyUI's page shows them, in English and in Chinese."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from devtools.docs import locales
from devtools.page.driver import ComfyPage

DOCS = Path(__file__).resolve().parents[1] / "web" / "docs"
SCREENSHOTS = Path(__file__).resolve().parents[1] / "test-output"
ENGLISH: dict[str, Any] = json.loads(locales.ENGLISH.read_text(encoding="utf-8"))
NODES = sorted(ENGLISH)
AUTOGROW = {"CrossInitEncodePrompt": ("tokens", "token0")}
"""Sockets of which there are many are shown as `token0`, `token1` .."""


def _file(node: str, language: str) -> Path:
    """ComfyUI looks for NODE/LANGUAGE.md, then for NODE.md."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def _text(node: str, language: str) -> str:
    return _file(node, language).read_text(encoding="utf-8")


def test_every_node_has_its_help() -> None:
    """Every node has its help, and there is none for others."""
    assert sorted(path.stem for path in DOCS.glob("*.md")) == NODES
    assert sorted(path.parent.name for path in DOCS.glob("*/zh.md")) == NODES
    assert sorted({path.stem.partition("-")[0] for path in (DOCS / "images").glob("*.jpg")}) == NODES


def _pictures(node: str) -> list[Path]:
    """NODE.jpg, and further ones with a word behind the node's id."""
    return [DOCS / "images" / f"{node}.jpg", *sorted((DOCS / "images").glob(f"{node}-*.jpg"))]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("node", NODES)
def test_a_help_page_explains_everything(node: str, language: str) -> None:
    """A page explains every input and output and common mistakes, with a picture."""
    text = _text(node, language)
    known = ENGLISH if language == "en" else locales.read(language)
    title = known[node]["display_name"]
    assert text.startswith(f"# {title}\n")
    bold = " ".join(re.findall(r"\*\*(.+?)\*\*", text))
    for side in ("inputs", "outputs"):
        for key, socket in known[node].get(side, {}).items():
            name = socket.get("name", "")
            renamed = AUTOGROW.get(node, ("", ""))
            name = renamed[1] if key == renamed[0] else name
            assert name in bold, f"{key} of {node} is not explained"
    assert ("**Common mistakes**" if language == "en" else "**常见错误**") in text
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", text)
    assert [path for _, path in pictures] == [f"images/{path.name}" for path in _pictures(node)]


@pytest.mark.parametrize("node", NODES)
def test_a_picture_is_small(node: str) -> None:
    for path in _pictures(node):
        with Image.open(path) as picture:
            assert 300 <= picture.width <= 1440
        assert path.stat().st_size < 150_000


@pytest.fixture(scope="module")
def chinese(live: Any, browser: Any) -> Iterator[ComfyPage]:
    page = ComfyPage.open(browser, live.url, {"Comfy.Locale": "zh"})
    yield page
    page.close()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_every_help_page(classic: ComfyPage, chinese: ComfyPage, language: str) -> None:
    """The page shows the help of every node with its picture."""
    page = {"en": classic, "zh": chinese}[language]
    # The help takes a fifth of the window, which on a small laptop is not much.
    page.page.set_viewport_size({"width": 1366, "height": 900})
    for node in NODES:
        heading = _text(node, language).splitlines()[0].removeprefix("# ")
        page.add_node(node)
        shown = page.open_help()
        shown.get_by_role("heading", name=heading).first.wait_for()
        shown.locator("img").first.scroll_into_view_if_needed()
        page.page.wait_for_function(
            "() => [...document.querySelectorAll('.node-help-content img')].every(i => i.complete && i.naturalWidth)"
        )
        assert shown.locator("table").count() >= 1
        # A path or an example that does not wrap would push the rest of its table out of the panel.
        assert not shown.evaluate(
            "help => [...help.querySelectorAll('table')].filter(t => t.scrollWidth > t.clientWidth + 1"
            " || t.getBoundingClientRect().right > help.getBoundingClientRect().right + 1).map(t => t.innerText)"
        ), node
        page.screenshot(SCREENSHOTS / f"help-{node}-{language}.png")
    page.page.set_viewport_size({"width": 1900, "height": 1000})
    assert not page.complaints
