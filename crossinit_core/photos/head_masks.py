"""Soft masks of the head, face and hair, on a picture that is framed like a CelebA-HQ portrait.

A head's place in such a frame is known, so the mask starts as an ellipse. If OpenCV is installed, GrabCut (Rother,
Kolmogorov and Blake, SIGGRAPH 2004) then finds out what of the ellipse is background, and what hair is beyond it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Centre and half axes, in parts of the frame.
HEAD = (0.5, 0.47, 0.36, 0.45)
FACE = (0.5, 0.56, 0.2, 0.29)
REACH = (0.5, 0.47, 0.47, 0.52)
"""Nothing of a head is learned beyond this."""

SOFTNESS = 0.03
"""The edge's width, in parts of the frame: about two latent pixels of 64."""

_WORKING = 160
_PLAUSIBLE = (0.6, 1.25)
"""GrabCut's head against the ellipse's, by area; something went wrong outside of these."""


def head_mask(picture: Tensor | None, size: int, cv: Any = None) -> Tensor:
    """(size, size) float32 in 0..1: 1 on face and hair, with a soft edge.

    `picture` is the framed (3, H, W) in 0..1 and `cv` OpenCV's module; without one of them the mask is the ellipse.
    """
    mask = None if picture is None or cv is None else _grab(picture, cv)
    if mask is None:
        mask = _ellipse(HEAD, _WORKING)
    return soften(mask, size)


def soften(mask: Tensor, size: int) -> Tensor:
    """(H, W) -> (size, size) with edges `SOFTNESS` wide."""
    mask = F.interpolate(mask[None, None].float(), size=(_WORKING, _WORKING), mode="area")
    radius = max(1, round(SOFTNESS * _WORKING))
    for _ in range(2):
        mask = F.avg_pool2d(F.pad(mask, (radius,) * 4, mode="replicate"), 2 * radius + 1, stride=1)
    return F.interpolate(mask, size=(size, size), mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def _grab(picture: Tensor, cv: Any) -> Tensor | None:
    small = F.interpolate(picture[None].float(), size=(_WORKING, _WORKING), mode="bilinear", antialias=True)[0]
    pixels = np.ascontiguousarray((small.movedim(0, -1).numpy() * 255).round().astype(np.uint8))
    head, face, reach = (_ellipse(shape, _WORKING).numpy() > 0.5 for shape in (HEAD, FACE, REACH))
    labels = np.full((_WORKING, _WORKING), cv.GC_BGD, np.uint8)
    labels[reach] = cv.GC_PR_BGD
    labels[head] = cv.GC_PR_FGD
    labels[face] = cv.GC_FGD
    cv.setRNGSeed(0)  # Its colour clusters start at random.
    cv.grabCut(pixels, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv.GC_INIT_WITH_MASK)
    grabbed = (labels == cv.GC_FGD) | (labels == cv.GC_PR_FGD)
    disc = cv.getStructuringElement(cv.MORPH_ELLIPSE, (7, 7))
    grabbed = cv.morphologyEx(grabbed.astype(np.uint8), cv.MORPH_CLOSE, disc)
    grabbed = cv.morphologyEx(grabbed, cv.MORPH_OPEN, disc)
    if not _PLAUSIBLE[0] < grabbed.sum() / head.sum() < _PLAUSIBLE[1]:
        return None
    return torch.from_numpy(grabbed | face).float()


def _ellipse(shape: tuple[float, float, float, float], size: int) -> Tensor:
    x, y, across, down = shape
    steps = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    return (((u - x) / across) ** 2 + ((v - y) / down) ** 2 <= 1).float()
