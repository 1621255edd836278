"""Settings with which the shipped workflows are run: unchanged but for sizes and the amount of work."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Change
from .miniature import DRESSED_SAMPLER, PLAIN_SAMPLER, PRESET, SAMPLING

SIDE = 128
"""Side of the miniature's pictures, in pixels."""

ON_MINIATURE: Sequence[Change] = (
    ("CrossInitPrepareFace", "resolution", SIDE),
    ("EmptyLatentImage", "width", SIDE),
    ("EmptyLatentImage", "height", SIDE),
    ("ImageScaleToTotalPixels", "megapixels", 0.02),
    ("ImageGrid", "cell_width", SIDE),
    ("ImageGrid", "cell_height", SIDE),
    ("KSampler", "cfg", SAMPLING["cfg"]),
)
"""What the miniature needs in the place of a full-size checkpoint."""

GOOD: Sequence[Change] = (
    ("CrossInitLearn", "preset", PRESET),
    ("KSampler", "steps", SAMPLING["steps"]),
)
"""Enough for pictures that are worth a look."""

QUICK: Sequence[Change] = (
    ("CrossInitLearn", "preset", "custom"),
    ("CrossInitLearn", "steps", 3),
    ("CrossInitLearn", "batch_size", 1),
    ("KSampler", "steps", 2),
)
"""The least work with which a workflow still does everything."""

SMALL: Sequence[Change] = (
    *QUICK,
    ("CrossInitLearn", "resolution", 64),
    ("EmptyLatentImage", "width", 64),
    ("EmptyLatentImage", "height", 64),
)
"""The same on stand-ins of full size, for workflows with one node of each type."""

SMALL_MINIATURE: Sequence[Change] = (
    ("CrossInitLearn", "preset", "custom"),
    ("CrossInitLearn", "steps", 2),
    ("CrossInitLearn", "batch_size", 1),
    ("EmptyLatentImage", "batch_size", 1),
    (PLAIN_SAMPLER, "steps", 2),
    (DRESSED_SAMPLER, "steps", 2),
)
"""The same for the workflow on the miniature, which needs no stand-ins."""
