"""Model families: their names, and how they are told apart by the width of their text encoders."""

from __future__ import annotations

WIDTH_TO_BASE = {768: "sd1", 1024: "sd2", 256: "miniature"}
BASE_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "miniature": "the drawn miniature"}

MINIATURE = "crossinit-miniature"
"""The checkpoint's name of the miniature that is shipped."""


def base_of_width(width: int) -> str:
    """`sd1` for 768, `sd2` for 1024, else `width-D`."""
    return WIDTH_TO_BASE.get(width, f"width-{width}")


def describe_width(width: int) -> str:
    """The model family of a text encoder's width, for people."""
    return BASE_NAMES.get(base_of_width(width), "SDXL's second encoder" if width == 1280 else "another family")
