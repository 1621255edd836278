"""Takes the pictures of the documentation in ComfyUI's real page: `docs/images/` and the thumbnails in `workflows/`.

    python -m harness.screenshots --comfyui COMFYUI --base DIRECTORY
    python -m harness.screenshots ... --checkpoint v2-1_512-ema-pruned.safetensors --photo me.jpg

Without a checkpoint it runs a stand-in with random weights at small sizes: the pictures in the pictures are noise then.
With one it runs the workflows as they are shipped, and leaves out those for which there is no model.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .links import prepare_base
from .page import BARE, ComfyPage, chromium
from .server import ComfyServer
from .shipped import CHECKPOINT, MINIATURE, PHOTO, TOKEN_FILE
from .stage import PACK, set_stage

WORKFLOWS = PACK / "workflows"
IMAGES = PACK / "docs" / "images"

WIDTH = 1600
THUMBNAIL_WIDTH = 600
LARGEST_IMAGE, LARGEST_THUMBNAIL = 500_000, 80_000

# Enough steps for a loss curve, and a picture that is no postage stamp.
STANDIN_SIZES: Sequence[tuple[str, str, Any]] = (
    ("CrossInitLearn", "preset", "fast"),
    ("CrossInitLearn", "batch_size", 1),
    ("CrossInitLearn", "resolution", 64),
    ("EmptyLatentImage", "width", 256),
    ("EmptyLatentImage", "height", 256),
    ("KSampler", "steps", 6),
)

# Which groups a thumbnail shows; none means all.
THUMBNAIL_GROUPS: dict[str, tuple[str, ...]] = {
    "01-learn-a-face": (),
    "02-use-a-learned-face": ("2. Prompt", "3. Picture"),
    "03-learned-face-with-controlnet": ("2. Pose", "3. Prompt and pose together", "4. Picture"),
    MINIATURE: (),
}


def main() -> int:
    """Take every picture anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="an empty folder for its models and pictures")
    parser.add_argument("--checkpoint", type=Path, help="a Stable Diffusion 2.x checkpoint")
    parser.add_argument("--photo", type=Path, help="a photo of a person")
    parser.add_argument("--only", choices=tuple(THUMBNAIL_GROUPS), help="take the pictures of one workflow")
    arguments = parser.parse_args()
    base: Path = arguments.base.resolve()
    names = [arguments.only] if arguments.only else list(THUMBNAIL_GROUPS)
    if names == [MINIATURE]:
        prepare_base(base, PACK)
    elif arguments.checkpoint is None:
        set_stage(base, lambda name, make: _made(base / "stand-ins" / name, make))
    else:
        prepare_base(base, PACK)
        shutil.copyfile(arguments.checkpoint, base / "models" / "checkpoints" / CHECKPOINT)
        names = [name for name in names if "controlnet" not in name]
    if arguments.photo is not None:
        Image.open(arguments.photo).save(base / "input" / PHOTO)
    # The first workflow is to save it, under its plain name.
    (base / "models" / "embeddings" / TOKEN_FILE).unlink(missing_ok=True)

    sizes = STANDIN_SIZES if arguments.checkpoint is None else ()
    with (
        ComfyServer(arguments.comfyui.resolve(), base, log=base / "screenshots-server.log") as server,
        chromium() as browser,
    ):
        for name in names:
            page = ComfyPage.open(browser, server.url, {**BARE, "Comfy.VueNodes.Enabled": True})
            _take(page, name, () if name == MINIATURE else sizes)
            page.close()
    return 0


def _take(page: ComfyPage, name: str, sizes: Sequence[tuple[str, str, Any]]) -> None:
    workflow = WORKFLOWS / f"{name}.json"
    page.load(workflow)
    for node, widget, value in sizes:
        if page.has_node(node):
            page.set_widget(node, widget, value)
    page.run(seconds=3600)
    page.hide_everything_else()
    if name == MINIATURE:
        page.frame(WIDTH)
        _write(_as_palette(page.picture()), IMAGES / "workflow.png", LARGEST_IMAGE)
    page.frame(2 * THUMBNAIL_WIDTH, groups=THUMBNAIL_GROUPS[name])
    _write(_as_thumbnail(page.picture()), WORKFLOWS / f"{name}.jpg", LARGEST_THUMBNAIL)


def _as_palette(picture: bytes) -> bytes:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    palette = image.quantize(256, kmeans=4)
    image = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _as_thumbnail(picture: bytes) -> bytes:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    height = round(image.height * THUMBNAIL_WIDTH / image.width)
    buffer = io.BytesIO()
    image.resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()


def _write(content: bytes, path: Path, largest: int) -> None:
    if len(content) > largest:
        raise ValueError(f"{path.name} would be {len(content)} bytes; at most {largest} are wanted.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path.relative_to(PACK)}: {len(content) / 1000:.0f} KB")


def _made(path: Path, make: Any) -> Path:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
