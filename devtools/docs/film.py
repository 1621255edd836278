"""Makes the film of the README, `docs/images/film.webp`: from a portrait to pictures of the person, in ComfyUI's page.

    python -m devtools.docs.film --comfyui COMFYUI --base DIRECTORY [--page .host/page-1.58.1]

It is the shipped workflow on the miniature, as it is: whoever has the pack can press Run and see the same. Only waiting is
shortened, and the caption says so.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..comfyui.links import PACK, prepare_base
from ..comfyui.server import ComfyServer
from ..page.driver import BARE, ComfyPage, chromium
from ..workflows.miniature import DRESSED_PICTURES, PLAIN_PICTURES
from ..workflows.miniature import WORKFLOW as MINIATURE

FILM = PACK / "docs" / "images" / "film.webp"
LARGEST = 3_000_000
QUALITIES = (80, 70, 60, 50, 40)
"""The first whose film is not too large is taken."""

WIDTH, HEIGHT, CAPTION = 1000, 620, 44
PAPER, INK = (23, 23, 24), (235, 235, 235)
EDGES = (70, 95, 20, 20)
"""What the page's own bars take of the window: left, top, right, bottom."""

FRAME = 140
"""Milliseconds that a frame stays while something moves."""
STILL = 2200
"""Milliseconds for which a caption can be read."""
LEARNING = 48
"""Frames of all that is seen of learning."""
QUIET = "[data-testid=queue-progress-overlay], [data-testid=queue-notification-banner] { display: none !important }"
"""The page's own boxes about the queue would cover the nodes."""
SIZES = {"CrossInitLearn": (380, 560), "CrossInitDrawnPerson": (340, 420), "SaveImage": (420, 480)}
"""Smaller than in the workflow's file, so that what happens is seen from nearer."""
PROMPT = "a sad {} person wearing a crown in the snow"
DRESSED = "The person in a prompt"


