"""Takes the pictures of the documentation in ComfyUI's real page: `docs/images/` and the thumbnails in `workflows/`.

    python -m devtools.docs.screenshots --comfyui COMFYUI --base DIRECTORY
    python -m devtools.docs.screenshots ... --checkpoint v2-1_512-ema-pruned.safetensors --photo me.jpg

Without a checkpoint the workflows run on the miniature: painted people, learned and dressed as the workflows say, at 128 px.
With one they run as they are shipped, without those that need more than a checkpoint and a photo.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Browser

from crossinit_core import load_learned_token

from ..comfyui.links import PACK
from ..comfyui.server import ComfyServer
from ..page.driver import BARE, ComfyPage, chromium
from ..standins.faces import put_faces
from ..standins.miniature.stage import set_miniature_stage
from ..standins.photos import SECOND_PHOTO
from ..workflows.faces import SHEET, STRIP
from ..workflows.graph import Change
from ..workflows.miniature import DRESSED_PICTURES
from ..workflows.parts import CHECKPOINT, PHOTO, SECOND_TOKEN_FILE, TOKEN_FILE
from ..workflows.settings import GOOD, ON_MINIATURE
from ..workflows.shipped import MINIATURE, WORKFLOWS
from ..workflows.stock import EDGES, FIRST_PICTURE, SECOND_SAMPLER

FILES = PACK / "workflows"
IMAGES = PACK / "docs" / "images"

WIDTH = 1600
LARGEST_IMAGE, LARGEST_THUMBNAIL = 500_000, 80_000

THUMBNAIL = 512
"""Side of a thumbnail: the browser of templates shows squares."""
PICTURES_HEIGHT = 250
GAP = 6
BACKGROUND = (23, 23, 24)

FIRST = "01-learn-a-face"
"""The one that makes the face for all others."""


class Shown(NamedTuple):
    """What a thumbnail shows above the graph: the pictures of these nodes, by title or type."""

    nodes: Sequence[str]
    each: int = 1
    changes: Sequence[Change] = ()


TWO = (("EmptyLatentImage", "batch_size", 2),)
FAST = (("CrossInitLearn", "steps", 80),)
"""The miniature's 25 steps show nobody yet."""
GENTLE = (("ImageScaleBy", "scale_by", 1.25), (SECOND_SAMPLER, "denoise", 0.25))
"""A model trained on 128 px adds a second head where there is room."""
SIDE_BY_SIDE = ("CrossInitEncodePrompt", "text", "a {} person and {} in the snow")
"""How the miniature's captions name two people."""
ANEW = (("CrossInitLearn", "resume", False),)
"""For the live pictures, which a face that is learned already does not have."""

SHOWN: dict[str, Shown] = {
    FIRST: Shown(("LoadImage", "SaveImage")),
    "02-use-a-learned-face": Shown(("SaveImage",), 2, TWO),
    "03-learned-face-with-controlnet": Shown((EDGES, "SaveImage")),
    MINIATURE: Shown(("CrossInitDrawnPerson", DRESSED_PICTURES)),
    "05-learn-a-face-fast": Shown(("LoadImage", "SaveImage"), changes=FAST),
    "06-one-face-many-prompts": Shown((SHEET,)),
    "07-change-the-expression": Shown((STRIP,)),
    "08-two-people": Shown(("SaveImage",), 2, (*TWO, SIDE_BY_SIDE)),
    "09-lora-and-second-pass": Shown((FIRST_PICTURE, "SaveImage"), changes=GENTLE),
    "10-inpaint-into-a-photo": Shown(("LoadImage", "SaveImage")),
    "11-learn-from-several-photos": Shown(("CrossInitPrepareFace", "SaveImage"), 3),
    "12-compare-initializations": Shown(("SaveImage",), changes=FAST),
    "13-bring-in-other-embeddings": Shown(("SaveImage",)),
    "14-learn-a-face-on-sdxl": Shown(("LoadImage", "SaveImage")),
    "15-sdxl-with-controlnet": Shown((EDGES, "SaveImage")),
}
NEED_NO_MORE = (
    FIRST,
    "02-use-a-learned-face",
    "05-learn-a-face-fast",
    "06-one-face-many-prompts",
    "07-change-the-expression",
)
"""Those for which a checkpoint and a photo are enough."""


