"""A node that was just put on ComfyUI's real page can be read, and has no more room than it needs.

On a newer page: CROSSINIT_PAGE=.host/page-1.58.1
"""

from __future__ import annotations

from typing import Any

import pytest

from devtools.docs.fresh import put_every_node
from devtools.page.driver import ComfyPage

PROMPTS = ("CrossInitEncodePrompt", "CrossInitPromptList")

# What a classic node writes into its title bar, and how much of it the page shows.
TITLES = """() => {
    const context = document.createElement('canvas').getContext('2d')
    return app.graph.nodes.map(n => {
        context.font = n.titleFontStyle
        return [n.title, context.measureText(n.title).width <= n.size[0] - 2 * LiteGraph.NODE_TITLE_HEIGHT]
    })
}"""
# By how many pixels each of the newer nodes is higher than what it holds.
EMPTY = """() => app.graph.nodes.map(n => {
    const shown = document.querySelector(`.lg-node[data-node-id="${n.id}"]`)
    const before = shown.style.getPropertyValue('--node-height')
    const height = shown.offsetHeight
    shown.style.setProperty('--node-height', '0px')
    const needed = shown.offsetHeight
    shown.style.setProperty('--node-height', before)
    return [n.type, height - needed]
})"""
LINES = """types => app.graph.nodes.filter(n => types.includes(n.type)).map(n => {
    const inside = document.querySelector(`.lg-node[data-node-id="${n.id}"] textarea`)
    const box = inside ?? n.widgets.find(w => w.element?.tagName === 'TEXTAREA').element
    return Math.floor(box.clientHeight / (1.2 * parseFloat(getComputedStyle(box).fontSize)))
})"""


@pytest.mark.parametrize("language", ["en", "ru", "ja"])
def test_no_title_of_a_fresh_node_is_cut_off(browser: Any, page_url: str, language: str) -> None:
    page = ComfyPage.open(browser, page_url, {"Comfy.Locale": language})
    put_every_node(page)
    titles = page.page.evaluate(TITLES)
    page.close()
    assert len(titles) >= 15
    assert [title for title, fits in titles if not fits] == []


def test_fresh_newer_nodes_are_as_high_as_what_they_show(newer: ComfyPage) -> None:
    put_every_node(newer)
    empty = dict(newer.page.evaluate(EMPTY))
    assert len(empty) >= 15
    assert {node: pixels for node, pixels in empty.items() if pixels > 2 and node not in PROMPTS} == {}
    assert min(newer.page.evaluate(LINES, list(PROMPTS))) >= 5


def test_a_newer_node_has_room_for_all_its_widgets_as_a_classic_one(newer: ComfyPage) -> None:
    put_every_node(newer)
    newer.page.evaluate("() => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    newer.page.wait_for_function("() => !document.querySelector('.lg-node')")
    newer.frame(1900)
    newer.page.wait_for_timeout(500)
    cut_off = newer.page.evaluate(
        """() => app.graph.nodes.filter(n => (n.widgets ?? []).some(w => w.y + (w.computedHeight ?? 20) > n.size[1] + 1))
            .map(n => n.type)"""
    )
    newer.page.evaluate("() => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    assert cut_off == []


def test_a_fresh_box_for_prompts_shows_five_lines(classic: ComfyPage) -> None:
    put_every_node(classic)
    assert min(classic.page.evaluate(LINES, list(PROMPTS))) >= 5
