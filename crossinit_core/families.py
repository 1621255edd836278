"""Model families: their names, how the width of their text encoders tells them apart, and what all of them share."""

from __future__ import annotations

WIDTH_TO_BASE = {768: "sd1", 1024: "sd2", 256: "miniature"}
BASE_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "miniature": "the drawn miniature"}

MINIATURE = "crossinit-miniature"
"""The checkpoint's name of the miniature that is shipped."""

CONTEXT_LENGTH = 77
"""Tokens that CLIP's text encoder reads at once, BOS and EOS included."""

TIMESTEPS = 1000
"""Levels of noise in the schedule that the UNet was trained on; timesteps go from 0 to 999."""


def base_of_width(width: int) -> str:
    """`sd1` for 768, `sd2` for 1024, else `width-D`."""
    return WIDTH_TO_BASE.get(width, f"width-{width}")


def describe_width(width: int) -> str:
    """The model family of a text encoder's width, for people."""
    return BASE_NAMES.get(base_of_width(width), "SDXL's second encoder" if width == 1280 else "another family")


# What is said of models that cannot learn a face: the same words wherever a model is looked at.

USE_KNOWN_FAMILY = "Use an SD 1.x or 2.x model."
UNCLIP = "SD 2.1 unCLIP"


def other_family(what: str) -> str:
    return f"is {what}, which cannot learn a face with this method"


def special_version(what: str) -> str:
    return f"is {what}, a special version. Use the base model of its family"


def for_inpainting(channels: object) -> str:
    """Of a UNet that takes so many channels; `special_version` needs it."""
    return f"for inpainting or editing (its UNet takes {channels} channels)"
