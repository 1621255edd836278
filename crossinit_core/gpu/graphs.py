"""Recorded work: what a GPU is to do is launched once and replayed, so that it never waits for Python.

A step launches some two thousand small kernels, and Python needs longer to launch them than the GPU to run them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import graph_memory
from .modes import is_out_of_memory, release_memory
from .peak_memory import PeakMemory
from .self_tests import has_passed, memory_of, passed

log = logging.getLogger(__name__)

MAX_RECORDINGS = 6
"""Recordings keep the memory of their intermediate results; inputs of ever new sizes are run as they come."""
SPARE, SPARE_BYTES = 1.15, 64 * 1024**2
"""A recording needs this much more memory than a plain run: it is cut into other pieces."""
TOLERANCE = 1e-2
"""Relative difference that a recording may have from the plain run, if the device does not repeat bit for bit."""


class Recording(Protocol):
    """Work that a device can do again without Python."""

    def replay(self, inputs: Sequence[Tensor | None]) -> None:
        """Do the work on these inputs, of the shapes that it was recorded with."""
        ...


class Graphs(Protocol):
    """What records work on a device."""

    def on_stream(self) -> AbstractContextManager[None]:
        """Plain work on the stream of the recordings: what libraries set up for a stream, such as cuBLAS' workspace, is
        then there before a recording, and not allocated in it."""
        ...

    def record(self, function: Callable[..., object], inputs: Sequence[Tensor | None]) -> Recording:
        """A recording of `function(*inputs)`, which is not carried out. Raises RuntimeError if that is not possible."""
        ...

    def free_bytes(self) -> int:
        """What is free of the device's memory."""
        ...

    def synchronize(self) -> None:
        """Wait until all work is done."""
        ...

    def close(self) -> None:
        """Give back the memory of recordings that are gone."""
        ...


def graphs_of(device: torch.device) -> Graphs | None:
    """What records work on a device; None if it cannot be recorded there."""
    return CudaGraphs(device) if device.type == "cuda" else None


