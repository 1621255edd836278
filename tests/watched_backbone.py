"""A tiny model whose answers can be changed and whose memory is made up, and a run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from crossinit_core import InversionResult, InversionSettings, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone

SETTINGS = InversionSettings(steps=6, batch_size=2, resolution=64, seed=5)
PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


class Watched:
    """A backbone whose UNet's answers go through `around(answer, precision, call)`; notes how it was opened."""

    def __init__(
        self,
        backbone: DiffusersBackbone,
        around: Callable[[Tensor, torch.dtype, int], Tensor] = lambda answer, *_: answer,
        free: int | None = None,
        needed: Callable[[int, bool], int] = lambda samples, checkpointing: 0,
    ) -> None:
        self._backbone, self._around, self._free, self._needed = backbone, around, free, needed
        self.opened: list[tuple[str, bool]] = []
        self.samples: list[int] = []
        self.asked_for: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def memory_needed(self, *, samples: int, gradient_checkpointing: bool, **_: Any) -> int:
        return self._needed(samples, gradient_checkpointing)

    def free_memory(self, needed: int) -> int | None:
        self.asked_for.append(needed)
        return self._free

    @contextmanager
    def training(self, **options: Any) -> Iterator[Any]:
        self.opened.append((options["precision"], options["gradient_checkpointing"]))
        with self._backbone.training(**options) as model:
            predict = model.predict

            def watched(noisy: Tensor, *more: Any) -> Tensor:
                self.samples.append(len(noisy))
                return self._around(predict(noisy, *more), model.dtype, len(self.samples))

            model.predict = watched  # type: ignore[method-assign, assignment]
            yield model


def learn(backbone: Any, v0: Tensor, settings: InversionSettings = SETTINGS, **inputs: Any) -> InversionResult:
    """A run on PHOTO, unless `batches` are given."""
    if "batches" not in inputs:
        inputs["images"] = PHOTO
    return invert(backbone, v0, settings, **inputs)
