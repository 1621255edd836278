"""Telling the weights of models apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def weights_fingerprint(named_weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash over names, shapes and sixteen values of every weight.

    Reading all of a checkpoint takes seconds; a LoRA, a merge or another checkpoint changes nearly
    every value of the weights that it touches, so a sample of each tensor tells them apart.
    """
    digest = hashlib.sha256()
    samples = []
    for name, weight in named_weights:
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.reshape(-1)
        samples.append(flat[:: max(1, flat.numel() // 16)][:16].to("cpu", torch.float32))
    digest.update(torch.cat(samples).numpy().tobytes())
    return digest.hexdigest()
