"""How well a face was learned: drift of the vectors, identity similarity, prompt similarity.

Everything here takes tensors; no network runs here. Features of faces come from a face recognizer, features of pictures
and texts from CLIP; the caller runs those.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..angles import angles


@dataclass(frozen=True)
class Drift:
    """How far K learned vectors went from where they started; every field is (K,) float32 on the CPU.

    `start_norms` and `norms` are Euclidean lengths before and after, `norm_ratios` after / before, `angles` degrees in
    0..180 between the two, and `distances` the length of their difference.
    """

    start_norms: Tensor
    norms: Tensor
    norm_ratios: Tensor
    angles: Tensor
    distances: Tensor


def drift(vectors: Tensor, start: Tensor) -> Drift:
    """Drift of learned vectors (K, d) from their start (K, d), of any float dtype, computed in float64.

    Raises ValueError if the shapes differ or are not (K, d), if a value is not finite, and if a vector is zero, which
    has no direction.
    """
    if vectors.ndim != 2 or not vectors.numel() or vectors.shape != start.shape:
        raise ValueError(
            f"The learned vectors are {tuple(vectors.shape)} and their start is {tuple(start.shape)}, but both must be "
            "(K, d) of one size. Compare a token with the start that it was learned from."
        )
    after, before = _rows("learned vectors", vectors), _rows("start", start)
    norms, start_norms = after.norm(dim=1), before.norm(dim=1)
    found = (start_norms, norms, norms / start_norms, angles(after, before), (after - before).norm(dim=1))
    return Drift(*(values.float() for values in found))


def identity_similarity(faces: Tensor, references: Tensor) -> Tensor:
    """How alike N generated faces are to a person: (N,) float32 in -1..1 on the CPU.

    faces (N, d) and references (d,) or (M, d) are a face recognizer's features of the generated faces and of M photos
    of the person, of any float dtype and length. A face's score is its mean cosine similarity to the references. The
    identity score of Pang et al. (CVPR 2024, section 5) is the mean of this over all pictures in which a face was
    found. Leave the others out, and report their share.

    Raises ValueError for wrong shapes, different d, values that are not finite, and zero rows, which face recognizers
    give for pictures without a face.
    """
    return _cosines("faces", faces, "references", references).mean(dim=1).float()


def prompt_similarity(pictures: Tensor, texts: Tensor) -> Tensor:
    """How well N pictures show what their prompts say: (N,) float32 in -1..1 on the CPU.

    pictures (N, d) and texts (N, d), or (d,) for one prompt, are CLIP's projected features of pictures and of prompts
    without the learned words, of any float dtype and length. A picture's score is the cosine similarity to its prompt.
    The prompt score of Pang et al. (CVPR 2024, section 5) is its mean over all pictures: plain cosines, not the
    CLIPScore of Hessel et al. (2021), which is 2.5 max(cosine, 0).

    Raises ValueError for wrong shapes, different N or d, values that are not finite, and zero rows.
    """
    if texts.ndim == 2 and len(texts) != len(pictures):
        raise ValueError(
            f"There are {len(pictures)} pictures and {len(texts)} prompts. Give one prompt for each picture, or one (d,) for all."
        )
    if texts.ndim == 1:
        return _cosines("pictures", pictures, "texts", texts)[:, 0].float()
    _check_width("pictures", pictures, "texts", texts)
    return F.cosine_similarity(_rows("pictures", pictures), _rows("texts", texts), dim=1).float()


def _cosines(name: str, rows: Tensor, other_name: str, others: Tensor) -> Tensor:
    """(N, M) cosine similarities of (N, d) and (M, d) or (d,)."""
    others = others[None] if others.ndim == 1 else others
    _check_width(name, rows, other_name, others)
    first, second = _rows(name, rows), _rows(other_name, others)
    return (F.normalize(first, dim=1) @ F.normalize(second, dim=1).T).clamp(-1, 1)


def _check_width(name: str, rows: Tensor, other_name: str, others: Tensor) -> None:
    for what, given in ((name, rows), (other_name, others)):
        if given.ndim != 2 or not given.numel():
            raise ValueError(f"The features of {what} must be of shape (N, d), but are {tuple(given.shape)}.")
    if rows.shape[1] != others.shape[1]:
        raise ValueError(
            f"The features of {name} have width {rows.shape[1]}, but those of {other_name} {others.shape[1]}. "
            "Compute both with the same network."
        )


def _rows(name: str, rows: Tensor) -> Tensor:
    """(N, d) in float64 on the CPU, each row finite and not zero."""
    rows = rows.detach().to("cpu", torch.float64)
    if not torch.isfinite(rows).all():
        raise ValueError(f"The {name} hold values that are not numbers (NaN or infinite).")
    empty = (rows == 0).all(dim=1).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"Row {empty[0]} of the {name} is zero: it has no direction. Leave it out.")
    return rows
