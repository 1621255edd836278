"""What is known of a token, as text and as numbers for charts: from its vectors, its metadata, and its history if it has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..angles import angle_of_cosine
from ..families import describe_widths, encoder_names, shown_widths
from . import metadata
from .history import History
from .learned_token import LearnedToken
from .vocabulary import PERCENTILES

NO_HISTORY = "read from a file or made of other tokens, so its history (loss, pictures) is not known"


def describe_tokens(tokens: Sequence[LearnedToken], vocabulary_norms: Sequence[float] = ()) -> str:
    """A paragraph of facts for each token, as plain text.

    `vocabulary_norms` are percentiles as in `History`, for tokens that have no history of their own.
    """
    titles = labels(tokens)
    return "\n\n".join(
        "\n".join([title, *(f"  {name}: {value}" for name, value in _facts(token, vocabulary_norms))])
        for title, token in zip(titles, tokens, strict=True)
    )


def labels(tokens: Sequence[LearnedToken]) -> list[str]:
    """A name for each token; those that share one get a number and how they were initialized."""
    counts = Counter(token.name for token in tokens)
    return [
        token.name
        if counts[token.name] == 1
        else f"{number}: {metadata.initialization_of(token.metadata) or token.name}"
        for number, token in enumerate(tokens, start=1)
    ]


def headline(token: LearnedToken) -> str:
    """The facts of a token in a line; with two text encoders, a mean for each."""
    facts = [family(token)]
    if (steps := steps_taken(token)) is not None:
        facts.append(f"{steps} steps")
    known = [("moved {:.2f}", end_distances(token)), ("turned {:.0f}°", end_angles(token))]
    if len(token.widths) == 1 or not any(values for _, values in known):
        known.append(("norm {:.2f}", metadata.norms_by_encoder(token.vectors, token.widths).tolist()))
    for form, values in known:
        if values:
            word, number = form.split()
            means = [number.format(np.mean(part)) for part in by_encoder(values, token.widths)]
            facts.append(f"{word} {' and '.join(means)}")
    names = " and ".join(filter(None, encoder_names(token.widths)))
    return " · ".join(facts) + (f" ({names})" if names else "")


def family(token: LearnedToken) -> str:
    """The checkpoint that a token was learned on, or its kind."""
    return token.metadata.get(metadata.CHECKPOINT) or describe_widths(token.widths)


def smoothing_window(steps: int) -> int:
    """Over how many steps a loss is averaged so that its trend shows: a tenth of the run, an odd number."""
    return max(1, steps // 10) | 1


def smoothed(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """The mean of the `window` values around each; of fewer at the ends."""
    ones = np.ones(min(window, 2 * len(values) - 1))
    total = np.convolve(np.asarray(values, dtype=np.float64), ones, mode="full")
    count = np.convolve(np.ones(len(values)), ones, mode="full")
    middle = slice(len(ones) // 2, len(ones) // 2 + len(values))
    return total[middle] / count[middle]


def steps_taken(token: LearnedToken) -> int | None:
    """After how many steps the token was taken; None if it is not recorded."""
    if token.history:
        return len(token.history.losses)
    return metadata.steps_of(token.metadata)


def vocabulary_of(tokens: Sequence[LearnedToken], otherwise: Sequence[float] = ()) -> list[Sequence[float]]:
    """For each text encoder of these tokens the percentiles of its vocabulary's norms, which the first history holds, or others;
    empty if they are not known."""
    found = next((token.history.vocabulary_norms for token in tokens if token.history), otherwise)
    widths = tokens[0].widths
    return by_encoder(found if len(found) == PERCENTILES * len(widths) else (), widths)


def by_encoder(values: Sequence[float], widths: Sequence[int]) -> list[Sequence[float]]:
    """Numbers that lie one encoder after the other, cut into those of each; empty lists if there are none."""
    each = len(values) // len(widths)
    return [values[place * each : (place + 1) * each] for place in range(len(widths))]


def start_norms(token: LearnedToken) -> list[float]:
    """|v0| of each vector, one encoder after the other; an empty list if it is not known."""
    return _recorded(token, metadata.START_NORM)


def end_distances(token: LearnedToken) -> list[float]:
    """|v - v0| of each vector, one encoder after the other; an empty list if it is not known."""
    return _recorded(token, metadata.DISTANCE)


def end_angles(token: LearnedToken) -> list[float]:
    """The angle between v and v0 in degrees for each vector, one encoder after the other; an empty list if it is not known."""
    return [angle_of_cosine(cosine) for cosine in _recorded(token, metadata.COSINE)]


def describe_norms(vectors: Tensor, digits: int = 1, widths: Sequence[int] = ()) -> str:
    """|v| of each vector of (K, d), for people: `30.1, 29.9`, or `CLIP-L 30.1, 29.9; CLIP-G 55.2, 54.0`."""
    widths = widths or vectors.shape[1:]
    norms = by_encoder(metadata.norms_by_encoder(vectors, widths).tolist(), widths)
    return _for_each_encoder([_listed(of_one, f"{{:.{digits}f}}") for of_one in norms], widths)


def _recorded(token: LearnedToken, key: str) -> list[float]:
    return metadata.numbers(token.metadata, key, len(token.vectors) * len(token.widths))


def _for_each_encoder(texts: Sequence[str], widths: Sequence[int]) -> str:
    names = encoder_names(widths)
    return "; ".join(f"{name} {text}".strip() for name, text in zip(names, texts, strict=True) if text)


def _facts(token: LearnedToken, vocabulary_norms: Sequence[float]) -> list[tuple[str, str]]:
    known, history = token.metadata, token.history
    many = "1 vector" if len(token.vectors) == 1 else f"{len(token.vectors)} vectors"
    facts = [("what", f"{many} of width {shown_widths(token.widths)}, learned on {family(token)}")]
    settings = {
        "steps": None if (steps := steps_taken(token)) is None else str(steps),
        "learning rate": known.get(metadata.LEARNING_RATE),
        "batch": known.get(metadata.BATCH_SIZE),
        "lambda": known.get(metadata.LAMBDA),
        "seed": known.get(metadata.SEED),
        "precision": known.get(metadata.PRECISION),
    }
    facts.append(("settings", ", ".join(f"{name} {value}" for name, value in settings.items() if value)))
    facts.append(("start", metadata.initialization_of(known)))
    for name, key in (("blend", metadata.BLEND), ("rescaled", metadata.RESCALED), ("strength", metadata.STRENGTH)):
        facts.append((name, known.get(key, "")))
    if history:
        facts += _course(history, metadata.lambda_of(known))
    parts = (
        encoder_names(token.widths),
        [describe_norms(part, 2) for part in token.parts],
        by_encoder(start_norms(token), token.widths),
        by_encoder(end_distances(token), token.widths),
        by_encoder(end_angles(token), token.widths),
        vocabulary_of([token], vocabulary_norms),
    )
    for name, norms, starts, distances, angles, words in zip(*parts, strict=True):
        of = f" in {name}" if name else ""
        facts.append((f"distance from the start{of}", _listed(distances, "{:.2f}")))
        facts.append((f"angle from the start{of}", _listed(angles, "{:.0f}°")))
        facts.append((f"norm{of}", f"{norms}, at the start {_listed(starts, '{:.2f}')}" if starts else norms))
        if words:
            low, middle, high = (words[percent] for percent in (5, 50, 95))
            facts.append(
                (
                    f"norm of the vocabulary{of}",
                    f"{middle:.3g} in the middle, nine of ten words {low:.3g} to {high:.3g}",
                )
            )
    if not history:
        facts.append(("history", NO_HISTORY))
    return [(name, value) for name, value in facts if value]


def _course(history: History, lambda_: float | None) -> list[tuple[str, str]]:
    window = smoothing_window(len(history.losses))
    course = smoothed(history.losses, window)
    facts = [("loss", f"{course[0]:.4f} at first, {course[-1]:.4f} at last (means of up to {window} steps)")]
    if lambda_ is not None:
        facts.append(("regularizer", f"{lambda_ * history.distances[-1]:.3g} at last (lambda times the distance)"))
    facts.append(("time", f"{history.seconds:.1f} s"))
    if history.resumed_from:
        facts.append(("resumed", f"the first {history.resumed_from} steps came from a resume file, without pictures"))
    if history.samples:
        steps = ", ".join(str(picture.step) for picture in history.samples)
        facts.append(("samples", f"'{history.sample_prompt}' after steps {steps}"))
    return facts


def _listed(values: Sequence[float], form: str) -> str:
    return ", ".join(form.format(value) for value in values)