def main() -> int:
    """Take every picture anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="an empty folder for its models and pictures")
    parser.add_argument("--checkpoint", type=Path, help="a Stable Diffusion 2.x checkpoint")
    parser.add_argument("--photo", type=Path, help="a photo of a person")
    parser.add_argument("--page", type=Path, help="another front end than that of the ComfyUI")
    parser.add_argument("--only", choices=tuple(WORKFLOWS), action="append", help="take the pictures of this workflow")
    arguments = parser.parse_args()
    base: Path = arguments.base.resolve()
    faces = base / "models" / "embeddings"
    settings: Sequence[Change] = (*ON_MINIATURE, *GOOD)
    names = [name for name in WORKFLOWS if name in (arguments.only or WORKFLOWS)]
    # By an earlier call with this base; the miniature's own workflow needs nobody.
    learned = _is_learned(faces / TOKEN_FILE) or names == [MINIATURE]
    if not _is_learned(faces / TOKEN_FILE):
        set_miniature_stage(base)
    if arguments.checkpoint is not None:
        shutil.copyfile(arguments.checkpoint, base / "models" / "checkpoints" / CHECKPOINT)
        names, settings = [name for name in names if name in NEED_NO_MORE], ()
    if arguments.photo is not None:
        Image.open(arguments.photo).save(base / "input" / PHOTO)

    front = ("--front-end-root", str(arguments.page.resolve())) if arguments.page else ()
    with (
        ComfyServer(arguments.comfyui.resolve(), base, log=base / "screenshots-server.log", extra_args=front) as server,
        chromium() as browser,
    ):
        if not learned:
            page = _opened(browser, server)
            _learn_faces(page, faces, settings, both=arguments.checkpoint is None)
            page.close()
        for name in names:
            page = _opened(browser, server)
            _take(page, name, () if name == MINIATURE else settings)
            page.close()
    return 0


def _opened(browser: Browser, server: ComfyServer) -> ComfyPage:
    settings = {**BARE, "Comfy.VueNodes.Enabled": True, "Comfy.Execution.PreviewMethod": "latent2rgb"}
    return ComfyPage.open(browser, server.url, settings)


def _is_learned(file: Path) -> bool:
    return file.is_file() and "crossinit.steps" in load_learned_token(file).metadata


def _learn_faces(page: ComfyPage, faces: Path, settings: Sequence[Change], both: bool) -> None:
    """Learn the face that most workflows use, and a second one, which stand-ins stood for until now."""
    people = [(PHOTO, TOKEN_FILE)] + ([(SECOND_PHOTO, SECOND_TOKEN_FILE)] if both else [])
    for photo, file in people:
        page.load(FILES / f"{FIRST}.json")
        changes = (("LoadImage", "image", photo), ("CrossInitSave", "name", Path(file).stem))
        page.set_widgets(*settings, *changes, ("CrossInitSave", "if_exists", "replace it"))
        page.run(seconds=3600)
        print(f"{file}: {page.text('CrossInitLearn')}")
    if both:
        put_faces(faces, *(load_learned_token(faces / file) for _, file in people))


def _take(page: ComfyPage, name: str, settings: Sequence[Change]) -> None:
    shown = SHOWN[name]
    page.load(FILES / f"{name}.json")
    page.set_widgets(*settings, *ANEW, *shown.changes)
    page.run(seconds=3600)
    page.hide_everything_else()
    page.frame(WIDTH)
    graph = Image.open(io.BytesIO(page.picture())).convert("RGB")
    if name == MINIATURE:
        _write(_as_palette(graph), IMAGES / "workflow.png", LARGEST_IMAGE)
    pictures = [picture for node in shown.nodes for picture in _pictures(page, node)[: shown.each]]
    _write(_as_jpeg(_thumbnail(pictures, graph)), FILES / f"{name}.jpg", LARGEST_THUMBNAIL)


def _pictures(page: ComfyPage, node: str) -> list[Image.Image]:
    """What the one node of this type or title shows, whole."""
    addresses = page.page.evaluate(
        """wanted => {
            const node = app.graph.nodes.find(n => n.title === wanted) ?? app.graph.nodes.find(n => n.type === wanted)
            const shown = app.nodeOutputs[node.id]?.images
            return (shown ?? [{ filename: node.widgets.find(w => w.name === 'image').value, type: 'input' }])
                .map(image => `/api/view?${new URLSearchParams(image)}`)
        }""",
        node,
    )
    return [Image.open(io.BytesIO(page.page.request.get(page.url + address).body())) for address in addresses]


def _thumbnail(pictures: Sequence[Image.Image], graph: Image.Image) -> Image.Image:
    """A square: the pictures side by side, of one height, and the graph below."""
    sheet = Image.new("RGB", (THUMBNAIL, THUMBNAIL), BACKGROUND)
    wide = sum(picture.width / picture.height for picture in pictures)
    height = min(PICTURES_HEIGHT, int((THUMBNAIL - GAP * (len(pictures) - 1)) / wide))
    widths = [round(height * picture.width / picture.height) for picture in pictures]
    left = (THUMBNAIL - sum(widths) - GAP * (len(widths) - 1)) // 2
    for picture, width in zip(pictures, widths, strict=True):
        scaled = picture.convert("RGBA").resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(scaled, (left, 0), scaled)
        left += width + GAP
    room = THUMBNAIL - height - GAP
    scale = min(THUMBNAIL / graph.width, room / graph.height)
    small = graph.resize((round(graph.width * scale), round(graph.height * scale)), Image.Resampling.LANCZOS)
    sheet.paste(small, ((THUMBNAIL - small.width) // 2, height + GAP + (room - small.height) // 2))
    return sheet


def _as_palette(image: Image.Image) -> bytes:
    palette = image.quantize(256, kmeans=4)
    buffer = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _as_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()


def _write(content: bytes, path: Path, largest: int) -> None:
    if len(content) > largest:
        raise ValueError(f"{path.name} would be {len(content)} bytes; at most {largest} are wanted.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path.relative_to(PACK)}: {len(content) / 1000:.0f} KB")


if __name__ == "__main__":
    sys.exit(main())
