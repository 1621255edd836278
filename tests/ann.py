"""Ann, a token of random vectors, whom the tests of token files save, break and read again."""

from __future__ import annotations

import torch

from crossinit_core import LearnedToken

VECTORS = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))
ANN = LearnedToken(
    VECTORS,
    "ann",
    "sd2",
    {"crossinit.steps": "320", "crossinit.checkpoint": "sd21", "modelspec.title": "Zoë"},
)
