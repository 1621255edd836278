"""Model families: their names, how the widths of their text encoders tell them apart, and what all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BASES: dict[tuple[int, ...], str] = {(768,): "sd1", (1024,): "sd2", (768, 1280): "sdxl", (256,): "miniature"}
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


def describe_widths(widths: Sequence[int]) -> str:
    """The model family of the text encoders' widths, for people."""
    if tuple(widths) == (1280,):
        return "SDXL's second encoder"
    return BASE_NAMES.get(base_of_widths(widths), "another family")


def shown_widths(widths: Sequence[int]) -> str:
    """`1024`, or `768 + 1280`."""
    return " + ".join(map(str, widths))


def other_lineage(metadata: Mapping[str, str], checkpoint: str) -> str:
    """One sentence if a token was learned on another lineage than the checkpoint's, by their names; else an empty string."""
    return ""


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
