"""A report as a picture: charts with all tokens in the same axes, and strips of pictures below them.

Needs matplotlib, and uses only its figures: `pyplot` would keep state in the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..installing import pip_command
from . import report_charts as charts
from .learned_token import LearnedToken
from .report import NO_HISTORY, headline, labels
from .small_pictures import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN = 12.0, 0.35
"""Inches, like all lengths here; the height grows with the tokens."""
DPI = 120
TITLE, LINE, CAPTION, GAP = 0.85, 0.3, 0.25, 0.1
LINE_ROOM = 1300
"""Points of a line of text by its characters: smaller letters if there are more than 108."""
CHART, CHARTS = 2.5, 7.2
"""The height of a chart, and of both rows of them with what stands around."""
FEWEST_COLUMNS = 9
"""Few pictures do not grow without end."""

HAN_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Zen Hei",
)
"""For names of tokens in Chinese; those that are installed are used."""


class NoMatplotlibError(RuntimeError):
    """matplotlib is not there; the message says what to install."""


def draw_report(tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float] = ()) -> NDArray[np.uint8]:
    """A picture (H, 1440, 3) of how tokens were learned.

    `vocabulary_norms` are percentiles as in `History`, for tokens that have no history of their own.
    Raises ValueError if there is no token, and NoMatplotlibError if matplotlib is not installed.
    """
    if not tokens:
        raise InputError("There is no token to report on, but at least one is needed.", "tokens")
    try:
        from matplotlib import font_manager, rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoMatplotlibError(
            f"The report's charts need matplotlib, which is not installed here. Install it: {pip_command('matplotlib')}"
        ) from error
    rows = [_rows(token) for token in tokens]
    columns = max([FEWEST_COLUMNS, *(len(row.pictures) for of_token in rows for row in of_token)])
    tile = (WIDTH - 2 * MARGIN + GAP) / columns - GAP
    header = TITLE + LINE * len(tokens)
    heights = [LINE + len(of_token) * (2 * CAPTION + tile + GAP) + GAP for of_token in rows]
    installed = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(font for font in HAN_FONTS if font in installed)]
    style: Any = {**charts.STYLE, "font.family": fonts}
    with rc_context(style):
        page = _Page(Figure(figsize=(WIDTH, header + CHARTS + sum(heights) + MARGIN / 2), dpi=DPI, facecolor="white"))
        _draw_header(page, tokens)
        _draw_charts(page, header, tokens, vocabulary_norms)
        top = header + CHARTS
        for number, (label, token, of_token) in enumerate(zip(labels(tokens), tokens, rows, strict=True)):
            _draw_strips(page, top, tile, charts.look(number)["color"], label, token, of_token)
            top += heights[number]
        canvas = FigureCanvasAgg(page.figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class _Page:
    """A figure in inches from its top left corner."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.width, self.height = map(float, figure.get_size_inches())

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def text(self, left: float, top: float, text: str, **look: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", parse_math=False, **look)

    def line(self, left: float, right: float, top: float, **look: Any) -> None:
        from matplotlib.lines import Line2D

        height = 1 - top / self.height
        line = Line2D([left / self.width, right / self.width], [height] * 2, **look)
        self.figure.add_artist(line)


@dataclass(frozen=True)
class _Row:
    """Pictures side by side with a caption below each, and what they are."""

    title: str
    pictures: list[tuple[NDArray[np.uint8], str]]


def _rows(token: LearnedToken) -> list[_Row]:
    history = token.history
    if not history:
        return []
    seen = [(picture.pixels, f"step {picture.step}") for picture in history.previews]
    sampled = [(picture.pixels, f"step {picture.step}") for picture in history.samples]
    photo = [(_collage(history.photos), "photo" if len(history.photos) == 1 else "photos")] if history.photos else []
    rows = []
    if seen or (photo and not sampled):
        title = "The photo, and what the model made of it at single steps, out of more or less noise"
        rows.append(_Row(title if seen else "The photo", photo + seen))
        photo = []
    if sampled:
        rows.append(_Row(f"Drawn while it was learned: “{history.sample_prompt}”", photo + sampled))
    return rows


def _collage(photos: Sequence[Picture]) -> NDArray[np.uint8]:
    """One photo as it is; up to four as quarters."""
    if len(photos) == 1:
        return photos[0].pixels
    quarters = [photo.pixels[::2, ::2] for photo in photos]
    quarters += [np.full_like(quarters[0], 255)] * (4 - len(quarters))
    return np.vstack([np.hstack(quarters[:2]), np.hstack(quarters[2:4])])


def _draw_header(page: _Page, tokens: Sequence[LearnedToken]) -> None:
    title = "How the token was learned" if len(tokens) == 1 else f"How {len(tokens)} tokens were learned"
    page.text(MARGIN, 0.3, title, fontsize=20, fontweight="bold")
    for number, (label, token) in enumerate(zip(labels(tokens), tokens, strict=True)):
        top = TITLE + number * LINE
        page.line(MARGIN, MARGIN + 0.5, top + 0.1, linewidth=3.5, **charts.look(number))
        text = f"{label} · {headline(token)}"
        page.text(MARGIN + 0.65, top, text, fontsize=min(12, LINE_ROOM / len(text)))


def _draw_charts(page: _Page, top: float, tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float]) -> None:
    left, between = MARGIN + 0.55, 0.85
    third = (WIDTH - left - MARGIN - 2 * between) / 3
    places = [(0, 2), (2, 1), (0, 1), (1, 1), (2, 1)]
    for (column, span), row, draw in zip(places, (0, 0, 1, 1, 1), charts.ALL, strict=True):
        axes = page.axes(
            left + column * (third + between),
            top + 0.55 + row * (CHART + 0.95),
            span * third + (span - 1) * between,
            CHART,
        )
        draw(axes, tokens, vocabulary_norms)


def _draw_strips(
    page: _Page, top: float, tile: float, colour: str, label: str, token: LearnedToken, rows: Sequence[_Row]
) -> None:
    page.line(MARGIN, MARGIN, top + 0.1, marker="s", color=colour)
    text = label if token.history else f"{label}: {NO_HISTORY}"
    page.text(MARGIN + 0.15, top, text, fontsize=12.5, fontweight="bold" if token.history else "normal")
    top += LINE
    for row in rows:
        page.text(MARGIN, top, row.title, color=charts.FAINT)
        for column, (pixels, caption) in enumerate(row.pictures):
            left = MARGIN + column * (tile + GAP)
            axes = page.axes(left, top + CAPTION, tile, tile)
            axes.imshow(pixels, interpolation="bicubic")
            axes.set_axis_off()
            page.text(
                left + tile / 2, top + CAPTION + tile + 0.03, caption, ha="center", color=charts.FAINT, fontsize=10
            )
        top += 2 * CAPTION + tile + GAP
