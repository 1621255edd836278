"""Makes the pictures of the help pages, `web/docs/images/NODE.jpg`, in the miniature's painted world.

    python -m devtools.docs.help_pictures --comfyui COMFYUI --base DIRECTORY

What a node does to pictures is shown with pictures; what has none, as it stands in ComfyUI's page. Takes about five minutes on
two processor cores. (Those of Learn Face and of the report come from the report's own tests and stay as they are.)
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ..comfyui.client import Client
from ..comfyui.links import PACK, prepare_base
from ..comfyui.server import ComfyServer
from ..page import hands
from ..page.driver import BARE, ComfyPage, chromium
from ..page.hands import Placed
from ..standins.photos import put_astronaut
from .strips import STRIPS, World, strip

IMAGES = PACK / "web" / "docs" / "images"
SCALE = 1.1
"""Of nodes, in pixels of the picture."""

PEOPLE = {"anna": 20, "zoe": 7}
"""Names and seeds of the two who are learned."""

HIDDEN = "only makes the others run"
_CLIP = Placed("CrossInitMiniature", (0, 800), title=HIDDEN)
_TOKEN = Placed("CrossInitLoad", (0, 1000), {"file": "anna.safetensors"}, title=HIDDEN)


def _run(node: str) -> Placed:
    return Placed("PreviewAny", (0, 1200), {}, {"source": (node, 0)}, title=HIDDEN)


SCENES: Mapping[str, Mapping[str, Placed]] = {
    "CrossInitCelebrityNames": {"names": Placed("CrossInitCelebrityNames", (0, 0), width=300), "out": _run("names")},
    "CrossInitInitialize": {
        "clip": _CLIP,
        "names": Placed("CrossInitCelebrityNames", (0, 0), width=300),
        "start": Placed("CrossInitInitialize", (40, 250), {}, {"clip": ("clip", 1), "names": ("names", 0)}, width=300),
        "out": _run("start"),
    },
    "CrossInitInitializeWords": {
        "clip": _CLIP,
        "start": Placed("CrossInitInitializeWords", (0, 0), {"words": "human face"}, {"clip": ("clip", 1)}, width=300),
        "out": _run("start"),
    },
    "CrossInitApply": {
        "model": _CLIP,
        "token": _TOKEN,
        "apply": Placed("CrossInitApply", (0, 0), {}, {"clip": ("model", 1), "token": ("token", 0)}, width=300),
        "prompt": Placed(
            "CLIPTextEncode",
            (40, 250),
            {"text": "a photo of a embedding:anna person, smiling"},
            {"clip": ("apply", 0)},
            width=300,
        ),
        "out": _run("prompt"),
    },
    "CrossInitRescale": {
        "token": _TOKEN,
        "shorter": Placed("CrossInitRescale", (0, 0), {"amount": 0.5}, {"token": ("token", 0)}, width=300),
        "out": _run("shorter"),
    },
    "CrossInitSave": {
        "token": _TOKEN,
        "save": Placed(
            "CrossInitSave", (0, 0), {"name": "anna", "if_exists": "replace it"}, {"token": ("token", 0)}, width=300
        ),
    },
    "CrossInitLoad": {
        "token": Placed("CrossInitLoad", (0, 0), {"file": "anna.safetensors"}, width=300),
        "out": _run("token"),
    },
}
"""Nodes as they stand in the page."""


def main() -> None:
    """Make the pictures of the help pages anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    parser.add_argument("--only", nargs="*", default=[*STRIPS, *SCENES], metavar="NODE")
    arguments = parser.parse_args()

    base = arguments.base.resolve()
    prepare_base(base, PACK)
    put_astronaut(base / "input" / "somebody.png")
    with ComfyServer(arguments.comfyui.resolve(), base, log=base / "help-server.log") as server:
        with Client(server.url) as client:
            world = World(client)
            for name, seed in PEOPLE.items():
                if not (base / "models" / "embeddings" / f"{name}.safetensors").is_file():
                    world.learn(name, seed)
            for node in set(STRIPS) & set(arguments.only):
                _write(strip(STRIPS[node](world)), node)
        with chromium() as browser:
            page = ComfyPage.open(browser, server.url, {**BARE, "Comfy.VueNodes.Enabled": True})
            page.hide_everything_else()
            for node in set(SCENES) & set(arguments.only):
                _write(scene(page, SCENES[node]), node)


def scene(page: ComfyPage, nodes: Mapping[str, Placed]) -> Image.Image:
    """These nodes after a run."""
    hands.put(page, nodes)
    # What ran for another picture would not run again, and so say nothing.
    page.page.request.post(f"{page.url}/api/free", data={"free_memory": True})
    page.page.wait_for_timeout(500)
    page.page.evaluate("() => { window.crossinitEnd = null }")
    page.command("Comfy.QueuePrompt")
    page.wait_for_end()
    page.page.evaluate(
        "title => app.graph.nodes.filter(n => n.title === title).forEach(n => app.graph.remove(n))", HIDDEN
    )
    boxes = page.nodes()
    width = max(box.right for box in boxes) - min(box.left for box in boxes)
    page.frame(round((width + 40) * SCALE))
    return Image.open(io.BytesIO(page.picture()))


def _write(picture: Image.Image, node: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{node}.jpg"
    picture.convert("RGB").save(path, quality=86, optimize=True)
    print(f"{path.name}: {picture.width} x {picture.height} px, {path.stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
