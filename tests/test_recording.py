"""What a step must do so that a GPU's recording of it is safe, and what becomes of a run whose recording fails.

Recording itself needs a GPU: tests/gpu does it. Here `Fake` stands for a GPU's graphs.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossinit_core import InversionSettings, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.gpu.graphs import Graphs, Recorder, Recording, graphs_of
from crossinit_core.learning import steps as steps_module
from crossinit_core.learning.settings import MemoryMode

CPU = torch.device("cpu")

SETTINGS = InversionSettings(steps=2, batch_size=2, resolution=64)
PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


@dataclass
class Repeats:
    """A recording that does what the function does, in any mode of gradients, as a GPU's graph does."""

    function: Callable[..., object]

    @torch.enable_grad()
    def replay(self, inputs: Sequence[Tensor | None]) -> None:
        self.function(*inputs)


@dataclass
class Fake:
    """Graphs without a GPU; `record` says what becomes of a recording."""

    make: Callable[[Callable[..., object], Sequence[Tensor | None]], Recording] = lambda function, inputs: Repeats(
        function
    )
    free: int = 2**40
    recorded: list[Recording | None] = field(default_factory=list)
    closed: int = 0

    def on_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, function: Callable[..., object], inputs: Sequence[Tensor | None]) -> Recording:
        self.recorded.append(None)
        self.recorded[-1] = made = self.make(function, inputs)
        return made

    def free_bytes(self) -> int:
        return self.free

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


def _full(function: Callable[..., object], inputs: Sequence[Tensor | None]) -> Recording:
    """The memory is too small for a recording, after a part of its work."""
    function(*inputs)
    raise torch.OutOfMemoryError("CUDA out of memory")


def _recorder(graphs: Graphs | None = None, signature: object = None) -> Recorder:
    return Recorder(CPU, Fake() if graphs is None else graphs, signature)


@pytest.fixture(scope="module")
def backbone() -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(Path(__file__).resolve().parents[1] / "miniature" / "weights")


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert graphs_of(CPU) is None


def test_work_that_is_not_recorded_is_run_as_it_comes() -> None:
    recorder = _recorder()
    recorder.enabled = False
    total = torch.zeros(3)
    for value in (1.0, 2.0, 3.0):
        recorder("add", lambda x: total.add_(x), [total], torch.full((3,), value))
    assert not recorder.enabled
    assert total.tolist() == [6.0, 6.0, 6.0]


def test_a_recording_without_memory_leaves_results() -> None:
    """As they were before the plain run: the caller does the step again, in smaller pieces."""
    total = torch.ones(3)
    with pytest.raises(torch.OutOfMemoryError):
        _recorder(Fake(_full))("add", lambda: total.add_(1), [total])
    assert total.tolist() == [1.0, 1.0, 1.0]


