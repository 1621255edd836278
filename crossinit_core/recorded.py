"""Recorded work: what a GPU is to do is launched once and replayed, so that it never waits for Python.

A step launches several thousand small kernels, and Python needs longer to launch them than the GPU to run them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from .numerics import is_out_of_memory, release_memory

log = logging.getLogger(__name__)

MAX_RECORDINGS = 6
"""Recordings keep the memory of their intermediate results; inputs of ever new sizes are run as they come."""


class Recorder:
    """Runs functions of tensors on a device: plainly at first, and as a recorded CUDA graph from the second time on.

    A function must write its results into tensors of its own, must not wait for the device, and must do the same work
    for all inputs of the same shapes.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        self.device = device
        self.enabled = enabled and device.type == "cuda"
        self._recordings: dict[Hashable, _Recording | None] = {}
        self._pool: Any = None

    def __call__(self, name: str, function: Callable[..., None], *inputs: Tensor | None) -> None:
        """`function(*inputs)` with the inputs brought to the device."""
        key = (name, *(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs))
        recording = self._recordings.get(key)
        if recording is None and self.enabled and key in self._recordings:
            recording = self._recordings[key] = self._record(function, inputs)
        if recording:
            recording.replay(inputs)
            return
        if len(self._recordings) < MAX_RECORDINGS:
            self._recordings.setdefault(key, None)  # Run once as it is: libraries set themselves up on first use.
        function(*(_moved(tensor, self.device) for tensor in inputs))

    def clear(self) -> None:
        """Let go of the recordings and their memory."""
        if any(self._recordings.values()):
            torch.cuda.synchronize(self.device)
        self._recordings.clear()
        self._pool = None

    def _record(self, function: Callable[..., None], inputs: tuple[Tensor | None, ...]) -> _Recording | None:
        # What the first run left cached would otherwise be held beside the recording's own memory.
        torch.cuda.synchronize(self.device)
        release_memory()
        try:
            recording = _Recording(function, [_moved(tensor, self.device) for tensor in inputs], self._pool)
        except RuntimeError as error:
            if is_out_of_memory(error):
                self.clear()
                raise
            log.info("Steps are not recorded as a CUDA graph, and run slower: %s", str(error).splitlines()[0])
            self.enabled = False
            return None
        self._pool = recording.pool
        return recording


class _Recording:
    def __init__(self, function: Callable[..., None], inputs: list[Tensor | None], pool: Any) -> None:
        self._inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            function(*self._inputs)
        self.pool = self._graph.pool()

    def replay(self, inputs: tuple[Tensor | None, ...]) -> None:
        for mine, given in zip(self._inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given, non_blocking=True)
        self._graph.replay()


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
