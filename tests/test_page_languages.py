"""The pack in ComfyUI's page in other languages than English."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.docs import locales
from devtools.page import hands
from devtools.page.driver import ComfyPage
from devtools.workflows.shipped import WORKFLOWS

REPOSITORY = Path(__file__).resolve().parents[1]
SCREENSHOTS = REPOSITORY / "test-output"
LEARN, PROMPT = "CrossInitLearn", "CrossInitEncodePrompt"


@pytest.fixture(scope="module")
def page(live: Any, browser: Any) -> Iterator[ComfyPage]:
    page = ComfyPage.open(browser, live.url, {"Comfy.Locale": "zh"})
    yield page
    page.close()


def _shown(page: ComfyPage, node: str) -> dict[str, Any]:
    """What a new node of this type shows, by where a `nodeDefs.json` has it."""
    return dict(
        page.page.evaluate(
            """type => {
                const node = LiteGraph.createNode(type)
                const found = { display_name: node.title }
                for (const slot of node.inputs) found[`inputs.${slot.name}.name`] = slot.label ?? slot.localized_name
                for (const widget of node.widgets ?? []) found[`inputs.${widget.name}.name`] = widget.label
                node.outputs.forEach((slot, i) => { found[`outputs.${i}.name`] = slot.label ?? slot.localized_name })
                return found
            }""",
            node,
        )
    )


def _assert_speaks(page: ComfyPage, node: str, language: str, title: bool = True) -> None:
    shown = _shown(page, node)
    for path, text in locales.texts(locales.read(language)[node]):
        if (title and path == "display_name") or (path.endswith(".name") and path in shown):
            assert shown[path] == text, f"{node}.{path} in {language}"


def test_every_node_speaks_chinese(page: ComfyPage) -> None:
    for node in locales.read("zh"):
        _assert_speaks(page, node, "zh")
    page.load(REPOSITORY / "workflows" / f"{next(iter(WORKFLOWS))}.json")
    page.screenshot(SCREENSHOTS / "chinese.png")
    assert page.title(LEARN) == "学习人脸（训练）"


def test_a_tooltip_speaks_chinese(page: ComfyPage) -> None:
    page.add_node(LEARN)
    socket = hands.place(page, LEARN, "inputs", "cross_init")
    page.page.mouse.move(10, 600)
    page.page.mouse.move(*socket, steps=3)
    page.page.get_by_text(locales.read("zh")[LEARN]["inputs"]["cross_init"]["tooltip"]).wait_for()


def test_nodes_are_found_by_their_chinese_names(page: ComfyPage) -> None:
    hands.new_graph(page)
    hands.open_search(page, (700, 700))
    assert "学习人脸（训练）" in hands.search(page, "学习人脸")
    assert "保存已学令牌" in hands.search(page, "令牌")
    hands.close_search(page)


@pytest.mark.parametrize("language", [language for language in locales.languages() if language != "zh"])
def test_the_page_changes_to_every_other_language(page: ComfyPage, language: str) -> None:
    """ComfyUI names the kinds of nodes when the page is loaded; sockets and widgets follow at once."""
    page.page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
    label = locales.read(language)[LEARN]["inputs"]["flip_probability"]["name"]
    page.page.wait_for_function(
        "([type, label]) => LiteGraph.createNode(type).widgets.some(w => w.label === label)", arg=[LEARN, label]
    )
    for node in (LEARN, PROMPT):
        _assert_speaks(page, node, language, title=False)


def test_the_console_is_silent_about_the_pack(page: ComfyPage) -> None:
    assert not page.complaints
