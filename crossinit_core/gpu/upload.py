"""Many tensors from ordinary memory to a GPU at the speed of the bus.

A plain copy goes through one small staging buffer by one thread, and reaches a tenth of that. Here several threads fill
large buffers, from which the GPU fetches on its own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

SMALLEST, LARGEST = 2 * 1024**2, 16 * 1024**2
"""Bytes of a staging buffer. To lock memory for it takes as long as to copy several times as much."""
PARTS = 32
"""Buffers that all bytes should fill, so that little is locked for few of them."""
WORTH_IT = 4 * LARGEST
"""Bytes below which the staging costs more than it saves."""

_Piece = tuple[Tensor, int, int, int]
"""Bytes of the source, where they begin in it, where in the buffer, and how many."""


def upload(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copies of the tensors on a device, in their own types; those that are there already are copied as well."""
    copies = {key: torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for key, tensor in tensors.items()}
    staged = {key: tensor for key, tensor in tensors.items() if _can_be_staged(tensor)}
    if device.type != "cuda" or sum(map(_size, staged.values())) < WORTH_IT:
        staged = {}
    for key in tensors.keys() - staged.keys():
        copies[key].copy_(tensors[key])
    if staged:
        _stage(list(staged.values()), [copies[key] for key in staged])
    return copies


def _can_be_staged(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.numel() > 0 and not tensor.is_pinned()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _stage(sources: list[Tensor], targets: list[Tensor]) -> None:
    threads = max(1, min(8, (os.cpu_count() or 2) // 2))
    size = min(max(sum(map(_size, sources)) // PARTS, SMALLEST), LARGEST)
    buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(threads + 2)]
    fetched: list[torch.cuda.Event | None] = [None] * len(buffers)
    waiting: deque[tuple[int, list[tuple[_Piece, Tensor]], Future[None]]] = deque()

    def fetch() -> None:
        """Let the GPU take the oldest buffer once it is full."""
        slot, pieces, filled = waiting.popleft()
        filled.result()
        for (_, start, at, count), target in pieces:
            target[start : start + count].copy_(buffers[slot][at : at + count], non_blocking=True)
        fetched[slot] = event = torch.cuda.Event()
        event.record()

    with ThreadPoolExecutor(threads) as pool:
        for number, pieces in enumerate(
            _chunks([_bytes(part) for part in sources], [_bytes(part) for part in targets], size)
        ):
            slot = number % len(buffers)
            if len(waiting) == len(buffers):
                fetch()
            waiting.append(
                (slot, pieces, pool.submit(_fill, buffers[slot], fetched[slot], [part for part, _ in pieces]))
            )
        while waiting:
            fetch()
    # The buffers go back to torch, which hands them out again only when the device is done with them.


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def _chunks(sources: list[Tensor], targets: list[Tensor], size: int) -> Iterator[list[tuple[_Piece, Tensor]]]:
    """The bytes of all sources in order, cut when a buffer of `size` bytes is full."""
    chunk: list[tuple[_Piece, Tensor]] = []
    used = 0
    for source, target in zip(sources, targets, strict=True):
        start = 0
        while start < len(source):
            count = min(len(source) - start, size - used)
            chunk.append(((source, start, used, count), target))
            start, used = start + count, used + count
            if used == size:
                yield chunk
                chunk, used = [], 0
    if chunk:
        yield chunk


def _fill(buffer: Tensor, fetched: torch.cuda.Event | None, pieces: list[_Piece]) -> None:
    if fetched is not None:
        fetched.synchronize()
    into = buffer.numpy()
    for source, start, at, count in pieces:
        np.copyto(into[at : at + count], source[start : start + count].numpy())