class Recorder:
    """Runs functions of tensors on a device: plainly at first, and as a recorded CUDA graph from then on.

    A function must write its results into tensors of its own, must not wait for the device, and must do the same work
    for all inputs of the same shapes. A recording is used only if it repeats what the plain run gave. After an exception
    the results are as they were before.

    `signature` names all that decides what the functions do, beside the
    shapes. What was recorded rightly in this process under the same name is recorded at once from then on: the plain run
    takes as long as several steps. If it is None, every recording is tried.
    """

    def __init__(
        self,
        device: torch.device,
        graphs: Graphs,
        signature: Hashable = None,
        memory: PeakMemory | None = None,
    ) -> None:
        self._device, self._graphs, self._signature = device, graphs, signature
        self._memory = memory or PeakMemory()
        self.enabled = True
        """Whether anything is recorded from now on; what is recorded is used all the same."""
        self._recordings: dict[Hashable, Recording] = {}

    def __call__(
        self, name: str, function: Callable[..., object], results: Sequence[Tensor], *inputs: Tensor | None
    ) -> None:
        """`function(*inputs)` with the inputs brought to the device; `results` are what it changes."""
        key = (name, *(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs))
        recording = self._recordings.get(key)
        if recording:
            recording.replay(inputs)
            return
        here = [None if tensor is None else tensor.to(self._device, non_blocking=True) for tensor in inputs]
        graphs = self._graphs if self.enabled and len(self._recordings) < MAX_RECORDINGS else None
        trial = None if self._signature is None else ("recording", self._signature, key)
        if graphs and trial and has_passed(trial) and _fits(memory_of(trial), graphs):
            recording = self._record_at_once(graphs, function, here)
            if recording:
                self._recordings[key] = recording
                recording.replay(inputs)
                return
        before = [result.detach().clone() for result in results]
        try:
            with self._memory.during() as needed, self._graphs.on_stream():
                _run(function, here)
        except BaseException:
            _put_back(results, before)
            raise
        if graphs:
            recording = self._record(graphs, function, here, results, before, needed[0])
            if recording:
                self._recordings[key] = recording
                if trial:
                    passed(trial, needed[0])

    def clear(self) -> None:
        """Let go of the recordings and their memory."""
        if self._recordings:
            self._graphs.synchronize()
        self._recordings.clear()
        self._graphs.close()

    def _record_at_once(
        self, graphs: Graphs, function: Callable[..., object], inputs: Sequence[Tensor | None]
    ) -> Recording | None:
        """A recording of what was recorded before in this process; None if that fails for once."""
        try:
            return graphs.record(function, inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                self.clear()
                raise
            log.debug("Recording at once failed, so it is tried again after a plain run: %s", error)
            return None

    @torch.no_grad()
    def _record(
        self,
        graphs: Graphs,
        function: Callable[..., object],
        inputs: Sequence[Tensor | None],
        results: Sequence[Tensor],
        before: Sequence[Tensor],
        needed: int,
    ) -> Recording | None:
        if not all(bool(result.isfinite().all()) for result in results):
            return None  # There is nothing to compare with; a later run will do.
        expected = [result.detach().clone() for result in results]
        # What the plain run left cached would otherwise be held beside the recording's own memory.
        graphs.synchronize()
        release_memory()
        if not _fits(needed, graphs):
            self.clear()
            _put_back(results, before)
            raise torch.OutOfMemoryError("CUDA out of memory: a recorded step needs more than is free.")
        try:
            with torch.enable_grad():
                recording = graphs.record(function, inputs)
            _put_back(results, before)
            recording.replay(inputs)
            wrong = not all(_agree(*pair) for pair in zip(results, expected, strict=True))
        except RuntimeError as error:
            if is_out_of_memory(error):
                self.clear()
                _put_back(results, before)
                raise
            self._give_up((str(error) or repr(error)).splitlines()[0], results, expected)
            return None
        if wrong:
            self._give_up("the recording gives other numbers", results, expected)
            return None
        return recording

    def _give_up(self, reason: str, results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        log.warning("Steps are not recorded as a CUDA graph, and run slower: %s", reason)
        self.enabled = False
        _put_back(results, expected)


def _fits(needed: int, graphs: Graphs) -> bool:
    """Whether there is room for a recording of what needs so many bytes.

    To run out of memory in the middle of one leaves memory behind that nobody can free, or ends the process.
    """
    return graphs.free_bytes() > SPARE * needed + SPARE_BYTES


@torch.no_grad()
def _put_back(results: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for result, value in zip(results, values, strict=True):
        result.copy_(value)


def _agree(found: Tensor, expected: Tensor) -> bool:
    if torch.equal(found, expected):
        return True
    both = torch.stack([found.detach(), expected]).double()
    return float((both[0] - both[1]).norm()) <= TOLERANCE * float(both[1].norm())  # False if one is not a number.


def _run(function: Callable[..., object], inputs: Sequence[Tensor | None]) -> None:
    """In this thread alone: autograd's own thread lets go of gradients when it likes, after the recording as well."""
    with torch.autograd.set_multithreading_enabled(False):
        function(*inputs)


class CudaGraphs:
    """CUDA graphs on a GPU, which share their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _recording_stream(device)
        self._pool: Any = None

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        own = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(own)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            own.wait_stream(self._stream)

    def record(self, function: Callable[..., object], inputs: Sequence[Tensor | None]) -> Recording:
        with self.on_stream():
            _set_up_libraries(self._device)
        recording = _CudaGraph(function, inputs, self._pool, self._stream)
        self._pool = recording.pool
        return recording

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0]

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def close(self) -> None:
        self._pool = None
        graph_memory.trim(torch.cuda.current_device())


def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The one that torch records on by itself. It serves all runs, since libraries keep memory for every stream."""
    stream = torch.cuda.graph(torch.cuda.CUDAGraph()).capture_stream
    assert stream
    # It is on the device that was recorded on first.
    return stream if stream.device_index == torch.cuda.current_device() else torch.cuda.Stream(device)


@torch.no_grad()
def _set_up_libraries(device: torch.device) -> None:
    """Let cuBLAS allocate now what it keeps for a stream and a thread, if another thread has recorded before."""
    for dtype in (torch.float32, torch.float16):
        one = torch.ones(16, 16, device=device, dtype=dtype)
        F.linear(one, one, one[0])
        one.mm(one)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing of before is freed meanwhile."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _CudaGraph:
    """A CUDA graph of a function's work.

    What is allocated while it is recorded is freed while it is recorded: with cudaMallocAsync, ComfyUI's default, such
    memory belongs to the graph, and to free it later ends the process ("uncaptured free of a captured allocation"). So
    autograd stays in this thread, exceptions lose their traceback, cycles are collected, and what stays (results,
    workspaces of libraries) was allocated before.
    """

    def __init__(
        self,
        function: Callable[..., object],
        inputs: Sequence[Tensor | None],
        pool: Any,
        stream: torch.cuda.Stream,
    ) -> None:
        self._inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        failure: BaseException | None = None
        recording = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="relaxed")
        try:
            with recording, _no_garbage_collection():
                try:
                    _run(function, self._inputs)
                except BaseException as error:
                    failure = error.with_traceback(None)
                gc.collect(0)
        except RuntimeError as error:
            raise failure or error from None  # what failed half way cannot be ended either
        if failure:
            raise failure
        self.pool = self._graph.pool()

    def replay(self, inputs: Sequence[Tensor | None]) -> None:
        for mine, given in zip(self._inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given, non_blocking=True)
        self._graph.replay()
