"""Torch's modes around a run: gradients inside ComfyUI, determinism, loss scaling, memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Gradients, also where the caller (ComfyUI) runs in inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    """The same numbers in every run on one device; the caller's flags are put back afterwards.

    FlashAttention's backward pass, for one, adds in an order that varies unless it is told otherwise. Filling
    fresh memory, which torch does in this mode by default, finds bugs but costs time, so it is off.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tf32 = torch.backends.cudnn.allow_tf32
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    with (
        warnings.catch_warnings(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32),
    ):
        warnings.filterwarnings("ignore", message=".*[Dd]eterministic.*")
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            memory.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


class LossScale:
    """Keeps float16 gradients in range: the loss is multiplied by `value`, the gradient divided by it.

    A loss that is a mean over 100,000 latent values has gradients below float16's smallest number. Source of the
    recipe: Micikevicius et al., "Mixed Precision Training", ICLR 2018.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.value = 2.0**16 if enabled else 1.0

    def unscale_(self, parameter: Tensor) -> bool:
        """Divide the gradient by the scale; False where it overflowed and the step must be done again."""
        assert parameter.grad is not None
        if self.value > 1 and not torch.isfinite(parameter.grad).all():
            self.value /= 4
            return False
        parameter.grad.div_(self.value)
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def release_memory() -> None:
    """Give cached blocks back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
