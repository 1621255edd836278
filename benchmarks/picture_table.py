"""Small pictures in rows and columns with their names, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture_table(rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]], titles: Sequence[str]) -> bytes:
    """A PNG of 256 colours.

    rows: each row's name, which is broken after a comma, and its pictures, (height, width, 3).
    titles: what stands above the columns.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(len(titles) * 1.1 + 2.4, len(rows) * 1.12 + 0.9))
    left = 2.4 / figure.get_figwidth()
    grid = figure.add_gridspec(
        len(rows), len(titles), left=left, right=0.995, bottom=0.005,
        top=1 - 0.85 / figure.get_figheight(), wspace=0.03, hspace=0.03,
    )  # fmt: skip
    for i, (name, pictures) in enumerate(rows):
        for j, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[i, j])
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            if j == 0:
                axes.set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=8)
            if i == 0:
                axes.set_title("\n".join(textwrap.wrap(titles[j], 18)), fontsize=6.5)
    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, dpi=110, bbox_inches="tight", pad_inches=0.05)
    Image.open(drawn).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()
