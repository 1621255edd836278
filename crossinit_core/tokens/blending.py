"""Learned tokens made of learned tokens: a mixture of two, one nearer to its start, and one with the length of its start.

Each text encoder's part of a vector is a vector of its own here: the encoders have different scales, so an angle or a length
over the columns of both would be that of the larger one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..angles import angles_of_units
from ..errors import InputError
from ..families import describe_widths, shown_widths
from .learned_token import LearnedToken, suggest_token_name
from .metadata import (
    BLEND,
    COSINE,
    DISTANCE,
    NORM,
    RESCALED,
    START,
    START_NORM,
    STRENGTH,
    listed,
    norms_by_encoder,
    numbers,
    unpacked,
)

ARC = "arc"
LINE = "line"
METHODS = (ARC, LINE)

STRENGTHS = (0.0, 1.5)
"""From the start alone to half as far again as learning went."""

_OF_THE_VECTORS = (NORM, DISTANCE, COSINE)
"""What a blend does not share with the tokens that it was made of."""


def blend_tokens(
    first: LearnedToken, second: LearnedToken, weight: float, *, method: str = ARC, name: str = ""
) -> LearnedToken:
    """Vector by vector, `weight` 0 is the first token and 1 the second.

    `line`: (1 - w) a + w b. Vectors that point apart come out shorter than both.
    `arc`: the direction goes along the great circle from a to b at a steady angle (Shoemake, "Animating rotation with
    quaternion curves", SIGGRAPH 1985), the norm from |a| to |b| in a straight line; for each text encoder on its own.
    `name` is by default both names with a `-` between. The metadata keeps what is true of both.
    Raises ValueError if the tokens do not fit each other, or for a weight out of 0..1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"The weight is {weight}, but must be from 0 (the first token) to 1 (the second).")
    if method not in METHODS:
        raise ValueError(f"The method is '{method}', but must be one of {', '.join(METHODS)}.")
    if first.widths != second.widths or first.base != second.base:
        raise ValueError(
            f"'{first.name}' was learned on {_family(first)}, but '{second.name}' on {_family(second)}. Only tokens of one "
            "family can be blended."
        )
    if len(first.vectors) != len(second.vectors):
        raise ValueError(
            f"'{first.name}' has {len(first.vectors)} vectors, but '{second.name}' has {len(second.vectors)}. Only tokens "
            "with as many vectors can be blended; learn one of them anew with the other's number."
        )
    with torch.inference_mode(False):
        if method == LINE:
            vectors = torch.lerp(first.vectors, second.vectors, weight)
        else:
            parts = zip(first.parts, second.parts, strict=True)
            vectors = torch.cat([_along_the_arc(a, b, weight) for a, b in parts], dim=1)
    shared = {key: value for key, value in first.metadata.items() if second.metadata.get(key) == value}
    for key in _OF_THE_VECTORS:
        shared.pop(key, None)
    starts = [_recorded_norms(token) for token in (first, second)]
    if starts[0] is not None and starts[1] is not None:
        shared[START_NORM] = listed(torch.lerp(starts[0], starts[1], weight))
    return LearnedToken(
        vectors,
        name or suggest_token_name(f"{first.name}-{second.name}"),
        first.base,
        shared
        | {
            NORM: listed(norms_by_encoder(vectors, first.widths)),
            BLEND: f"{1 - weight:g} {first.name} + {weight:g} {second.name} ({method})",
        },
        widths=first.widths,
    )


