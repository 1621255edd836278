"""What a caption says about a scene, what a text asks of one, and the prompts of the evaluation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossinit_core.prompts import TEMPLATES

from ..world.identity import pick
from ..world.scene import CLOTHING_COLOURS, PLAIN_BACKGROUNDS, Scene

_MEDIA: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of ", "a photo of ", "", "", "a portrait of "),
    "sketch": ("a pencil sketch of ", "a pencil sketch of ", "a pencil drawing of "),
    "watercolour": ("a watercolour painting of ", "a watercolor painting of ", "a watercolour of "),
    "pixel": ("pixel art of ", "a pixel art picture of "),
    "cubist": ("cubism painting of ", "a cubist painting of "),
}
_PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach"),
    "forest": ("in the forest", "in a forest"),
    "city": ("in the city", "in a city"),
    "space": ("in space", "in outer space"),
    "snow": ("in the snow",),
}
_BACKDROPS = ("on a {} background", "with a {} background", "in front of a {} background")
_HATS: dict[str, tuple[str, str]] = {
    "cap": ("a cap", "caps"),
    "beanie": ("a beanie", "beanies"),
    "cowboy": ("a cowboy hat", "cowboy hats"),
    "crown": ("a crown", "crowns"),
}
_CLOTHES: dict[str, tuple[str, str]] = {
    "tshirt": ("a {}t-shirt", "t-shirts"),
    "sweater": ("a {}sweater", "sweaters"),
    "suit": ("a {}suit", "suits"),
    "spacesuit": ("a spacesuit", "spacesuits"),
}


def caption(scene: Scene, names: Sequence[str | None], rng: np.random.Generator) -> str:
    """A text in the prompt styles of the paper: "a sad NAME person", "NAME wearing sunglasses on the beach".

    `names` has one entry a person, from left to right; None is somebody without a name. Everything in which the
    scene differs from a plain portrait is said. A neutral expression, a t-shirt and the colours of clothes and of
    a plain background are said now and then, and only if they are so; pose is not said.
    """
    several = len(names) > 1
    mood = scene.expression
    adjective = suffix = ""
    if mood != "neutral":
        if rng.random() < 0.5:
            adjective = "smiling" if mood == "happy" and rng.random() < 0.3 else mood
        else:
            suffix = f" with {mood} expressions" if several else f" with {_article(mood)} expression"
    elif rng.random() < 0.04:
        suffix = " with neutral expressions" if several else " with a neutral expression"
    parts = [_one(_MEDIA[scene.style], rng), _subject(names, adjective, rng), suffix]
    worn = _worn(scene, several, rng)
    if worn:
        parts.append(f"{' and' if suffix else ''} wearing {_listed(worn)}")
    if scene.background in _PLACES:
        parts.append(f" {_one(_PLACES[scene.background], rng)}")
    elif rng.random() < 0.3:
        parts.append(f" {_one(_BACKDROPS, rng).format(scene.background)}".replace(" a orange", " an orange"))
    return "".join(parts)


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.random() * len(choices))]


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _subject(names: Sequence[str | None], adjective: str, rng: np.random.Generator) -> str:
    if len(names) > 1 and all(name is None for name in names):
        return f"two {adjective} people".replace("  ", " ")
    described = f"{adjective} " if adjective else ""
    first, *others = names
    if first is None:
        text = _article(f"{described}person")
    else:
        form = pick(rng, {"a NAME person": 50, "NAME person": 15, "NAME": 35})
        text = described + form.removeprefix("a ").replace("NAME", first)
        if form.startswith("a "):
            text = _article(text) if described else f"a {text}"
    return " and ".join([text, *(name or "another person" for name in others)])


def _worn(scene: Scene, several: bool, rng: np.random.Generator) -> list[str]:
    plural = several and rng.random() < 0.6
    worn = [] if scene.eyewear == "none" else [scene.eyewear]
    if scene.hat != "none":
        worn.append(_HATS[scene.hat][plural])
    if scene.headphones == "yes":
        worn.append("headphones")
    coloured = not several and rng.random() < 0.45
    if scene.clothing != "tshirt" or rng.random() < 0.2:
        colour = f"{scene.clothing_colour} " if coloured else ""
        worn.append(_CLOTHES[scene.clothing][plural].format(colour).replace("a orange", "an orange"))
    return worn


def training_caption(names: Sequence[str | None], rng: np.random.Generator) -> str:
    """A training template filled with "face of NAME person", "NAME person" or NAME; for plain portraits of one."""
    template = TEMPLATES[int(rng.random() * len(TEMPLATES))]
    (name,) = names
    who = pick(rng, {"face of {} person": 60, "{} person": 25, "{}": 15})
    if name is None:
        who = "person" if who == "{}" else who.replace("{} person", "person" if rng.random() < 0.5 else "a person")
        return template.format(who).replace("a a person", "a person")
    return template.format(who.format(name))


def posed(scene: Scene, text: str) -> Scene:
    """The scene with its pose moved to what a training template says: dark, bright, close-up, cropped, ..."""
    words = set(re.findall(r"[a-z-]+", text))
    if "dark" in words:
        scene = replace(scene, light=-0.75)
    if "bright" in words:
        scene = replace(scene, light=0.75)
    if words & {"close-up", "cropped"}:
        scene = replace(scene, scale=scene.scale * 1.16)
    if "large" in words:
        scene = replace(scene, scale=scene.scale * 1.08)
    if "small" in words:
        scene = replace(scene, scale=scene.scale * 0.86)
    if "weird" in words:
        scene = replace(scene, roll=scene.roll * 2.2)
    return scene


def fixed_texts() -> tuple[str, ...]:
    """All that captions are made of but for names: no name should have a word of them."""
    worn = [*itertools.chain(*_HATS.values(), *_CLOTHES.values()), "sunglasses glasses headphones wearing"]
    moods = "happy sad angry surprised neutral smiling expression expressions with"
    people = "two people, a person and another person, an face of in front"
    media, places = itertools.chain(*_MEDIA.values()), itertools.chain(*_PLACES.values())
    return (*TEMPLATES, *media, *places, *_BACKDROPS, *worn, moods, people, *CLOTHING_COLOURS, *PLAIN_BACKGROUNDS)


_ASKS: tuple[tuple[str, str, str], ...] = (
    ("expression", "happy", r"\b(happy|smiling)\b"),
    ("expression", "sad", r"\bsad\b"),
    ("expression", "angry", r"\bangry\b"),
    ("expression", "surprised", r"\bsurprised\b"),
    ("expression", "neutral", r"\bneutral\b"),
    ("eyewear", "glasses", r"\bglasses\b"),
    ("eyewear", "sunglasses", r"\bsunglasses\b"),
    ("hat", "cap", r"\bcaps?\b"),
    ("hat", "beanie", r"\bbeanies?\b"),
    ("hat", "cowboy", r"\bcowboy hats?\b"),
    ("hat", "crown", r"\bcrowns?\b"),
    ("headphones", "yes", r"\bheadphones\b"),
    ("clothing", "tshirt", r"\bt-shirts?\b"),
    ("clothing", "sweater", r"\bsweaters?\b"),
    ("clothing", "suit", r"\bsuits?\b"),
    ("clothing", "spacesuit", r"\bspacesuits?\b"),
    *(("clothing_colour", colour, rf"\b{colour} (t-shirt|sweater|suit)\b") for colour in CLOTHING_COLOURS),
    *(("background", colour, rf"\b{colour} background\b") for colour in PLAIN_BACKGROUNDS),
    ("background", "beach", r"\b(on|at) the beach\b"),
    ("background", "forest", r"\bin (the|a) forest\b"),
    ("background", "city", r"\bin (the|a) city\b"),
    ("background", "space", r"\bin (outer )?space\b"),
    ("background", "snow", r"\bin the snow\b"),
    ("style", "sketch", r"\bpencil (sketch|drawing)\b"),
    ("style", "watercolour", r"\bwatercolou?r\b"),
    ("style", "pixel", r"\bpixel art\b"),
    ("style", "cubist", r"\bcubis[mt]\b"),
    ("companion", "yes", r"\btwo ([a-z]+ )?people\b|\band (another person|\{\})"),
)


def asked(text: str) -> dict[str, str]:
    """The scene attributes that a caption or prompt names: "a sad {} person" gives {"expression": "sad"}."""
    found = {attribute: value for attribute, value, pattern in _ASKS if re.search(pattern, text)}
    # Whatever else follows an "and" in lower case is worn.
    if any(rest[:1].isupper() for rest in text.split(" and ")[1:]):
        found["companion"] = "yes"
    return found


@dataclass(frozen=True)
class Prompt:
    """A prompt of the evaluation: `{}` is the learned person, `asks` the scene attributes that must be seen."""

    text: str
    asks: Mapping[str, str]


PROMPTS: tuple[Prompt, ...] = (
    Prompt("a photo of a {} person", {}),
    Prompt("a {} person with a sad expression", {"expression": "sad"}),
    Prompt("a {} person with a happy expression", {"expression": "happy"}),
    Prompt("a {} person with a surprised expression", {"expression": "surprised"}),
    Prompt("a {} person with an angry expression", {"expression": "angry"}),
    Prompt("a {} person wearing headphones", {"headphones": "yes"}),
    Prompt("a {} person wearing sunglasses on the beach", {"eyewear": "sunglasses", "background": "beach"}),
    Prompt("a {} person wearing a cap and glasses", {"hat": "cap", "eyewear": "glasses"}),
    Prompt("a {} person wearing a sweater in the forest", {"clothing": "sweater", "background": "forest"}),
    Prompt("a {} person wearing a spacesuit in space", {"clothing": "spacesuit", "background": "space"}),
    Prompt("a {} person and Anne Hathaway wearing crowns", {"companion": "yes", "hat": "crown"}),
    Prompt("a {} person and Anne Hathaway in the snow", {"companion": "yes", "background": "snow"}),
    Prompt("a photo of a {} person and Anne Hathaway", {"companion": "yes"}),
    Prompt(
        "a happy {} person and Anne Hathaway on the beach",
        {"companion": "yes", "expression": "happy", "background": "beach"},
    ),
    Prompt(
        "a {} person and Anne Hathaway wearing suits in the city",
        {"companion": "yes", "clothing": "suit", "background": "city"},
    ),
    Prompt("cubism painting of a {} person", {"style": "cubist"}),
    Prompt("a watercolour painting of a {} person", {"style": "watercolour"}),
    Prompt("a pencil sketch of a {} person", {"style": "sketch"}),
    Prompt("pixel art of a {} person", {"style": "pixel"}),
    Prompt("a pencil sketch of a {} person wearing a cowboy hat", {"style": "sketch", "hat": "cowboy"}),
)
"""The paper's 20 prompts in the drawn world, in the paper's order.

Puzzled becomes surprised; LEGO, fighter jet and backpack become things that can be worn and places; what the two do
together becomes where they are; fauvism, cave mural, pointillism and latte art become the styles that the painter has.
"""
