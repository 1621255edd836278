"""Model families: their names, how the widths of their text encoders tell them apart, and what all of them share."""

from __future__ import annotations

import re
from collections.abc import Sequence

SDXL_WIDTHS = (768, 1280)
"""CLIP-L's and CLIP-G's."""

BASES: dict[tuple[int, ...], str] = {(768,): "sd1", (1024,): "sd2", SDXL_WIDTHS: "sdxl", (256,): "miniature"}
"""By the widths of the text encoders' token embeddings, in the order of a vector's columns."""
BASE_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL", "miniature": "the drawn miniature"}

MINIATURE = "crossinit-miniature"
"""The checkpoint's name of the miniature that is shipped."""

CONTEXT_LENGTH = 77
"""Tokens that CLIP's text encoder reads at once, BOS and EOS included."""

TIMESTEPS = 1000
"""Levels of noise in the schedule that the UNet was trained on; timesteps go from 0 to 999."""


def base_of_widths(widths: Sequence[int]) -> str:
    """`sd1` for 768, `sd2` for 1024, `sdxl` for 768 and 1280, else `width-D` or `width-D+E`."""
    return BASES.get(tuple(widths), f"width-{'+'.join(map(str, widths))}")


def is_pair(widths: Sequence[int]) -> bool:
    """Whether these can be the widths of two text encoders: SDXL's, or those of a small model with SDXL's structure, which has
    none of the widths that stand for a family, and the wider encoder second."""
    known = {width for widths in BASES for width in widths}
    return tuple(widths) == SDXL_WIDTHS or (len(widths) == 2 and widths[0] < widths[1] and not known & set(widths))


def encoder_names(widths: Sequence[int]) -> tuple[str, ...]:
    """What the text encoders of these widths are called: `CLIP-L` and `CLIP-G` if there are two, else one empty name."""
    return ("CLIP-L", "CLIP-G") if len(widths) == 2 else ("",)


def describe_widths(widths: Sequence[int]) -> str:
    """The model family of the text encoders' widths, for people."""
    if tuple(widths) == (1280,):
        return "SDXL's second encoder"
    return BASE_NAMES.get(base_of_widths(widths), "another family")


def shown_widths(widths: Sequence[int]) -> str:
    """`1024`, or `768 + 1280`."""
    return " + ".join(map(str, widths))


# Lineages: checkpoints of SDXL have the same layout, but some were trained so long that they speak another language.

_ANIME = (
    ("NoobAI", r"noob|naixl"),
    ("Illustrious", r"illustri|ilustri|illustmix|ilustmix|rouwei|\b(il|ilxl|xlil)\b"),
    ("Pony", r"pony|autismmix|\b(pdxl|pdv6|pny)\b"),
    ("Animagine XL", r"animagine"),
)
_LIKE_BASE = (
    ("Juggernaut XL", r"juggernaut"),
    ("RealVisXL", r"realvis"),
    ("DreamShaper XL", r"dreamshaperxl"),
    ("epiCRealism XL", r"epicrealismxl"),
    ("CyberRealistic XL", r"cyberrealisticxl"),
    ("ZavyChroma XL", r"zavychroma"),
    ("AlbedoBase XL", r"albedobase"),
    ("LEOSAM HelloWorld XL", r"helloworldxl"),
    ("ProtoVision XL", r"protovision"),
    ("NightVision XL", r"nightvisionxl"),
    ("Copax TimeLess XL", r"copaxtimeless"),
    ("Realities Edge XL", r"realitiesedge"),
    ("SDXL base", r"(stablediffusion|sd)xl(v?1?0?)base|^sdxl(v?10)?(fp16|vae|vaefix|09vae)*$"),
)
"""By what their file names hold, without signs between the letters; `\\b` also stands where a name written in camel case has a
new word. The first that fits counts, so a child is named before its parent."""

_GROUPS = {"NoobAI": "Illustrious", **{name: name for name, _ in _ANIME[1:]}, **dict.fromkeys(dict(_LIKE_BASE), "SDXL")}
"""NoobAI was trained from Illustrious; what stays near to SDXL base, photographic checkpoints above all, is one group."""

_LONGEST_CHECKPOINT = 1000
_WORD = re.compile(r"[A-Z]+(?=v\d)|[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def lineage_of(checkpoint: str) -> str:
    """Which child of SDXL a checkpoint is, guessed from its name or path: `Pony`, `Illustrious`, `NoobAI`, `SDXL base`,
    `Juggernaut XL` .. An empty string if the name does not tell, or tells of two.

    People keep checkpoints in folders called after lineages: these count if the file's own name does not tell.
    """
    file, *folders = reversed(re.split(r"[/\\]+", checkpoint[-_LONGEST_CHECKPOINT:].rstrip("/\\")))
    file = re.sub(r"\.(safetensors|sft|ckpt|pt|bin|gguf)$", "", file, flags=re.IGNORECASE)
    found = [name for name, pattern in _ANIME if _holds(file, pattern)]
    if len({lineage_group(name) for name in found}) > 1:
        return ""
    found += [name for name, pattern in _LIKE_BASE if _holds(file, pattern)]
    found += [name for folder in folders for name, pattern in _ANIME if _holds(folder, pattern)]
    return found[0] if found else ""


def lineage_group(lineage: str) -> str:
    """What a lineage has in common with others, between which tokens travel well; an empty string for an unknown one."""
    return _GROUPS.get(lineage, "")


def _holds(name: str, pattern: str) -> bool:
    plain = re.sub(r"[^a-z0-9]", "", name.casefold())
    words = " ".join(_WORD.findall(name)).casefold()
    return bool(re.search(pattern, plain) if "\\b" not in pattern else re.search(pattern, f"{plain}  {words}"))


# What is said of models that cannot learn a face: the same words wherever a model is looked at.

USE_KNOWN_FAMILY = "Use an SD 1.x, SD 2.x or SDXL model."
UNCLIP = "SD 2.1 unCLIP"


def other_family(what: str) -> str:
    return f"is {what}, which cannot learn a face with this method"


def special_version(what: str) -> str:
    return f"is {what}, a special version. Use the base model of its family"


def for_inpainting(channels: object) -> str:
    """Of a UNet that takes so many channels; `special_version` needs it."""
    return f"for inpainting or editing (its UNet takes {channels} channels)"
