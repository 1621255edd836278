"""ComfyUI's page in a headless browser, driven as a person would: drop a workflow, set a widget, press Run, look.

Needs Playwright. What the page calls things is ComfyUI_frontend 1.47 and 1.58.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, TimeoutError, sync_playwright

from ..setup.browser import find_browser
from .nodes import FIND, SHOWN, PageNodes
from .view import BARE, Box

__all__ = ["BARE", "SETTINGS", "Box", "ComfyPage", "PageError", "chromium"]

SETTINGS: Mapping[str, Any] = {
    "Comfy.TutorialCompleted": True,  # else the first visit opens the browser of templates
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.WarnBlueprintOverwrite": False,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Locale": "en",
}
"""Classic nodes, as a new local installation has them. `Comfy.VueNodes.Enabled` is the page's "Nodes 2.0"."""

# What the page asks for although it is there only in some installations, the translations of help pages among it.
_EXPECTED_404 = ("user.css", "comfy.templates.json", "dir=workflows", "dir=subgraphs", "/en.md")
# What the page says of itself, with or without the pack.
_ITS_OWN = ("ComfyApp graph accessed before initialization", "missingModelDownload", "missingModelMetadata")
_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class PageError(RuntimeError):
    """The page shows an error, or does not do what was asked of it."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that CROSSINIT_CHROMIUM names, or an installed one. Raises PageError if there is none."""
    path = find_browser(os.environ)
    if path is None:
        raise PageError("There is no Chromium, Chrome or Edge. Install one, or set CROSSINIT_CHROMIUM to its path.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class ComfyPage(PageNodes):
    """One open page. `complaints` collects the console's errors and the requests that failed."""

    def __init__(self, page: Page, url: str) -> None:
        super().__init__(page)
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("response", lambda answer: self._on_status(answer.status, answer.url))

    @classmethod
    def open(
        cls,
        browser: Browser,
        url: str,
        settings: Mapping[str, Any] | None = None,
        width: int = 1900,
        height: int = 1000,
    ) -> ComfyPage:
        """A new window with these settings, and an empty graph in it."""
        context = browser.new_context(viewport={"width": width, "height": height})
        for name, value in {**SETTINGS, **(settings or {})}.items():
            context.request.post(
                f"{url}/api/settings/{name}", data=json.dumps(value), headers={"Content-Type": "application/json"}
            )
        page = cls(context.new_page(), url)
        page._go()
        return page

    def reload(self) -> None:
        """Load the page anew in the same browser, and leave the workflow that it opens."""
        self._go(first=False)

    def _go(self, first: bool = True) -> None:
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.page.wait_for_function("() => window.app?.vueAppReady && app.extensionManager", timeout=120_000)
        self._wait_for_curtain()
        # The page opens with a workflow, the first time with one whose models nobody has: wait for it, then leave it. Later it
        # may be a blank one.
        self.page.wait_for_function("() => app.graph?.nodes.length" if first else "() => app.graph")
        self.command("Comfy.NewBlankWorkflow")
        self.page.wait_for_function("() => !app.graph.nodes.length")
        self._wait_for_curtain()
        self._listen()

    def has_newer_nodes(self) -> bool:
        """Whether nodes are elements, as the page's "Nodes 2.0" makes them."""
        return bool(self.page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')"))

    def close(self) -> None:
        self.page.context.close()

    def load(self, workflow: Path) -> None:
        """Drop a workflow file onto the graph, and wait until the page shows it."""
        text = workflow.read_text(encoding="utf-8")
        self.page.evaluate(
            """([text, name]) => {
                const files = new DataTransfer()
                files.items.add(new File([text], name, { type: 'application/json' }))
                const canvas = document.querySelector('#graph-canvas')
                for (const type of ['dragenter', 'dragover', 'drop'])
                    canvas.dispatchEvent(new DragEvent(type,
                        { bubbles: true, cancelable: true, dataTransfer: files, clientX: 900, clientY: 600 }))
            }""",
            [text, workflow.name],
        )
        self.wait_for_graph(json.loads(text))

    def wait_for_graph(self, workflow: Mapping[str, Any]) -> None:
        """Wait until the graph has the nodes of this workflow."""
        types = sorted(node["type"] for node in workflow["nodes"])
        self.page.wait_for_function(
            "types => app.graph.nodes.map(n => n.type).sort().join() === types.join()", arg=types
        )

    def set_widget(self, node: str, name: str, value: Any) -> None:
        """Set a widget of the one node of this type, as an edit in the page does. Raises PageError if there is none."""
        done = self.page.evaluate(
            f"""([node, name, value]) => {{
                const owner = {FIND}(node)
                const widget = owner?.widgets?.find(w => w.name === name)
                if (!widget) return false
                widget.value = value
                widget.callback?.(value, app.canvas, owner)
                return true
            }}""",
            [node, name, value],
        )
        if not done:
            raise PageError(f"The graph has no single node '{node}' with a widget '{name}'.")

    def set_widgets(self, *changes: tuple[str, str, Any]) -> None:
        """Set widgets, each on all nodes of a type or title; a change for which the graph has no node does nothing."""
        self.page.evaluate(
            """changes => {
                for (const [wanted, name, value] of changes)
                    for (const node of app.graph.nodes.filter(n => n.type === wanted || n.title === wanted)) {
                        const widget = node.widgets.find(w => w.name === name)
                        if (!widget) throw new Error(`${wanted} has no widget ${name}`)
                        widget.value = value
                        widget.callback?.(value, app.canvas, node)
                    }
            }""",
            [list(one) for one in changes],
        )

    def prompt(self) -> dict[str, Any]:
        """What the page would send if Run were pressed now, in API form."""
        return dict(self.page.evaluate("async () => (await app.graphToPrompt()).output"))

    def run(self, seconds: float = 300) -> None:
        """Press Run and wait for the end. Raises PageError with what the page says if it does not end well."""
        self.start()
        self.wait_for_end(seconds)

    def start(self) -> None:
        """Press Run; what the page says of the run before is closed first."""
        self._wait_for_curtain()
        if self.page.get_by_test_id("error-overlay").count():
            self.page.get_by_test_id("error-overlay-dismiss").dispatch_event("click")
            self.page.get_by_test_id("error-overlay").wait_for(state="detached")
        self._forget_the_last_run()
        self.page.get_by_test_id("queue-button").click()

    def run_selected(self, node: str) -> None:
        """Select the one node of this type, press the button above it that runs the graph up to it, and wait for the end."""
        self._wait_for_curtain()
        self._forget_the_last_run()
        self.page.evaluate(
            f"""node => {{
                app.canvas.deselectAll()
                app.canvas.selectNode({FIND}(node))
                app.canvas.state.selectionChanged = true
            }}""",
            node,
        )
        self.page.get_by_role("button", name="Execute to selected output nodes").click()
        self.wait_for_end()

    def wait_for_end(self, seconds: float = 300) -> None:
        """Wait until the run ends and the pictures of nodes on the page, which those inside a subgraph are not, are shown."""
        try:
            self.page.wait_for_function(
                "() => window.crossinitEnd || document.querySelector('[data-testid=error-overlay]')",
                timeout=seconds * 1000,
            )
        except TimeoutError:
            raise PageError(f"The run did not end within {seconds:.0f} s.") from None
        end = self.page.evaluate("() => window.crossinitEnd")
        if end != "execution_success":
            raise PageError(f"The run ended with {end or 'a refusal'}: {self.errors()}")
        self.page.wait_for_function(
            f"""() => Object.entries(app.nodeOutputs).every(([id, output]) => !output.images?.length
                || !app.graph.getNodeById(id) || {SHOWN}(id).length >= output.images.length)""",
            timeout=60_000,
        )

    def cancel(self) -> None:
        """Press the red button, and wait until the run has stopped. Raises PageError if it ended otherwise."""
        self.page.get_by_role("button", name="Cancel current run").first.click()
        self.page.wait_for_function("() => window.crossinitEnd", timeout=60_000)
        end = self.page.evaluate("() => window.crossinitEnd")
        if end != "execution_interrupted":
            raise PageError(f"The run was to be cancelled, but it ended with {end}: {self.errors()}")

    def add_node(self, node_type: str) -> None:
        """Put a node of this type, and nothing else, on an empty graph, and select it."""
        self.command("Comfy.NewBlankWorkflow")
        self.page.wait_for_function("() => !app.graph.nodes.length")
        self.page.evaluate(
            """type => {
                const node = LiteGraph.createNode(type)
                node.pos = [100, 150]
                app.graph.add(node)
                app.canvas.selectNode(node)
            }""",
            node_type,
        )

    def open_help(self) -> Locator:
        """Press the info button of the selected node; returns the help that opens."""
        self.page.get_by_test_id("info-button").click()
        return self.page.locator(".node-help-content")

    def _wait_for_curtain(self) -> None:
        """Wait until the page takes clicks again. The sheet with which it covers itself while it loads goes at the end of
        an animation, which on a busy machine sometimes never comes."""
        self.page.wait_for_function(
            """() => {
                for (const sheet of document.querySelectorAll('.p-blockui-mask.p-overlay-mask-leave')) sheet.remove()
                return !document.querySelector('.p-blockui-mask')
            }"""
        )

    def _forget_the_last_run(self) -> None:
        """Once it is over: a part that nobody waited for would else be taken for a part of the next one."""
        self.page.wait_for_function("() => !window.crossinitLeft && !window.crossinitEnding", timeout=120_000)
        self.page.evaluate("() => { window.crossinitEnd = null; window.crossinitRan = []; window.crossinitSaid = [] }")

    def _listen(self) -> None:
        self._forget_the_last_run()
        self.page.evaluate(
            """events => {
                // What the page and the pack do at an end comes first. Until then the run is not over.
                window.crossinitEnding = 0
                for (const name of events)
                    app.api.addEventListener(name, () => {
                        window.crossinitEnding++
                        setTimeout(() => { window.crossinitEnd = name; window.crossinitEnding-- }, 100)
                    })
                // The server says what is left of its queue after it has said how a run ended.
                app.api.addEventListener('status', ({ detail }) => {
                    window.crossinitLeft = detail?.exec_info?.queue_remaining ?? 0
                })
                app.api.addEventListener('executing', ({ detail }) => detail && window.crossinitRan.push(detail))
                // The page's own listener came first: the node shows the text by now.
                app.api.addEventListener('progress_text', ({ detail }) => window.crossinitSaid.push([detail.nodeId,
                    app.graph.getNodeById(detail.nodeId)?.widgets?.find(w => w.name === '$$node-text-preview')?.value]))
            }""",
            list(_EVENTS),
        )

    def _on_console(self, message: ConsoleMessage) -> None:
        said = f"console: {message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(known in said for known in (*_ITS_OWN, "Failed to load resource")):
            self.complaints.append(said)

    def _on_status(self, status: int, url: str) -> None:
        if status >= 400 and not any(part in url for part in _EXPECTED_404):
            self.complaints.append(f"HTTP {status}: {url}")