def test_a_failed_plain_run_leaves_results() -> None:
    first, second = torch.ones(2), torch.ones(2)

    def half() -> None:
        first.add_(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        _recorder()("half", half, [first, second])
    assert first.tolist() == second.tolist() == [1.0, 1.0]


def _ways_to(recorder: Recorder, value: float) -> list[str]:
    """Set a total to a value; one entry for each time that this was done, plainly or by a recording."""
    ways: list[str] = []

    def set_to(x: Tensor) -> None:
        ways.append("run")
        total.copy_(x)

    total = torch.zeros(1)
    recorder("set", set_to, [total], torch.tensor([value]))
    assert total.item() == value
    return ways


def test_known_work_is_recorded_at_once() -> None:
    """What was recorded rightly in this process need not be run plainly first."""
    plainly_and_recorded, recorded_alone = ["run", "run"], ["run"]
    model, other = object(), object()
    assert _ways_to(_recorder(signature=model), 1.0) == plainly_and_recorded
    assert _ways_to(_recorder(signature=model), 2.0) == recorded_alone
    assert _ways_to(_recorder(signature=other), 3.0) == plainly_and_recorded
    assert _ways_to(_recorder(), 4.0) == _ways_to(_recorder(), 5.0) == plainly_and_recorded


def test_what_would_not_fit_is_not_recorded() -> None:
    """To run out of memory in the middle of a recording cannot be mended. The caller does the step again, in smaller pieces."""
    model, full = object(), Fake(free=0)
    assert _ways_to(_recorder(signature=model), 1.0) == ["run", "run"]
    total = torch.ones(3)
    with pytest.raises(torch.OutOfMemoryError):
        _recorder(full, model)("set", lambda x: total.copy_(x), [total], torch.tensor([2.0]))
    assert total.tolist() == [1.0, 1.0, 1.0]
    assert full.recorded == []


def test_a_recording_needs_some_spare_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the plain run, a part of it, and 64 MiB."""

    class Needs3GiB:
        @contextmanager
        def during(self) -> Iterator[list[int]]:
            needed: list[int] = []
            yield needed
            needed.append(3 * 2**30)

    def enough(free: int) -> bool:
        recorder = Recorder(CPU, graphs := Fake(free=free), memory=Needs3GiB())  # type: ignore[arg-type]
        try:
            recorder("nothing", lambda: None, [])
        except torch.OutOfMemoryError:
            assert not graphs.recorded
            return False
        return bool(graphs.recorded)

    assert enough(4 * 2**30)
    assert not enough(3 * 2**30)


def test_a_recording_at_once_that_fails_is_tried_again() -> None:
    """After a plain run."""
    model = object()
    assert _ways_to(_recorder(signature=model), 1.0) == ["run", "run"]

    def fails_at_first(function: Callable[..., object], inputs: Any) -> Recording:
        if len(graphs.recorded) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return Repeats(function)

    graphs = Fake(fails_at_first)
    assert _ways_to(again := _recorder(graphs, model), 2.0) == ["run", "run"]
    assert again.enabled and len(graphs.recorded) == 2


def test_a_recording_at_once_without_memory_changes_nothing() -> None:
    """The caller does the step again, in smaller pieces."""
    model, total = object(), torch.zeros(1)
    _recorder(signature=model)("add", lambda: total.add_(1), [total])
    before = total.clone()

    def full(*_: Any) -> Recording:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        _recorder(Fake(full), model)("add", lambda: total.add_(1), [total])
    assert torch.equal(total, before)


def test_only_finite_numbers_are_recorded() -> None:
    """There is nothing to compare a recording of an overflow with."""
    graphs, total = Fake(), torch.zeros(1)
    recorder = _recorder(graphs)
    for value, recordings in ((torch.inf, 0), (2.0, 1), (3.0, 1)):
        recorder("set", lambda x: total.copy_(x), [total], torch.tensor([value]))
        assert total.item() == value
        assert len(graphs.recorded) == recordings


def test_a_recording_with_other_numbers_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    total = torch.zeros(1)
    recorder = _recorder(Fake(lambda function, inputs: Repeats(lambda x: total.copy_(x * 1.05))))
    for value in (2.0, 3.0):
        recorder("set", lambda x: total.copy_(x), [total], torch.tensor([value]))
        assert total.item() == value
    assert not recorder.enabled
    assert "the recording gives other numbers" in caplog.text


def test_memory_is_given_back_with_the_recordings() -> None:
    graphs = Fake()
    recorder = _recorder(graphs)
    _ways_to(recorder, 1.0)
    recorder.clear()
    assert graphs.closed == 1


def test_a_run_goes_on_where_only_recordings_are_too_large(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = cross_initialize_words(backbone, "person")
    expected = invert(backbone, start, SETTINGS, images=PHOTO).token.vectors
    monkeypatch.setattr(steps_module, "graphs_of", lambda device: Fake(_full))
    found = invert(backbone, start, replace(SETTINGS, micro_batch_size=1), images=PHOTO).token.vectors
    assert "without a recorded CUDA graph" in caplog.text
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_recorded_run_learns_the_same(backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    start, settings = cross_initialize_words(backbone, "person"), replace(SETTINGS, steps=4)
    expected = invert(backbone, start, settings, images=PHOTO).token.vectors
    made: list[Fake] = []

    def graphs_of(device: object) -> Fake:
        made.append(Fake())
        return made[-1]

    monkeypatch.setattr(steps_module, "graphs_of", graphs_of)
    assert torch.equal(invert(backbone, start, settings, images=PHOTO).token.vectors, expected)
    assert len(made) == 1 and len(made[0].recorded) == 2, "the gradient and the update"
    assert made[0].closed
    settings = replace(settings, cuda_graph=False)
    assert torch.equal(invert(backbone, start, settings, images=PHOTO).token.vectors, expected)
    assert len(made) == 1


def test_autograd_stays_in_the_thread_that_records() -> None:
    """Its own threads let go of gradients at any later time."""
    found: list[bool] = []
    nothing = Fake(lambda function, inputs: Repeats(lambda: None))
    _recorder(nothing)("look", lambda: found.append(torch.autograd.is_multithreading_enabled()), [])
    assert found == [False]
    assert torch.autograd.is_multithreading_enabled()


@pytest.mark.parametrize("memory", ["normal", "low"])
def test_a_step_leaves_no_memory_behind_that_it_allocated(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch, memory: MemoryMode
) -> None:
    """Under a recording it would belong to the GPU's graph, and freeing it later ends the process."""
    left: dict[str, list[str]] = {}

    class Watching(Recorder):
        def __call__(self, name: str, function: Any, results: Any, *inputs: Any) -> None:
            def inside(*given: Any) -> None:
                with _no_garbage_collection(), _Allocations() as allocations:
                    function(*given)
                    gc.collect(0)
                known = {result.untyped_storage().data_ptr() for result in results}
                left[name] = allocations.left(known)

            super().__call__(name, inside, results, *inputs)

    monkeypatch.setattr(steps_module, "graphs_of", lambda device: Fake())
    monkeypatch.setattr(steps_module, "Recorder", Watching)
    start = cross_initialize_words(backbone, "person")
    invert(backbone, start, replace(SETTINGS, memory=memory), images=PHOTO)
    assert left == {"gradient of 1 in 2": [], "update": []}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Allocations(TorchDispatchMode):
    """Notes every tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[str, weakref.ref[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self._seen += [(str(func), weakref.ref(leaf)) for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        return given

    def left(self, known: set[int]) -> list[str]:
        """Operations whose results still live, and are not in the storages `known`."""
        alive = [(name, reference()) for name, reference in self._seen]
        return [name for name, it in alive if it is not None and it.untyped_storage().data_ptr() not in known]
