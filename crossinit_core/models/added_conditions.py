"""What SDXL's UNet takes beside the prompt's context, as diffusers wants it (Podell et al., "SDXL", 2023, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backbone import Encoded

SIZES = 6
"""Original height and width, top and left of the crop, target height and width, in pixels."""


def added_conditions(encoded: Encoded, sizes: Tensor | None, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """`added_cond_kwargs` of diffusers' UNet for the pooled output (B, p) and `sizes` (B, 6); None for a model without."""
    if encoded.pooled is None:
        return None
    if sizes is None:
        raise ValueError("This model needs the sizes of the pictures (B, 6) beside the prompts.")
    return {"text_embeds": encoded.pooled.to(dtype), "time_ids": sizes}
