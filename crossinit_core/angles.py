"""Angles between vectors, exact for small ones too.

The formula is 2 atan2(|u - v|, |u + v|) for unit vectors u and v (Kahan, "How Futile are Mindless Assessments of
Roundoff", 2006, section 12). The arc cosine of a dot product would lose small angles in rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = torch.finfo(torch.float64).tiny


def angles(vectors: Tensor, others: Tensor) -> Tensor:
    """The angle between each two rows of (K, d) and (K, d), in degrees 0..180: (K,) float64. No row may be zero."""
    u, v = (F.normalize(side.double(), dim=1, eps=_SMALLEST) for side in (vectors, others))
    return angles_of_units(u, v).rad2deg()


def angles_of_units(u: Tensor, v: Tensor) -> Tensor:
    """The angle between each two rows of length 1, (K, d) each, in radians 0..pi: (K,)."""
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def mean_angle(vectors: Tensor, others: Tensor, widths: Sequence[int] = ()) -> float:
    """The mean over k of the angle between v_k and w_k, (K, d) each, in degrees.

    With `widths`, those of the text encoders, the mean over each encoder's columns on their own as well: the encoders have
    different scales, so the angle over all columns would be that of the larger one.
    """
    parts = [side.split(list(widths) or side.shape[1], dim=1) for side in (vectors, others)]
    return float(torch.stack([angles(part, other).mean() for part, other in zip(*parts, strict=True)]).mean())


def angle_of_cosine(cosine: float) -> float:
    """The angle in degrees of which only the cosine is known, as exact as the cosine's digits allow.

    The same formula: |u - v| is sqrt(2 - 2 cosine), and |u + v| is sqrt(2 + 2 cosine).
    """
    return math.degrees(2 * math.atan2(math.sqrt(max(0.0, 1 - cosine)), math.sqrt(max(0.0, 1 + cosine))))
