"""Learning with tiny models: a small setting, a photo, and a model whose UNet can be watched or made to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from crossinit_core import InversionResult, InversionSettings, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from tests.tiny_models import Prepared

SMALL = InversionSettings(steps=3, batch_size=4, resolution=64, seed=1)
PHOTO = torch.rand(1, 70, 80, 3, generator=torch.Generator().manual_seed(0))


class Watched:
    """A backbone whose UNet is called through `around(predict, noisy_latents, timesteps, context)`."""

    def __init__(self, backbone: DiffusersBackbone, around: Callable[..., Tensor]) -> None:
        self._backbone, self._around = backbone, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    @contextmanager
    def training(self, **options: Any) -> Iterator[Any]:
        with self._backbone.training(**options) as model:
            predict = model.predict
            model.predict = lambda *inputs: self._around(predict, *inputs)  # type: ignore[method-assign]
            yield model


def learn(tiny: Prepared, settings: InversionSettings = SMALL, **inputs: Any) -> InversionResult:
    """A run on PHOTO, unless `batches` are given; `backbone` takes the place of the model's own."""
    if "batches" not in inputs:
        inputs.setdefault("images", PHOTO)
    return invert(inputs.pop("backbone", tiny.backbone), tiny.start, settings, **inputs)


def broken(*_: Any) -> Tensor:
    """An `around` that fails."""
    raise RuntimeError("the model is broken")
