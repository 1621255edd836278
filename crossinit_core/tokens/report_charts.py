"""The charts of a report, each drawn into axes of matplotlib: all tokens in the same axes, told apart by colour and dashes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..families import encoder_names
from ..prompts import MAX_VECTORS
from .history import History
from .learned_token import LearnedToken
from .metadata import lambda_of
from .report import (
    by_encoder,
    end_angles,
    end_distances,
    smoothed,
    smoothing_window,
    start_norms,
    steps_taken,
    vocabulary_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#000000")
"""Okabe and Ito's, which people of every colour vision tell apart; the yellow darkened, for thin lines on white."""
DASHES = ("-", "--", ":")
INK, FAINT, GRID, BAND = "#1b1f24", "#57606a", "#e6e8eb", "#dfe3e8"

STYLE: dict[str, Any] = {
    "font.size": 11,
    "text.color": INK,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titley": 1.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.use_mathtext": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "lines.linewidth": 2.2,
    "lines.markersize": 8,
    "lines.solid_capstyle": "round",
}


def look(number: int) -> dict[str, Any]:
    """The line of token `number`, counted from 0."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}


def loss(axes: Axes, tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float]) -> None:
    """Raw and smoothed, against steps."""
    axes.set_title("Loss: error of the model's guess")
    axes.set_ylabel("mean squared error")
    windows, highest, top = set[int](), 0.0, 0.0
    for number, token in enumerate(tokens):
        if not (history := token.history):
            continue
        losses, window = np.asarray(history.losses), smoothing_window(len(history.losses))
        steps, course = np.arange(len(losses)) + 1, smoothed(history.losses, window)
        solid: dict[str, Any] = look(number) | {"linestyle": "-"}
        axes.plot(steps, losses, **solid, linewidth=0.8, alpha=0.35)
        axes.plot(steps, course, **look(number))
        windows.add(window)
        highest = max(highest, float(losses.max()))
        top = max(top, 1.5 * float(course.max()), float(np.quantile(losses, 0.95)))
    _against_steps(axes, bool(windows))
    if windows:
        axes.set_ylim(0, min(top, 1.05 * highest) or 1)
        cut = ", peaks cut off" if highest > top else ""
        means = " or ".join(map(str, sorted(windows)))
        axes.set_xlabel(f"steps (thin: each one{cut}; thick: mean of {means})" if windows != {1} else "steps")


def distance(axes: Axes, tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float]) -> None:
    """Mean over the vectors of |v - v0|, over the columns of all text encoders, against steps."""
    axes.set_title("How far the vectors moved")
    axes.set_ylabel("mean distance from the start")
    _course(axes, tokens, lambda history, token: history.distances, _whole_distances)


def angle(axes: Axes, tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float]) -> None:
    """Mean over the vectors, and over the text encoders, of the angle between v and v0, against steps."""
    axes.set_title("How far they turned")
    axes.set_ylabel("mean angle from the start")
    axes.yaxis.set_major_formatter("{x:g}°")
    _course(axes, tokens, lambda history, token: history.angles, end_angles)


def regularizer(axes: Axes, tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float]) -> None:
    """lambda times the distance: what is added to the loss."""
    axes.set_title("Pull back (regularizer)")
    axes.set_ylabel("\u03bb · mean distance")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    axes.yaxis.get_offset_text().set(x=1, horizontalalignment="right")
    known = [token for token in tokens if lambda_of(token.metadata) is not None]

    def weighted(values: Sequence[float], token: LearnedToken) -> list[float]:
        return [(lambda_of(token.metadata) or 0.0) * value for value in values]

    _course(
        axes,
        [token if token in known else None for token in tokens],
        lambda history, token: weighted(history.distances, token),
        lambda token: weighted(_whole_distances(token), token),
    )


def _whole_distances(token: LearnedToken) -> list[float]:
    """|v - v0| of each vector over the columns of all text encoders; an empty list if it is not known."""
    return [math.hypot(*parts) for parts in zip(*by_encoder(end_distances(token), token.widths), strict=True)]


def norms(axes: Axes, tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float]) -> None:
    """|v| of every vector, |v0| if it is known, and the range of the vocabulary's words: a panel for each text encoder, since
    each has a scale of its own."""
    axes.set_title("Length of the vectors")
    axes.set_ylabel("norm")
    axes.grid(False, axis="x")
    values, ticks, place, lowest = list[float](), list[tuple[float, str]](), 0.0, math.inf
    panels = _panels(tokens)
    for panel, (encoder, shown) in enumerate(panels):
        first = place
        for number, index in shown:
            token = tokens[number]
            ends = token.parts[index].norm(dim=1).tolist()
            starts = by_encoder(start_norms(token), token.widths)[index]
            for k, end in enumerate(ends):
                if starts:
                    axes.plot([place] * 2, [starts[k], end], **look(number))
                    axes.plot(place, starts[k], "o", color=look(number)["color"], markerfacecolor="white")
                axes.plot(place, end, "o", color=look(number)["color"])
                if len(ends) <= MAX_VECTORS or k in (0, len(ends) - 1):
                    ticks.append((place, str(k + 1)))
                place += 1
            values += [*ends, *starts]
            place += _GAP
        words = vocabulary_of([tokens[number] for number, _ in shown], vocabulary_norms)[shown[0][1]]
        left, right = first - 0.8, max(place - _GAP, first + 1) - 0.2
        if words:
            low, middle, high = (words[percent] for percent in (5, 50, 95))
            axes.fill_between([left, right], low, high, color=BAND, linewidth=0, zorder=0)
            axes.plot([left, right], [middle] * 2, color=FAINT, linewidth=1, zorder=1)
            lowest = min(lowest, low)
            values += [low, high]
        if encoder:
            at: Any = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top"}
            axes.annotate(encoder, ((left + right) / 2, 0.98), **at, color=INK, fontsize=11)
        if panel:
            axes.axvline(left, color=FAINT, linewidth=1)
        place = right + 0.8
    if lowest < math.inf:
        below: Any = {
            "xy": (1, lowest),
            "xycoords": ("axes fraction", "data"),
            "xytext": (-4, -4),
            "textcoords": "offset points",
            "ha": "right",
            "va": "top",
        }
        axes.annotate("words of the vocabulary", **below, color=FAINT, fontsize=10)
    named = len(panels) > 1
    if min(values) > 0 and max(values) > 8 * min(values):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 2.8, max(values) * (5 if named else 2))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, max(values) * (1.4 if named else 1.25) or 1)
    axes.set_xlim(-0.8, place - 0.8)
    axes.set_xticks(*zip(*ticks, strict=True))
    axes.set_xlabel("vector (\u25cb start, \u25cf learned)")


def _panels(tokens: Sequence[LearnedToken]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Each text encoder's name, and of whom a part is shown: (number of the token, index of the encoder)."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, token in enumerate(tokens):
        for index, encoder in enumerate(encoder_names(token.widths)):
            found.setdefault(encoder, []).append((number, index))
    return list(found.items())


_GAP = 0.7
"""Between one token's vectors and the next one's."""

ALL = (loss, norms, distance, angle, regularizer)


def _course(
    axes: Axes,
    tokens: Sequence[LearnedToken | None],
    values: Callable[[History, LearnedToken], Sequence[float]],
    end: Callable[[LearnedToken], Sequence[float]],
) -> None:
    """A line against steps if there is a history, else a mark at the end if the metadata records it."""
    known = False
    for number, token in enumerate(tokens):
        if token is None:
            continue
        if token.history:
            course = values(token.history, token)
            axes.plot(np.arange(len(course)), course, **look(number))
            known = True
        elif (ends := end(token)) and (steps := steps_taken(token)) is not None:
            axes.plot(steps, float(np.mean(ends)), "D", color=look(number)["color"])
            known = True
    _against_steps(axes, known)
    axes.set_ylim(bottom=0)


def _against_steps(axes: Axes, known: bool) -> None:
    axes.set_xlabel("steps")
    axes.set_xlim(left=0)
    axes.margins(x=0.02)
    if not known:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "not known without a history", transform=axes.transAxes, ha="center", va="center", color=FAINT
        )
