"""What a hand does on the graph in ComfyUI's page: put nodes there, drag wires between them, type into the search box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Locator, TimeoutError

from .driver import ComfyPage, PageError

Point = tuple[float, float]


@dataclass(frozen=True)
class Placed:
    """A node of a type at a place of the graph, with values of widgets, and where each input comes from: key and output."""

    type: str
    at: tuple[int, int]
    values: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    title: str = ""
    width: int = 0


def edit(page: ComfyPage, node: str, name: str, value: Any) -> None:
    """Set a widget, with a click beside the nodes before and after: then the page keeps what was before for Ctrl+Z."""
    _click_beside(page, 150)
    page.set_widget(node, name, value)
    _click_beside(page, 250)  # elsewhere: two clicks at one place open the search


def undo(page: ComfyPage) -> None:
    """Press Ctrl+Z after an `edit`, and wait until the graph has been made anew."""
    page.page.evaluate("() => { app.graph.nodes[0].crossinitBefore = true }")
    page.page.keyboard.press("Control+z")
    page.page.wait_for_function("() => app.graph.nodes.length && !app.graph.nodes.some(n => n.crossinitBefore)")


def _click_beside(page: ComfyPage, above: int) -> None:
    box = page.page.locator("#graph-canvas").bounding_box()
    if box is None:
        raise PageError("The page shows no graph.")
    page.page.mouse.click(box["x"] + box["width"] - 400, box["y"] + box["height"] - above)


def new_graph(page: ComfyPage) -> None:
    """An empty graph."""
    page.command("Comfy.NewBlankWorkflow")
    page.page.wait_for_function("() => !app.graph.nodes.length")


def put(page: ComfyPage, nodes: Mapping[str, Placed]) -> None:
    """An empty graph with these nodes and wires, by key."""
    new_graph(page)
    page.page.evaluate(
        """nodes => {
            const made = {}
            for (const [key, {type, at, values, title, width}] of Object.entries(nodes)) {
                const node = made[key] = LiteGraph.createNode(type)
                node.pos = at
                if (title) node.title = title
                app.graph.add(node)
                if (width) node.setSize([width, node.size[1]])
                for (const [name, value] of Object.entries(values)) {
                    const widget = node.widgets.find(w => w.name === name)
                    widget.value = value
                    widget.callback?.(value, app.canvas, node)
                }
            }
            for (const [key, {inputs}] of Object.entries(nodes))
                for (const [name, [source, output]] of Object.entries(inputs))
                    made[source].connect(output, made[key], made[key].inputs.findIndex(i => i.name === name))
        }""",
        {key: vars(node) for key, node in nodes.items()},
    )


def open_search(page: ComfyPage, at: Point) -> None:
    """Double-click the empty canvas, as often as a busy page needs: the sheet below a dialog that closes takes clicks."""
    for _ in range(5):
        page.page.mouse.dblclick(*at)
        try:
            return _box(page).wait_for(timeout=3000)
        except TimeoutError:
            continue
    raise PageError("A double click on the canvas opens no search box.")


def close_search(page: ComfyPage) -> None:
    page.page.keyboard.press("Escape")
    _box(page).wait_for(state="hidden")


def search(page: ComfyPage, text: str) -> list[str]:
    """Type into the open search box; returns the names that it offers, best first."""
    _box(page).fill(text)
    _settle(page, "[data-testid=result-item], [data-testid=no-results]")
    return _names(offered(page))


def search_library(page: ComfyPage, text: str) -> list[str]:
    """Type into the library of nodes at the side, which is opened if it is closed; returns the names that it shows, folders too."""
    if _box(page).is_visible():
        close_search(page)
    box = page.page.locator("input[role=combobox][placeholder^=Search]")
    if not box.count():
        page.command("Workspace.ToggleSidebarTab.node-library")
    box.wait_for()
    entries = page.page.get_by_role("treeitem")
    before = ",".join(entries.all_inner_texts())
    box.fill(text)
    _settle(page, "[role=treeitem]", before)
    return _names(entries)


def offered(page: ComfyPage) -> Locator:
    """The entries of the search box."""
    return page.page.get_by_test_id("result-item")


def add_from_search(page: ComfyPage, text: str, name: str, at: Point) -> None:
    """Search for a node, click its entry, and put it down there: it hangs at the pointer until then."""
    open_search(page, at)
    search(page, text)
    before = page.page.evaluate("() => app.graph.nodes.length")
    offered(page).filter(has_text=name).first.click()
    page.page.wait_for_function("before => app.graph.nodes.length === before + 1", arg=before)
    _box(page).wait_for(state="hidden")
    page.page.mouse.move(at[0] + 5, at[1] + 5)
    page.page.mouse.move(*at, steps=3)
    page.page.mouse.click(*at)
    page.page.wait_for_function("() => app.canvas.state.ghostNodeId == null")


def open_templates(page: ComfyPage, pack: str, name: str) -> None:
    """Open the browser of templates at a pack's, and wait until it shows this one."""
    page.command("Comfy.BrowseTemplates")
    page.page.get_by_role("dialog").get_by_text(pack).first.click()
    page.page.get_by_test_id(f"template-workflow-{name}").wait_for()


