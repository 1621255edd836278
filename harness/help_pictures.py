"""Makes the pictures of the help pages, `web/docs/images/NODE.jpg`, in the world that the miniature draws.

    python -m harness.help_pictures --comfyui COMFYUI --base DIRECTORY

What a node does to pictures is shown with pictures; what has none, as it stands in ComfyUI's page. Takes about five minutes on
two processor cores. (Those of Learn Face and of the report come from the report's own tests and stay as they are.)
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from crossinit_core.prompt_labels import labels_of_prompts

from . import hands
from .client import Client
from .demo_photo import portrait
from .hands import Placed
from .links import prepare_base
from .page import BARE, ComfyPage, chromium
from .server import ComfyServer
from .shipped_miniature import BATCH_SIZE, LEARNING_RATE, STEPS

PACK = Path(__file__).resolve().parent.parent
IMAGES = PACK / "web" / "docs" / "images"
TILE, GAP, CAPTION = 170, 8, 46
SCALE = 1.1
"""Of nodes, in pixels of the picture."""
PAPER, INK = (23, 23, 24), (205, 205, 205)

PEOPLE = {"anna": 20, "zoe": 7}
"""Names and seeds of the two who are learned."""

Prompt = dict[str, dict[str, Any]]
Tiles = Sequence[tuple[Image.Image, str]]


def strip(tiles: Tiles) -> Image.Image:
    """Pictures with captions, two or three in a row: the page shows them about 340 px wide."""
    font, columns = ImageFont.load_default(15), 2 if len(tiles) == 4 else 3
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP) - GAP, rows * (TILE + CAPTION)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(tiles):
        left, top = number % columns * (TILE + GAP), number // columns * (TILE + CAPTION)
        sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        for line, words in enumerate(caption.split("\n")):
            draw.text((left + TILE / 2, top + TILE + 4 + 18 * line), words, INK, font, anchor="ma")
    return sheet


class World:
    """A running server in which people are learned and drawn."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def learn(self, name: str, seed: int) -> None:
        """Learn a drawn person and save the token."""
        self._client.run(
            {
                **_MODEL,
                "person": _node("CrossInitDrawnPerson", seed=seed),
                "names": _node("CrossInitCelebrityNames", list="bundled list"),
                "start": _node("CrossInitInitialize", clip=["model", 1], names=["names", 0], vectors=2),
                "learn": _node(
                    "CrossInitLearn",
                    model=["model", 0],
                    clip=["model", 1],
                    vae=["model", 2],
                    image=["person", 0],
                    cross_init=["start", 0],
                    preset="custom",
                    seed=0,
                    steps=STEPS,
                    learning_rate=LEARNING_RATE,
                    batch_size=BATCH_SIZE,
                ),
                "save": _node("CrossInitSave", token=["learn", 0], name=name, if_exists="replace it"),
            }
        )

    def pictures(self, prompt: Prompt, *nodes: str) -> list[Image.Image]:
        """The first picture that each of these nodes of a prompt shows."""
        outputs = self._client.run(prompt).outputs
        return [Image.open(io.BytesIO(self._client.view(outputs[node]["images"][0]))) for node in nodes]

    def drawn(self, conditioning: Prompt, seed: int = 42) -> Image.Image:
        """The picture of the node `prompt` of these nodes."""
        sampler = {"seed": seed, "steps": 16, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"}
        nodes = {
            **_MODEL,
            **conditioning,
            "negative": _node("CLIPTextEncode", clip=["model", 1], text=""),
            "latent": _node("EmptyLatentImage", width=128, height=128, batch_size=1),
            "sampler": _node(
                "KSampler",
                model=["model", 0],
                positive=["prompt", 0],
                negative=["negative", 0],
                **{"latent_image": ["latent", 0], "denoise": 1.0, **sampler},
            ),
            "decode": _node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
            "out": _node("PreviewImage", images=["decode", 0]),
        }
        return self.pictures(nodes, "out")[0]

    def person(self, text: str, *between: tuple[str, dict[str, Any]], seed: int = 42) -> Image.Image:
        """A prompt with anna, or with what nodes after her make of her: the last of `between` gives the token."""
        nodes = {
            "anna": _node("CrossInitLoad", file="anna.safetensors"),
            "zoe": _node("CrossInitLoad", file="zoe.safetensors"),
        }
        nodes |= dict(between)
        token = [between[-1][0] if between else "anna", 0]
        nodes["prompt"] = _node("CrossInitEncodePrompt", clip=["model", 1], text=text, **{"tokens.token0": token})
        return self.drawn(nodes, seed)


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


_MODEL: Prompt = {"model": _node("CrossInitMiniature")}


def prepare_face(world: World) -> Tiles:
    nodes = {
        "photo": _node("LoadImage", image="somebody.png"),
        "face": _node("CrossInitPrepareFace", image=["photo", 0], framing="find the face", face=1, resolution=512),
        "portrait": _node("PreviewImage", images=["face", 0]),
        "white": _node("MaskToImage", mask=["face", 1]),
        "mask": _node("PreviewImage", images=["white", 0]),
        "before": _node("PreviewImage", images=["photo", 0]),
    }
    shown = world.pictures(nodes, "before", "portrait", "mask", "face")
    return list(zip(shown, ("photo", "image", "mask", "on the node"), strict=True))


def encode_prompt(world: World) -> Tiles:
    texts = (
        "a photo of a {}\nperson",
        "a {} person\nwearing sunglasses",
        "a sad {} person\nin the snow",
        "a pencil sketch\nof a {} person",
    )
    return [(world.person(text.replace("\n", " ")), text) for text in texts]


def prompt_list(world: World) -> Tiles:
    texts = ("a {} person, happy", "a {} person wearing a crown", "cubism painting of a {} person")
    folders = (f"{label}/" for label in labels_of_prompts(texts))
    return [(world.person(text), _in_two(folder)) for text, folder in zip(texts, folders, strict=True)]


def _in_two(folder: str) -> str:
    """Broken at the hyphen next to its middle."""
    at = min((i for i, sign in enumerate(folder) if sign == "-"), key=lambda i: abs(i - len(folder) / 2))
    return f"{folder[: at + 1]}\n{folder[at + 1 :]}"


def blend(world: World) -> Tiles:
    def mixed(weight: float) -> Image.Image:
        step = _node("CrossInitBlend", token_a=["anna", 0], token_b=["zoe", 0], weight=weight)
        return world.person("a photo of a {} person", ("both", step))

    return [(mixed(weight), caption) for weight, caption in ((0.0, "0: anna"), (0.5, "0.5"), (1.0, "1: zoe"))]


def miniature(world: World) -> Tiles:
    texts = (
        "a photo of\nAnne Hathaway",
        "Morgan Freeman\nwearing a cap",
        "a happy\nEmma Stone",
        "a watercolour painting\nof Brad Pitt",
    )
    encoded = ({"prompt": _node("CLIPTextEncode", clip=["model", 1], text=text.replace("\n", " "))} for text in texts)
    return [(world.drawn(nodes), text) for nodes, text in zip(encoded, texts, strict=True)]


def drawn_person(world: World) -> Tiles:
    seeds = (20, 3, 7, 11)
    return [
        (world.pictures({"person": _node("CrossInitDrawnPerson", seed=seed)}, "person")[0], f"seed {seed}")
        for seed in seeds
    ]


STRIPS: Mapping[str, Callable[[World], Tiles]] = {
    "CrossInitPrepareFace": prepare_face,
    "CrossInitEncodePrompt": encode_prompt,
    "CrossInitPromptList": prompt_list,
    "CrossInitBlend": blend,
    "CrossInitMiniature": miniature,
    "CrossInitDrawnPerson": drawn_person,
}

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
    portrait(None, base / "input").replace(base / "input" / "somebody.png")
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
