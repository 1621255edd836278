"""Texts that people type into boxes or send by wire: what cannot be sent, or is too long, is refused before it is used."""

from __future__ import annotations

from ..crossinit_core.text import check_text

LONGEST_PROMPT = 100_000
"""Characters of one prompt. That is more than three hundred sections of 77 tokens, and each makes every step slower."""

LONGEST_LIST = 2**20
"""Characters of a box with many lines."""

LONGEST_LINE = 1000
"""Characters of a box for a name or a few words."""

_DEEPEST = 100
"""Parentheses inside parentheses. ComfyUI's reader of prompts calls itself for each, and ends at about a thousand."""


def check_box(text: str | None, what: str, longest: int = LONGEST_LIST) -> None:
    """Raises ValueError if the text of a box cannot be written, or is too long. None: it comes by wire, so is not known yet."""
    if text is None:
        return
    if len(text) > longest:
        raise ValueError(f"{what} has {len(text):,} characters, but at most {longest:,} are taken. Shorten it.")
    check_text(text, what)


def check_prompt(text: str | None, what: str = "The prompt") -> None:
    """As `check_box`, for one prompt. Raises ValueError for too many parentheses inside each other, too."""
    check_box(text, what, LONGEST_PROMPT)
    depth = 0
    for character in (text or "").replace("\\(", "").replace("\\)", ""):
        depth += (character == "(") - (character == ")")
        if depth > _DEEPEST:
            raise ValueError(f"{what} has more than {_DEEPEST} parentheses inside each other. Take some of them away.")
