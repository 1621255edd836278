"""What text encoders read of prompts that are token ids: where each one ends, and how each encoder pads behind that.

SDXL's encoders read the same ids up to EOS, but pad differently, CLIP-L with EOS and CLIP-G with id 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def ends_of(token_ids: Tensor, eos: int) -> Tensor:
    """The places (B,) of the first EOS in prompts (B, L).

    It is found by its id: the largest one, which transformers takes for configurations of old, may be a placeholder's.
    """
    return (token_ids == eos).to(torch.uint8).argmax(dim=1)


def padding_row(
    rows: Callable[[Tensor], Tensor], widths: Sequence[int], pads: Sequence[int], device: torch.device
) -> Tensor:
    """The embedding (d,) of a place behind EOS: each encoder's row of its own padding. `rows` are those of `E`."""
    found = rows(torch.tensor(pads, device=device)).split(list(widths), dim=-1)
    return torch.cat([part[number] for number, part in enumerate(found)])


def pad(embedded: Tensor, ends: Tensor, padding: Tensor) -> Tensor:
    """Embeddings (B, L, d) of prompts that end at `ends` (B,), with the row `padding` (d,) behind each end."""
    behind = torch.arange(embedded.shape[1], device=embedded.device) > ends[:, None]
    return torch.where(behind[..., None], padding, embedded)