def rescale_token(token: LearnedToken, amount: float, *, start: Tensor | None = None) -> LearnedToken:
    """v <- v / |v| * ((1 - a) |v| + a |v0|) for each vector: its direction stays, its length goes towards its start's. With two
    text encoders, for each one's part of each vector.

    `amount` 0 leaves the token as it is. 1 gives every vector the norm of the one that it was learned from, as UniID (by
    the authors of Cross Initialization, 2025) does with all of its vectors; CoRe (AAAI 2025) says why: vectors that have
    become long drown the rest of the prompt.
    `start` is v0 (K, d); without it the norms count that the token's file records.
    Raises ValueError if neither is known, or if they do not fit.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"The amount is {amount}, but must be from 0 (as it is) to 1 (as long as its start).")
    if start is not None:
        if tuple(start.shape) != tuple(token.vectors.shape):
            raise InputError(
                f"The start has {_shape(start)}, but the token '{token.name}' has {_shape(token.vectors)}. Give the "
                "start that it was learned from.",
                "start",
            )
        with torch.inference_mode(False):
            norms: Tensor | None = norms_by_encoder(start.detach().clone().cpu().float(), token.widths)
    else:
        norms = _recorded_norms(token)
    if norms is None:
        raise InputError(
            f"The file of '{token.name}' does not say how long the vectors were that it was learned from: it comes from "
            "another tool or an older version. Give the start as well.",
            "start",
        )
    with torch.inference_mode(False):
        now = norms_by_encoder(token.vectors, token.widths)
        if float(now.min()) == 0:
            raise ValueError(f"A vector of '{token.name}' is zero, which has no direction to keep.")
        factors = (torch.lerp(now, norms, amount) / now).split(len(token.vectors))
        scaled = [part * factor[:, None] for part, factor in zip(token.parts, factors, strict=True)]
        vectors = torch.cat(scaled, dim=1)
    kept = {key: value for key, value in token.metadata.items() if key not in (NORM, DISTANCE)}
    return LearnedToken(
        vectors,
        token.name,
        token.base,
        kept
        | {
            START_NORM: listed(norms),
            NORM: listed(norms_by_encoder(vectors, token.widths)),
            RESCALED: f"{amount:g} of the way from {listed(now)} to {listed(norms)}",
        },
        widths=token.widths,
    )


def check_strength(strength: float) -> float:
    """The strength. Raises ValueError if it is not one of `STRENGTHS`."""
    low, high = STRENGTHS
    if not low <= strength <= high:
        raise ValueError(
            f"The strength is {strength:g}, but must be from {low:g} (where learning started) to {high:g}. 1 is as learned."
        )
    return strength


def token_at_strength(token: LearnedToken, strength: float) -> LearnedToken:
    """The dial between prompt and likeness: vector by vector, `strength` 0 is where learning started, 1 is the token itself,
    and more goes on in the same direction.

    The direction goes along the great circle from v0 through v at a steady angle, as in `blend_tokens`; the norm from |v0| to |v|
    in a straight line, and no further. For each text encoder on its own.
    Raises ValueError for a strength out of `STRENGTHS`, or if the token does not record its start.
    """
    if check_strength(strength) == 1:
        return token
    start = unpacked(token.metadata, START, (len(token.vectors), token.width))
    if start is None:
        raise InputError(
            f"The strength of '{token.name}' is {strength:g}, but its file does not say where its learning started: it comes "
            "from another tool or an older version. Learn it anew, or leave the strength at 1.",
            "strength",
        )
    with torch.inference_mode(False):
        starts = start.split(list(token.widths), dim=1)
        parts = [_along_the_arc(a, b, strength) for a, b in zip(starts, token.parts, strict=True)]
        vectors = torch.cat(parts, dim=1)
    kept = {key: value for key, value in token.metadata.items() if key not in _OF_THE_VECTORS}
    return LearnedToken(
        vectors,
        token.name,
        token.base,
        kept | {NORM: listed(norms_by_encoder(vectors, token.widths)), STRENGTH: f"{strength:g}"},
        widths=token.widths,
    )


def _along_the_arc(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """From a to b, (K, w) both; a weight above 1 turns further by the same angle and keeps b's norm."""
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    if min(float(length.min()) for length in lengths) == 0:
        raise InputError(
            "A vector of a token is zero: no arc leads from it to another, but a straight line does.", "arc"
        )
    # In double precision: the angle of nearly equal directions is lost in single.
    u, v = (a / lengths[0]).double(), (b / lengths[1]).double()
    angle = angles_of_units(u, v)[:, None]
    if float(angle.max()) > 3.1:
        raise InputError(
            "Vectors of the tokens are opposite: no arc leads from one to the other, but a straight line does.", "arc"
        )
    if weight > 1:
        # Half a turn from a is as far as one can get.
        weight = min(weight, torch.pi / max(float(angle.max()), 1e-6))
    # sinc keeps the formula at an angle of zero: sin(w t) / sin(t) = w sinc(w t) / sinc(t).
    turn = angle / torch.pi
    part_u = (1 - weight) * torch.sinc((1 - weight) * turn) / torch.sinc(turn)
    part_v = weight * torch.sinc(weight * turn) / torch.sinc(turn)
    return ((part_u * u + part_v * v) * torch.lerp(*lengths, min(weight, 1.0)).double()).float()


def _recorded_norms(token: LearnedToken) -> Tensor | None:
    """The norms of its start that a token's metadata records, as `norms_by_encoder` gives them; None if they are missing or
    cannot be norms."""
    norms = torch.tensor(numbers(token.metadata, START_NORM, len(token.vectors) * len(token.widths)))
    good = len(norms) and bool(torch.isfinite(norms).all()) and float(norms.min()) > 0
    return norms if good else None


def _family(token: LearnedToken) -> str:
    return f"{describe_widths(token.widths)} (width {shown_widths(token.widths)})"


def _shape(vectors: Tensor) -> str:
    return " x ".join(map(str, vectors.shape))
