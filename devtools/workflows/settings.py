"""Settings with which the shipped workflows are run: unchanged but for sizes and the amount of work."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Change
from .miniature import BATCH_SIZE, DRESSED_SAMPLER, LEARNING_RATE, PLAIN_SAMPLER, SAMPLING, STEPS

SIDE = 128
"""Side of the miniature's pictures, in pixels."""

ON_MINIATURE: Sequence[Change] = (
    ("CrossInitPrepareFace", "resolution", SIDE),
    ("CrossInitLearn", "preset", "custom"),
    ("CrossInitLearn", "learning_rate", LEARNING_RATE),
    ("EmptyLatentImage", "width", SIDE),
    ("EmptyLatentImage", "height", SIDE),
    ("ImageScaleToTotalPixels", "megapixels", 0.02),
    ("ImageGrid", "cell_width", SIDE),
    ("ImageGrid", "cell_height", SIDE),
    ("KSampler", "cfg", SAMPLING["cfg"]),
)
"""What the miniature needs in the place of a full-size checkpoint."""

GOOD: Sequence[Change] = (
    ("CrossInitLearn", "steps", STEPS),
    ("CrossInitLearn", "batch_size", BATCH_SIZE),
    ("KSampler", "steps", SAMPLING["steps"]),
)
"""Enough for pictures that are worth a look."""

QUICK: Sequence[Change] = (
    ("CrossInitLearn", "steps", 3),
    ("CrossInitLearn", "batch_size", 1),
    ("KSampler", "steps", 2),
)
"""The least work with which a workflow still does everything."""

SMALL: Sequence[Change] = (
    ("CrossInitLearn", "preset", "custom"),
    *QUICK,
    ("CrossInitLearn", "resolution", 64),
    ("EmptyLatentImage", "width", 64),
    ("EmptyLatentImage", "height", 64),
)
"""The same on stand-ins of full size, for workflows with one node of each type."""

SMALL_MINIATURE: Sequence[Change] = (
    ("CrossInitLearn", "steps", 2),
    ("CrossInitLearn", "batch_size", 1),
    ("EmptyLatentImage", "batch_size", 1),
    (PLAIN_SAMPLER, "steps", 2),
    (DRESSED_SAMPLER, "steps", 2),
)
"""The same for the workflow on the miniature, which needs no stand-ins."""
