"""A recorded CUDA graph does what the plain run does, or the plain run goes on; and its memory is given back."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from crossinit_core.gpu import graph_memory
from crossinit_core.gpu.graphs import Recorder, graphs_of

MIB = 2**20


@pytest.fixture
def recorder(device: torch.device) -> Iterator[Recorder]:
    graphs = graphs_of(device)
    assert graphs is not None
    made = Recorder(device, graphs)
    yield made
    made.clear()


class Work:
    """The gradient of a small network, added to `total`; counts how often Python does it."""

    def __init__(self, device: torch.device, size: int = 256) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = (torch.randn(size, size, generator=generator) / size**0.5).to(device)
        self.total = torch.zeros(8, size, device=device)
        self.runs = 0

    def __call__(self, x: Tensor) -> None:
        self.runs += 1
        self.total += self.gradient(x)

    def gradient(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        loss = (torch.tanh(x @ self.weight) @ self.weight).square().mean()
        return torch.autograd.grad(loss, x)[0]

    def inputs(self, count: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(self.total.shape, generator=generator) for _ in range(count)]


def test_a_recording_repeats_the_plain_run(recorder: Recorder, device: torch.device) -> None:
    work = Work(device)
    expected = torch.zeros_like(work.total)
    for x in work.inputs(5):
        expected += work.gradient(x.to(device))
        recorder("work", work, [work.total], x)
    assert torch.equal(work.total, expected)
    assert work.runs == 2, "once plainly and once recorded; then it was replayed"
    assert recorder.enabled


def test_another_size_is_recorded_beside_it(recorder: Recorder, device: torch.device) -> None:
    work = Work(device)
    expected = torch.zeros_like(work.total)
    for rows in (8, 4, 8, 4):
        x = torch.ones(rows, 256)
        expected[:rows] += work.gradient(x.to(device))

        def add(x: Tensor) -> None:
            work.runs += 1
            work.total[: len(x)] += work.gradient(x)

        recorder("work", add, [work.total], x)
    assert torch.equal(work.total, expected)
    assert work.runs == 4


def test_a_recording_that_is_let_go_gives_its_memory_back(device: torch.device) -> None:
    def learn() -> tuple[int, int]:
        graphs = graphs_of(device)
        assert graphs is not None
        recorder, work = Recorder(device, graphs), Work(device, size=4096)
        for x in work.inputs(3):
            recorder("work", work, [work.total], x)
        recorder.clear()
        del recorder, work, graphs
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device), graph_memory.held(torch.cuda.current_device())

    first = learn()  # libraries keep workspaces for a stream
    assert learn() == first


def test_what_cannot_be_recorded_goes_on_plainly(
    recorder: Recorder, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(device)

    def waits(x: Tensor) -> None:
        work(x * float(x.sum().cpu() != 0))

    expected = torch.zeros_like(work.total)
    with caplog.at_level(logging.WARNING):
        for x in work.inputs(3):
            expected += work.gradient(x.to(device))
            recorder("work", waits, [work.total], x)
    assert torch.equal(work.total, expected)
    assert not recorder.enabled and "not recorded as a CUDA graph" in caplog.text


def test_a_full_memory_leaves_results_as_before(recorder: Recorder, device: torch.device) -> None:
    total = torch.ones(4, device=device)

    def needs(x: Tensor) -> None:
        total.add_(1)
        total.add_(torch.empty(int(x.shape[0]) * 64 * MIB, dtype=torch.uint8, device=device)[0] * 0)

    recorder("small", needs, [total], torch.zeros(1))
    assert total.tolist() == [2.0] * 4
    torch.cuda.empty_cache()
    all_bytes = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 256 * MIB) / all_bytes, device)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            recorder("large", needs, [total], torch.zeros(64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert total.tolist() == [2.0] * 4
    recorder("small", needs, [total], torch.zeros(1))
    assert total.tolist() == [3.0] * 4


def test_what_would_not_fit_is_not_recorded(recorder: Recorder, device: torch.device) -> None:
    """The plain run fits, but a recording beside it would not: running out in the middle of one can end the process."""
    total = torch.ones(4, device=device)
    recorder("warm up", lambda: total.add_(0), [total])
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    size = 512 * MIB

    def needs() -> None:
        total.add_(1)
        total.add_(torch.empty(size, dtype=torch.uint8, device=device)[0] * 0)

    ballast = torch.empty(torch.cuda.mem_get_info(device)[0] - size - 80 * MIB, dtype=torch.uint8, device=device)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            recorder("needs", needs, [total])
    finally:
        del ballast
        torch.cuda.empty_cache()
    assert total.tolist() == [1.0] * 4
