"""Torch's modes around a run: gradients inside ComfyUI, determinism, memory."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

log = logging.getLogger(__name__)


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Gradients, even if the caller (ComfyUI) runs in inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def leave_it_to(device: torch.device) -> Iterator[None]:
    """If a GPU does the work: it becomes the current one, and the CPU gets one thread, since little is left for it."""
    if device.type != "cuda":
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Garbage collection looks only at objects that are made meanwhile. A host has half a million others; to go through
    them takes as long as ten steps."""
    if gc.get_freeze_count():  # another program asked for it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def collect_all_garbage() -> None:
    """Free every object that only holds itself, older ones included: for when memory is short."""
    gc.unfreeze()
    gc.collect()


class Determinism:
    """While open: the same numbers in every run on one device. The caller's flags are put back afterwards.

    FlashAttention's backward pass, for one, adds in an order that varies unless torch is told to be strict about
    it; and then torch wants cuBLAS' workspace fixed by an environment variable, or raises. Filling fresh memory, which
    torch does in this mode by default, finds bugs but costs time, so it is off.
    """

    _CUBLAS = "CUBLAS_WORKSPACE_CONFIG"

    def __enter__(self) -> Determinism:
        memory: Any = torch.utils.deterministic
        with ExitStack() as stack:
            stack.callback(
                torch.use_deterministic_algorithms,
                torch.are_deterministic_algorithms_enabled(),
                warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            )
            stack.callback(setattr, memory, "fill_uninitialized_memory", memory.fill_uninitialized_memory)
            stack.callback(_set_environment, self._CUBLAS, os.environ.get(self._CUBLAS))
            stack.enter_context(
                torch.backends.cudnn.flags(
                    enabled=torch.backends.cudnn.enabled,
                    benchmark=False,
                    deterministic=True,
                    allow_tf32=torch.backends.cudnn.allow_tf32,
                )
            )
            memory.fill_uninitialized_memory = False
            os.environ.setdefault(self._CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True)
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def relax(self, error: RuntimeError) -> bool:
        """Whether a step failed only because an operation has no reproducible version here; if so, do without."""
        if "deterministic" not in str(error) or torch.is_deterministic_algorithms_warn_only_enabled():
            return False
        log.warning("This device cannot repeat a run bit for bit: %s", str(error).split(". ")[0])
        torch.use_deterministic_algorithms(True, warn_only=True)
        return True


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What MPS says, and the CPU on Linux and on Windows."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    )


def release_memory() -> None:
    """Give cached blocks back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
