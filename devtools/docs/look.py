"""Takes pictures of every workflow and every help page as a newcomer sees them, for a person to look at.

    python -m devtools.docs.look --comfyui COMFYUI --base DIRECTORY --out FOLDER [--page .host/page-1.58.1]

Nothing runs: the workflows are as they open, in classic nodes and in Nodes 2.0, and each node stands beside its help page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser

from ..comfyui.client import Client
from ..comfyui.links import PACK
from ..comfyui.server import ComfyServer
from ..page.driver import BARE, ComfyPage, chromium
from ..standins.miniature.stage import set_miniature_stage
from .locales import english

WIDTH = 1900
HELP_WIDTH, HELP_HEIGHT = 1200, 700
KINDS = {"classic": False, "nodes2": True}
"""How nodes are drawn, and the setting `Comfy.VueNodes.Enabled`."""


def main() -> None:
    """Take pictures of every workflow and help page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--page", type=Path, help="another front end than that of the ComfyUI")
    parser.add_argument("--language", default="en", help="of the page, such as zh")
    parser.add_argument("--only", nargs="*", default=[""], metavar="PART", help="names that hold one of these")
    arguments = parser.parse_args()

    base: Path = arguments.base.resolve()
    set_miniature_stage(base)
    extra = ("--cpu", "--front-end-root", str(arguments.page.resolve())) if arguments.page else ("--cpu",)
    with ComfyServer(arguments.comfyui.resolve(), base, log=base / "look-server.log", extra_args=extra) as server:
        with Client(server.url) as client:
            nodes = list(english(client.object_info()))
        for kind in KINDS:
            with chromium() as browser:
                look(browser, server.url, kind, arguments.language, nodes, arguments.out, arguments.only)


def look(
    browser: Browser, url: str, kind: str, language: str, nodes: Sequence[str], out: Path, only: Sequence[str]
) -> None:
    """The pictures of one kind of nodes, in one language."""
    drawn = {"Comfy.VueNodes.Enabled": KINDS[kind], "Comfy.Locale": language}
    page = ComfyPage.open(browser, url, {**BARE, **drawn})
    page.hide_everything_else()
    for file in sorted((PACK / "workflows").glob("*.json")):
        if any(part in file.stem for part in only):
            page.load(file)
            page.page.wait_for_timeout(500)
            page.frame(WIDTH)
            print(page.screenshot(out / f"{file.stem}-{kind}-{language}.png"), flush=True)
    page.close()

    page = ComfyPage.open(browser, url, drawn, width=HELP_WIDTH, height=HELP_HEIGHT)
    for node in nodes:
        if any(part in node for part in only):
            page.add_node(node)
            shown = page.open_help()
            shown.locator("img").first.wait_for()
            page.page.wait_for_timeout(500)
            # As tall as the whole help.
            bottom = shown.evaluate("help => help.getBoundingClientRect().top + help.scrollHeight")
            page.page.set_viewport_size(
                {"width": HELP_WIDTH, "height": max(HELP_HEIGHT, min(round(bottom) + 40, 5000))}
            )
            page.page.wait_for_timeout(300)
            print(page.screenshot(out / f"help-{node}-{kind}-{language}.png"), flush=True)
    page.close()


if __name__ == "__main__":
    main()