@dataclass
class Film:
    """Pictures of an open page, each with a caption and how long it stays."""

    page: ComfyPage
    frames: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    caption: str = ""
    hand: tuple[float, float] = (WIDTH * 0.7, HEIGHT * 0.7)
    _camera: tuple[float, float, float] = (0, 0, 1)

    def still(self, caption: str = "", milliseconds: int = STILL) -> None:
        """One frame that stays, with another caption if one is given."""
        self.caption = caption or self.caption
        self._take(milliseconds)

    def move(self, *titles: str, caption: str = "", frames: int = 7) -> None:
        """Bring these nodes or groups into the window, and stay there for as long as a caption takes."""
        self.caption = caption or self.caption
        boxes = [box for box in (*self.page.nodes(), *self.page.groups()) if not titles or box.title in titles]
        left, top = min(box.left for box in boxes), min(box.top for box in boxes)
        right, bottom = max(box.right for box in boxes), max(box.bottom for box in boxes)
        before_x, before_y, after_x, after_y = EDGES
        wide, high = WIDTH - before_x - after_x, HEIGHT - before_y - after_y
        scale = min(wide / (right - left), high / (bottom - top))
        start, end = self._camera, ((left + right) / 2, (top + bottom) / 2, scale)
        for number in range(1, frames + 1):
            part = number / frames
            eased = part * part * (3 - 2 * part)
            self._look(tuple(a + (b - a) * eased for a, b in zip(start, end, strict=True)))
            self._take(FRAME // 2)

    def reach(self, x: float, y: float, frames: int = 5) -> None:
        """Move the hand there."""
        (from_x, from_y) = self.hand
        for number in range(1, frames + 1):
            part = number / frames
            self.hand = (from_x + (x - from_x) * part, from_y + (y - from_y) * part)
            self._take(FRAME // 2)

    def press_run(self) -> None:
        """Move the hand to Run and press it."""
        box = self.page.page.get_by_test_id("queue-button").bounding_box()
        assert box is not None
        self.reach(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self._take(FRAME * 3)
        self.page.start()

    def watch(self, until: Callable[[], bool], at_most: int, every: float = 0.5, seconds: float = 900) -> None:
        """Take frames until something is so, and keep at most so many, evenly."""
        first, end = len(self.frames), time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError("The film waited in vain.")
            self._take(FRAME)
            time.sleep(every)
        self._take(FRAME)
        taken = len(self.frames) - first
        if taken > at_most:
            kept = {first + round(number * (taken - 1) / (at_most - 1)) for number in range(at_most)}
            self.frames[first:] = [self.frames[number] for number in sorted(kept)]
            self.durations[first:] = [FRAME] * len(kept)

    def _look(self, camera: tuple[float, ...]) -> None:
        x, y, scale = camera
        self._camera = (x, y, scale)
        middle_x, middle_y = (EDGES[0] + WIDTH - EDGES[2]) / 2, (EDGES[1] + HEIGHT - EDGES[3]) / 2
        self.page.page.evaluate(
            """([x, y, scale, left, top]) => {
                const canvas = app.canvas.canvas.getBoundingClientRect()
                app.canvas.ds.scale = scale
                app.canvas.ds.offset = [(left - canvas.left) / scale - x, (top - canvas.top) / scale - y]
                app.canvas.setDirty(true, true)
            }""",
            [x, y, scale, middle_x, middle_y],
        )

    def _take(self, milliseconds: int) -> None:
        shown = Image.open(io.BytesIO(self.page.picture())).convert("RGB")
        frame = Image.new("RGB", (WIDTH, HEIGHT + CAPTION), PAPER)
        frame.paste(shown, (0, 0))
        draw = ImageDraw.Draw(frame)
        x, y = self.hand
        arrow = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]
        draw.polygon([(x + a, y + b) for a, b in arrow], fill="white", outline="black")
        font = ImageFont.load_default(19)
        if draw.textlength(self.caption, font) > WIDTH - 20:
            raise ValueError(f"The caption '{self.caption}' is wider than the film.")
        draw.text((WIDTH / 2, HEIGHT + CAPTION / 2), self.caption, INK, font, anchor="mm")
        self.frames.append(frame)
        self.durations.append(milliseconds)


def shoot(page: ComfyPage) -> Film:
    """The whole way, from pressing Run to another prompt."""
    film = Film(page)
    page.load(PACK / "workflows" / f"{MINIATURE}.json")
    page.settle()

    def shown(node: str) -> bool:
        return bool(page.pictures(node))

    def ended() -> bool:
        return bool(page.page.evaluate("() => window.crossinitEnd"))

    for node, size in SIZES.items():
        page.page.evaluate(
            "([type, size]) => app.graph.nodes.filter(n => n.type === type).forEach(n => n.setSize(size))", [node, size]
        )
    page.page.add_style_tag(content=QUIET)

    film.move(caption="Workflow 04 is in the pack and downloads nothing. Press Run.", frames=1)
    film.still()
    film.press_run()
    film.move(
        "Paint Drawn Person (demo)",
        "Load Celebrity Names",
        caption="A portrait of somebody whom the tiny model has never seen.",
    )
    film.watch(lambda: shown("CrossInitDrawnPerson"), at_most=6)
    film.still()
    film.move(
        "Load Celebrity Names",
        "Cross Initialization",
        "Learn Face (train)",
        caption="Learning starts at the average of many well-known people.",
    )
    film.still()
    film.move("Paint Drawn Person (demo)", "Learn Face (train)")
    began = time.monotonic()
    film.caption = "Learn Face finds the word vectors of this person (12 to 15 s on two processor cores, shortened)."
    film.watch(lambda: bool(page.text("CrossInitSave")), at_most=LEARNING)
    print(f"from there to the saved token: {time.monotonic() - began:.0f} s", flush=True)
    film.still()
    film.move("Save Learned Token", "Where it goes", caption="What you keep is a small file. The model stays as it is.")
    film.still()
    film.move(DRESSED, PLAIN_PICTURES, DRESSED_PICTURES, caption="In a prompt, {} is the person.")
    film.watch(ended, at_most=12)
    page.wait_for_end()
    film.still(milliseconds=STILL * 3 // 2)

    film.move(DRESSED, caption="Another prompt: nothing is learned anew.")
    box = page.element(DRESSED).locator("textarea").first.bounding_box()
    assert box is not None
    film.reach(box["x"] + 60, box["y"] + 40)
    for end in range(0, len(PROMPT), 3):
        page.set_widget(DRESSED, "text", PROMPT[:end])
        film.still(milliseconds=FRAME)
    page.set_widget(DRESSED, "text", PROMPT)
    film.still(milliseconds=FRAME * 4)
    film.press_run()
    film.move(DRESSED, PLAIN_PICTURES, DRESSED_PICTURES)
    film.watch(ended, at_most=14)
    page.wait_for_end()
    film.reach(WIDTH * 0.3, HEIGHT * 0.9)
    film.still("LoRA, ControlNet and samplers go on as before: the person is a word.", milliseconds=STILL * 2)
    return film


def encoded(film: Film) -> bytes:
    """The film as WebP, in the best quality in which it is small enough."""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        first, *rest = film.frames
        first.save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=rest,
            duration=film.durations,
            loop=0,
            quality=quality,
            method=4,
            minimize_size=True,
        )
        print(f"quality {quality}: {len(buffer.getvalue()) / 1000:.0f} KB", flush=True)
        if len(buffer.getvalue()) <= LARGEST:
            return buffer.getvalue()
    raise ValueError(f"The film is larger than {LARGEST} bytes in every quality.")


def main() -> None:
    """Make the film anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="an empty folder for its models and pictures")
    parser.add_argument("--page", type=Path, help="another front end than that of the ComfyUI")
    parser.add_argument("--out", type=Path, default=FILM, help="the file to write")
    arguments = parser.parse_args()

    base: Path = arguments.base.resolve()
    prepare_base(base, PACK)
    front = ("--front-end-root", str(arguments.page.resolve())) if arguments.page else ()
    with (
        ComfyServer(arguments.comfyui.resolve(), base, log=base / "film-server.log", extra_args=front) as server,
        chromium() as browser,
    ):
        settings = {**BARE, "Comfy.VueNodes.Enabled": True, "Comfy.Execution.PreviewMethod": "latent2rgb"}
        film = shoot(ComfyPage.open(browser, server.url, settings, width=WIDTH, height=HEIGHT))
    seconds = sum(film.durations) / 1000
    content = encoded(film)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(content)
    print(f"{arguments.out.name}: {len(film.frames)} frames, {seconds:.0f} s, {len(content) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
