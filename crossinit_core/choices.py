"""What people choose by a name, apart from what does the work: a list of choices needs no PyTorch, which takes a second to import."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")

StartStates = Literal["last", "context"]
START_STATES: tuple[StartStates, ...] = ("last", "context")
"""Which output of a text encoder learning starts at. `last`: the last layer with the final LayerNorm, as published (for SDXL
by kunheek/dti, exps/xinit_sdxl.py). `context`: what the UNet attends to, which on SDXL is the layer before the last, without a
norm. On SD 1.x and 2.x both are the same."""
