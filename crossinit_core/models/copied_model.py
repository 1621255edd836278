"""The `FrozenModel` of a run that learns on private copies of a host's text encoders and UNet."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import torch
from torch import Tensor

from ..backbone import Encoded
from .clip_text import FrozenText


class CopiedUNet(Protocol):
    """The noise prediction of a private copy."""

    @property
    def signature(self) -> Hashable:
        """Names how it computes."""
        ...

    def __call__(self, noisy_latents: Tensor, timesteps: Tensor, encoded: Encoded, sizes: Tensor | None) -> Tensor:
        """See `FrozenModel.predict`."""
        ...

    def close(self) -> None:
        """Break reference cycles, so that the memory goes at once and not at some collection."""
        ...


class CopiedModel:
    """Text encoders and UNet on a device. `fingerprint` is that of the host's own weights."""

    def __init__(
        self, text: FrozenText, unet: CopiedUNet, fingerprint: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.device, self.dtype = device, dtype
        self._text: FrozenText | None = text
        self._unet: CopiedUNet | None = unet
        self._fingerprint = fingerprint
        self.signature: Hashable = (fingerprint, dtype, unet.signature)

    def embed(self, token_ids: Tensor) -> Tensor:
        assert self._text is not None
        return self._text.embed(token_ids)

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        assert self._text is not None
        return self._text.encode(embeddings, ends)

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, encoded: Encoded, sizes: Tensor | None = None
    ) -> Tensor:
        assert self._unet is not None
        return self._unet(noisy_latents, timesteps, encoded, sizes)

    def fingerprint(self) -> str:
        return self._fingerprint

    def close(self) -> None:
        """Let go of the copies, even if something still holds this object."""
        if self._unet is not None:
            self._unet.close()
        self._text = self._unet = None
