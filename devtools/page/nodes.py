"""What ComfyUI's page says: the widgets, texts and pictures of its nodes, and its errors."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator

from .view import PageView

# A node by its type or title, if exactly one has it.
FIND = """(wanted => {
    const found = app.graph.nodes.filter(n => n.type === wanted || n.title === wanted)
    return found.length === 1 ? found[0] : null
})"""
# Sizes of the pictures that a node shows, on the canvas or as elements.
SHOWN = """(id => {
    const onCanvas = app.graph.getNodeById(id)?.imgs ?? []
    const elements = [...document.querySelectorAll(`.lg-node[data-node-id="${id}"] img`)]
    return [...(elements.length ? elements : onCanvas)]
        .filter(i => i.complete && i.naturalWidth).map(i => [i.naturalWidth, i.naturalHeight])
})"""

# Notes that float in a corner; the second is what pages from 1.57 on call them.
NOTES = ".p-toast-message-error, [data-testid=toast][data-toast-kind=error]"


class PageNodes(PageView):
    """What can be read off an open page. A node is named by its type or title, which it alone has.

    What was said and what ran since Run was pressed is known if ComfyPage opened the page: it listens.
    """

    def title(self, node: str) -> str:
        """What stands above the one node of this type."""
        return str(self.page.evaluate(f"node => {FIND}(node).title", node))

    def widgets(self, node: str) -> dict[str, Any]:
        """Values by name of the widgets of the one node of this type."""
        return dict(
            self.page.evaluate(
                f"node => ({FIND}(node).widgets ?? []).filter(w => !w.name.startsWith('$$')).map(w => [w.name, w.value])",
                node,
            )
        )

    def options(self, node: str, name: str) -> list[str]:
        """What a widget of the one node of this type lets one choose from."""
        return list(
            self.page.evaluate(
                f"""([node, name]) => {{
                    const {{ values }} = {FIND}(node).widgets.find(w => w.name === name).options
                    return typeof values === 'function' ? values() : values
                }}""",
                [node, name],
            )
        )

    def wait_until_offered(self, node_type: str, name: str, value: str) -> None:
        """Wait until new nodes of this type let one choose this value of a widget."""
        self.page.wait_for_function(
            """([type, name, value]) => {
                const spec = LiteGraph.registered_node_types[type].nodeData.input.required[name]
                return (Array.isArray(spec[0]) ? spec[0] : spec[1].options).includes(value)
            }""",
            arg=[node_type, name, value],
        )

    def text(self, node: str) -> str:
        """The line of text that the one node of this type shows."""
        return str(
            self.page.evaluate(
                f"node => {FIND}(node).widgets.find(w => w.name === '$$node-text-preview')?.value ?? ''", node
            )
        )

    def said(self, node: str) -> list[str]:
        """Every text that the one node of this type has shown since Run was pressed, however short."""
        return list(
            self.page.evaluate(
                f"node => window.crossinitSaid.filter(([id]) => id == {FIND}(node).id).map(([id, text]) => text ?? '')",
                node,
            )
        )

    def wait_until_said(self, node: str, text: str) -> None:
        """Wait until the one node of this type has shown a text that begins so since Run was pressed."""
        self.page.wait_for_function(
            f"([node, text]) => window.crossinitSaid.some(([id, said]) => id == {FIND}(node).id && said?.startsWith(text))",
            arg=[node, text],
            timeout=60_000,
        )

    def wait_for_text(self, node: str, text: str) -> None:
        """Wait until the one node of this type shows a line that begins with `text`."""
        self.page.wait_for_function(
            f"""([node, text]) => {FIND}(node).widgets.find(w => w.name === '$$node-text-preview')?.value
                ?.split('\\n').some(line => line.startsWith(text))""",
            arg=[node, text],
            timeout=60_000,
        )

    def wait_for_picture(self, node: str) -> None:
        """Wait until the one node of this type shows a picture."""
        self.page.wait_for_function(f"node => {SHOWN}({FIND}(node).id).length", arg=node, timeout=60_000)

    def element(self, node: str) -> Locator:
        """The one node of this type as an element; the newer nodes are elements."""
        number = self.page.evaluate(f"node => {FIND}(node).id", node)
        return self.page.locator(f'.lg-node[data-node-id="{number}"]')

    def pictures(self, node: str) -> list[list[int]]:
        """Width and height of each picture that the one node of this type shows."""
        return list(self.page.evaluate(f"node => {SHOWN}({FIND}(node).id)", node))

    def ran(self) -> list[str]:
        """Titles of the nodes that ran since Run was pressed, those in a subgraph too, without those whose results were there."""
        return list(
            self.page.evaluate(
                """() => [...new Set(window.crossinitRan)].map(id => {
                    let [graph, node] = [app.graph, null]
                    for (const part of String(id).split(':')) {
                        node = graph.getNodeById(part)
                        graph = node?.subgraph
                    }
                    return node?.title ?? `${id}, which is not there`
                })"""
            )
        )

    def failed(self) -> list[str]:
        """Titles of the nodes that are marked: those that failed in the last run, and those whose inputs are wrong."""
        return list(
            self.page.evaluate(
                """() => app.graph.nodes.filter(n => n.has_errors || app.lastExecutionError?.node_id == n.id)
                    .map(n => n.title)"""
            )
        )

    def note(self, text: str) -> Locator:
        """The notes of errors that hold a text."""
        return self.page.locator(NOTES).filter(has_text=text)

    def notes(self) -> list[str]:
        """What the notes say that float in a corner: title and text of errors."""
        return list(self.note("").all_inner_texts())

    def errors(self) -> list[str]:
        """Every error that the page shows: its error panel, open dialogs, red nodes, nodes that it does not know."""
        return list(
            self.page.evaluate(
                """notes => [
                    ...[...document.querySelectorAll(`[data-testid=error-overlay], ${notes}, [role=dialog]`)]
                        .map(e => e.innerText),
                    ...app.graph.nodes.filter(n => n.has_errors).map(n => `${n.title} is red`),
                    ...app.graph.nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => `${n.type} is unknown`),
                ]""",
                NOTES,
            )
        )
