"""What a model computes in: names of precisions, what `auto` means, and what holds larger numbers."""

from __future__ import annotations

import torch

from .choices import PRECISIONS, Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means on a device: float16 if a GPU is fast at it, else float32.

    float16 is closer to float32 than bfloat16, and what does not fit into it is done again in a safer precision.

    Raises ValueError for a name that is not in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}', but must be one of {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0):
        return "fp16"
    return "fp32"


def precision_of(dtype: torch.dtype) -> Precision:
    """The name of what a model computes in."""
    return next(name for name in PRECISIONS if DTYPES.get(name) == dtype)


def safer_precision(dtype: torch.dtype, device: torch.device) -> Precision | None:
    """What holds larger numbers than `dtype`: bfloat16 if a GPU computes it natively, float32 last; else None."""
    if dtype == torch.float16 and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return None if dtype == torch.float32 else "fp32"
