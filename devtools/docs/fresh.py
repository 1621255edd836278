"""Takes pictures of what a newcomer puts on the page, for a person to look at: fresh nodes, blueprints, and apps.

    python -m devtools.docs.fresh --comfyui COMFYUI --base DIRECTORY --out FOLDER [--page .host/page-1.58.1]

Nothing runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Browser, TimeoutError

from ..comfyui.links import PACK
from ..comfyui.server import ComfyServer
from ..page import hands
from ..page.driver import BARE, ComfyPage, chromium
from ..standins.miniature.stage import set_miniature_stage
from ..workflows.blueprints import BLUEPRINTS
from ..workflows.shipped import APPS

WIDTH = 1900
COLUMNS = 5
KINDS = {"classic": False, "nodes2": True}
"""How nodes are drawn, and the setting `Comfy.VueNodes.Enabled`."""
BETWEEN = 60


def main() -> None:
    """Take pictures of fresh nodes, blueprints and apps."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--page", type=Path, help="another front end than that of the ComfyUI")
    parser.add_argument("--language", default="en", help="of the page, such as zh")
    parser.add_argument("--only", nargs="*", default=list(VIEWS), choices=list(VIEWS))
    arguments = parser.parse_args()

    base: Path = arguments.base.resolve()
    set_miniature_stage(base)
    extra = ("--cpu", "--front-end-root", str(arguments.page.resolve())) if arguments.page else ("--cpu",)
    with ComfyServer(arguments.comfyui.resolve(), base, log=base / "look-server.log", extra_args=extra) as server:
        for kind, newer in KINDS.items():
            settings = {**BARE, "Comfy.VueNodes.Enabled": newer, "Comfy.Locale": arguments.language}
            for view in arguments.only:
                with chromium() as browser:
                    for path in VIEWS[view](browser, server.url, settings, arguments.out / f"{kind}-{view}"):
                        print(path, flush=True)


def fresh_nodes(browser: Browser, url: str, settings: dict[str, object], out: Path) -> Sequence[Path]:
    """Every node of the pack as it comes onto an empty graph."""
    page = ComfyPage.open(browser, url, settings)
    put_every_node(page)
    page.hide_everything_else()
    page.frame(WIDTH)
    made = [page.screenshot(out.with_suffix(".png"))]
    page.close()
    return made


def put_every_node(page: ComfyPage) -> None:
    """Every node of the pack on an empty graph, in columns, each as the page makes it."""
    hands.new_graph(page)
    page.page.evaluate(
        """() => {
            const types = Object.keys(LiteGraph.registered_node_types).filter(type => type.startsWith('CrossInit'))
            for (const [index, type] of types.entries()) {
                const node = LiteGraph.createNode(type)
                node.pos = [600 * index, 80]
                app.graph.add(node)
            }
        }"""
    )
    page.page.wait_for_timeout(1000)  # the newer nodes say what they need after they were drawn
    boxes = sorted(enumerate(page.nodes()), key=lambda numbered: numbered[1].bottom)
    places: list[tuple[float, float]] = [(0, 0)] * len(boxes)
    left = 40.0
    rows = -(-len(boxes) // COLUMNS)
    for start in range(0, len(boxes), rows):
        column = boxes[start : start + rows]
        top = 80.0
        for number, box in column:
            places[number] = (left, top)
            top += box.bottom - box.top + BETWEEN
        left += max(box.right - box.left for _, box in column) + BETWEEN
    page.page.evaluate(
        """places => {
            for (const [index, node] of app.graph.nodes.entries()) node.pos = places[index]
            app.canvas.setDirty(true, true)
        }""",
        places,
    )
    page.page.wait_for_timeout(500)


def blueprints(browser: Browser, url: str, settings: dict[str, object], out: Path) -> Sequence[Path]:
    """Each blueprint in the search, as a node, and from inside."""
    made: list[Path] = []
    page = ComfyPage.open(browser, url, settings)
    for number, name in enumerate(BLUEPRINTS, start=1):
        hands.new_graph(page)
        hands.open_search(page, (700, 300))
        hands.search(page, name.lower())
        made.append(page.screenshot(out.with_name(f"{out.name}-{number}-search.png")))
        hands.close_search(page)
        hands.add_from_search(page, name.lower(), name, (700, 300))
        page.page.mouse.move(1500, 900)
        page.page.wait_for_timeout(1000)
        made.append(page.screenshot(out.with_name(f"{out.name}-{number}-node.png")))
        page.page.evaluate("() => { const [node] = app.graph.nodes; app.canvas.openSubgraph(node.subgraph, node) }")
        page.page.wait_for_timeout(500)
        page.command("Comfy.Canvas.FitView")
        page.page.wait_for_timeout(1000)
        made.append(page.screenshot(out.with_name(f"{out.name}-{number}-inside.png")))
        page.page.evaluate("() => app.canvas.setGraph(app.rootGraph ?? app.graph.rootGraph)")
    page.close()
    return made


def apps(browser: Browser, url: str, settings: dict[str, object], out: Path) -> Sequence[Path]:
    """Each workflow that is an app, in App mode."""
    made: list[Path] = []
    for name in APPS:
        page = ComfyPage.open(browser, url, settings)
        open_app(page, PACK / "workflows" / f"{name}.json")
        made.append(page.screenshot(out.with_name(f"{out.name}-{name}.png")))
        page.command("Comfy.ToggleLinear")
        page.close()
    return made


def open_app(page: ComfyPage, workflow: Path) -> None:
    """Open a workflow in App mode, without the page's tour."""
    page.load(workflow)
    page.page.wait_for_timeout(1000)  # the page ends a load by going back to the graph
    page.command("Comfy.ToggleLinear")
    for welcome in ("Skip", "Close"):
        try:
            page.page.get_by_role("dialog").get_by_role("button", name=welcome).click(timeout=2000)
            break
        except TimeoutError:
            continue
    page.settle()


View = Callable[[Browser, str, dict[str, object], Path], Sequence[Path]]
VIEWS: dict[str, View] = {"fresh": fresh_nodes, "blueprints": blueprints, "apps": apps}

if __name__ == "__main__":
    main()
