"""A contact sheet: pictures in rows, each with what it is below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE, GAP, MARGIN = 240, 18, 28
LINE, MARK = 20, 18
PAPER, INK, FAINT, YES, NO = "#ffffff", "#1b1f24", "#6a737d", "#1a7f37", "#cf222e"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """A picture (H, W, 3) uint8, its caption, and marks below: a text, and whether it is so (None: neither)."""

    picture: NDArray[np.uint8]
    caption: str
    marks: Sequence[tuple[str, bool | None]] = ()
    framed: bool = False


def contact_sheet(title: str, lines: Sequence[str], tiles: Sequence[Tile], columns: int) -> Image.Image:
    """Title, lines below it, and the tiles from left to right in rows of `columns`."""
    big, text, small = (ImageFont.load_default(size) for size in (26, 15, 14))
    captions = [_wrapped(tile.caption, text, TILE) for tile in tiles]
    marks = [_rows_of_marks(tile.marks, small) for tile in tiles]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [TILE + 8 + max(len(captions[i]) * LINE + len(marks[i]) * MARK for i in row) + GAP for row in rows]
    head = MARGIN + 36 + len(lines) * 22 + GAP
    width = 2 * MARGIN + columns * TILE + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, big)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 40 + number * 22), line, FAINT, text)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = MARGIN + column * (TILE + GAP)
            picture = Image.fromarray(tiles[i].picture).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top))
            if tiles[i].framed:
                draw.rectangle((left - 4, top - 4, left + TILE + 3, top + TILE + 3), outline=INK, width=3)
            y = top + TILE + 8
            for line in captions[i]:
                draw.text((left, y), line, INK, text)
                y += LINE
            for line_of_marks in marks[i]:
                _put_marks(draw, line_of_marks, left, y, small)
                y += MARK
        top += height
    return sheet


def _wrapped(words: str, font: Font, width: int) -> list[str]:
    lines: list[str] = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _rows_of_marks(marks: Sequence[tuple[str, bool | None]], font: Font) -> list[list[tuple[str, bool | None]]]:
    rows: list[list[tuple[str, bool | None]]] = []
    left = TILE + 1.0
    for text, is_so in marks:
        width = _mark_width(text, is_so, font)
        if left + width > TILE:
            rows.append([])
            left = 0.0
        rows[-1].append((text, is_so))
        left += width
    return rows


def _mark_width(text: str, is_so: bool | None, font: Font) -> float:
    return font.getlength(text) + (12 if is_so is None else 28)


def _put_marks(
    draw: ImageDraw.ImageDraw, marks: Sequence[tuple[str, bool | None]], left: float, top: float, font: Font
) -> None:
    for text, is_so in marks:
        x, y, color = left, top + 9, FAINT if is_so is None else YES if is_so else NO
        # Lines, because the font that Pillow brings has no such signs.
        if is_so is True:
            draw.line([(x, y), (x + 4, y + 4), (x + 11, y - 5)], fill=color, width=2)
        elif is_so is False:
            draw.line([(x + 1, y - 4), (x + 9, y + 4)], fill=color, width=2)
            draw.line([(x + 1, y + 4), (x + 9, y - 4)], fill=color, width=2)
        draw.text((x + (0 if is_so is None else 16), top), text, color, font)
        left += _mark_width(text, is_so, font)
