"""What the help pages of some nodes show: pictures side by side, made by running the nodes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from crossinit_core.prompt_labels import labels_of_prompts

from ..comfyui.client import Client
from ..workflows.miniature import PRESET

TILE, GAP, CAPTION = 170, 8, 46
PAPER, INK = (23, 23, 24), (205, 205, 205)

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
    """A running server in which people are learned and sampled."""

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
                    preset=PRESET,
                    seed=0,
                ),
                "save": _node("CrossInitSave", token=["learn", 0], name=name, if_exists="replace it"),
            }
        )

    def pictures(self, prompt: Prompt, *nodes: str) -> list[Image.Image]:
        """The first picture that each of these nodes of a prompt shows."""
        outputs = self._client.run(prompt).outputs
        return [Image.open(io.BytesIO(self._client.view(outputs[node]["images"][0]))) for node in nodes]

    def sample(self, conditioning: Prompt, seed: int = 42) -> Image.Image:
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

    def person(
        self, text: str, *between: tuple[str, dict[str, Any]], seed: int = 42, strength: float = 1.0
    ) -> Image.Image:
        """A prompt with anna, or with what nodes after her make of her: the last of `between` gives the token."""
        nodes = {
            "anna": _node("CrossInitLoad", file="anna.safetensors"),
            "zoe": _node("CrossInitLoad", file="zoe.safetensors"),
        }
        nodes |= dict(between)
        token = [between[-1][0] if between else "anna", 0]
        inputs = {"text": text, "strength": strength, "tokens.token0": token}
        nodes["prompt"] = _node("CrossInitEncodePrompt", clip=["model", 1], **inputs)
        return self.sample(nodes, seed)


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


def strength(world: World) -> Tiles:
    """The dial, low, as learned, and high."""
    texts = ("a photo of a {} person", "a sad {} person wearing a crown")
    return [(world.person(text, strength=x), f"{x:g}") for text in texts for x in (0.5, 1.0, 1.5)]


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
    return [(world.sample(nodes), text) for nodes, text in zip(encoded, texts, strict=True)]


def drawn_person(world: World) -> Tiles:
    seeds = (20, 3, 7, 11)
    return [
        (world.pictures({"person": _node("CrossInitDrawnPerson", seed=seed)}, "person")[0], f"seed {seed}")
        for seed in seeds
    ]


def likeness(world: World) -> Tiles:
    """The photo, and how alike three changed copies of it are; needs dlib."""
    nodes = {
        "photo": _node("LoadImage", image="somebody.png"),
        "shown": _node("PreviewImage", images=["photo", 0]),
        "mirrored": _node("ImageFlip", image=["photo", 0], flip_method="y-axis: horizontally"),
        "blurred": _node("ImageBlur", image=["photo", 0], blur_radius=15, sigma=10.0),
        "narrow": _node(
            "ImageScale", image=["photo", 0], upscale_method="bicubic", width=360, height=512, crop="disabled"
        ),
    }
    changed = ("mirrored", "blurred", "narrow")
    nodes |= {
        f"{way} score": _node("CrossInitLikeness", images=[way, 0], photos=["photo", 0], recognizer="dlib", keep=0)
        for way in changed
    }
    shown = world.pictures(nodes, "shown", *(f"{way} score" for way in changed))
    return list(zip(shown, ("photo", *changed), strict=True))


STRIPS: Mapping[str, Callable[[World], Tiles]] = {
    "CrossInitPrepareFace": prepare_face,
    "CrossInitEncodePrompt": encode_prompt,
    "CrossInitEncodePrompt-strength": strength,
    "CrossInitPromptList": prompt_list,
    "CrossInitBlend": blend,
    "CrossInitLikeness": likeness,
    "CrossInitMiniature": miniature,
    "CrossInitDrawnPerson": drawn_person,
}
"""What makes the pictures of a node; the second one of a node has a word after its id."""
