"""Whether a token suits a checkpoint of its own family: Pony and Illustrious are SDXL in layout, but do not share their words."""

from __future__ import annotations

from ..families import lineage_group, lineage_of
from ..text import quoted
from .metadata import BASE, CHECKPOINT, LINEAGE, Metadata

_WITHOUT_LINEAGES = ("sd1", "sd2", "miniature")


def other_lineage(metadata: Metadata, checkpoint: str) -> str:
    """One sentence if a token's metadata says that it was learned on another lineage of SDXL than the checkpoint's.

    `checkpoint` is the name of the checkpoint that the token is used with. The result is empty if both are of one group, or if
    the names do not tell.
    """
    if metadata.get(BASE) in _WITHOUT_LINEAGES:
        return ""
    learned_on = metadata.get(LINEAGE) or lineage_of(metadata.get(CHECKPOINT, ""))
    used_with = lineage_of(checkpoint)
    groups = lineage_group(learned_on), lineage_group(used_with)
    if not all(groups) or groups[0] == groups[1]:
        return ""
    return (
        f"This person was learned on {learned_on}, but '{quoted(checkpoint, 60)}' is {used_with}, another lineage of SDXL: "
        "expect less likeness, or learn the face on this checkpoint."
    )