def open_template(page: ComfyPage, pack: str, name: str) -> None:
    """Choose a workflow of a pack in the browser of templates, opened as often as a busy page needs: when the page is done with
    the template before, it closes the browser, also one that was opened in the meantime."""
    entry = page.page.get_by_test_id(f"template-workflow-{name}")
    for _ in range(12):
        page.command("Comfy.BrowseTemplates")
        try:
            page.page.get_by_role("dialog").get_by_text(pack).first.click(timeout=3000)
            entry.click(timeout=3000)
            # A page that is not done with the template before does not hear the click.
            return entry.wait_for(state="hidden", timeout=10_000)
        except TimeoutError:
            continue
    raise PageError(f"The browser of templates does not show {name} of {pack}.")


def connect(page: ComfyPage, source: str, output: str, target: str, socket: str) -> None:
    """Drag a wire from an output to an input, nodes by type or title. Raises PageError if it does not hold."""
    start, end = place(page, source, "outputs", output), place(page, target, "inputs", socket)
    page.page.mouse.move(*start)
    page.page.mouse.down()
    page.page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
    page.page.mouse.move(*end, steps=4)
    page.page.mouse.up()
    if not page.page.evaluate(
        """([target, socket]) => app.graph.nodes.some(n => (n.type === target || n.title === target)
            && n.inputs.some(i => i.name === socket && i.link !== null))""",
        [target, socket],
    ):
        raise PageError(f"The wire from {source}'s {output} does not hold at {target}'s {socket}.")


def _settle(page: ComfyPage, entries: str, before: str = "") -> None:
    """Wait until a list, which follows the typing after a moment, has changed and stays as it is. After five seconds it may
    be the same as before: then the typing changed nothing."""
    page.page.evaluate("() => { window.crossinitOffered = null; window.crossinitTyped = Date.now() }")
    page.page.wait_for_function(
        """([entries, before]) => {
            const now = [...document.querySelectorAll(entries)].map(e => e.innerText).join()
            const stays = window.crossinitOffered === now
            window.crossinitOffered = now
            return stays && now && (now !== before || Date.now() > window.crossinitTyped + 5000)
        }""",
        arg=[entries, before],
        polling=400,
    )


def _names(entries: Locator) -> list[str]:
    return list(entries.evaluate_all("entries => entries.map(entry => entry.innerText.split('\\n')[0])"))


def _box(page: ComfyPage) -> Locator:
    return page.page.get_by_role("dialog").locator("input").first


def place(page: ComfyPage, node: str, side: str, name: str) -> Point:
    """Where a socket, `inputs` or `outputs` of a node by type or title, is in the window."""
    place = page.page.evaluate(
        """([node, side, name]) => {
            const found = app.graph.nodes.filter(n => n.type === node || n.title === node)
            if (found.length !== 1) return null
            const index = found[0][side].findIndex(slot => slot.name === name)
            if (index < 0) return null
            const [x, y] = found[0].getConnectionPos(side === 'inputs', index)
            const { scale, offset } = app.canvas.ds
            const canvas = app.canvas.canvas.getBoundingClientRect()
            return [(x + offset[0]) * scale + canvas.left, (y + offset[1]) * scale + canvas.top]
        }""",
        [node, side, name],
    )
    if place is None:
        raise PageError(f"There is no single node '{node}' with '{name}' among its {side}.")
    return float(place[0]), float(place[1])
