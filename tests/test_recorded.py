"""What a step must do so that a GPU's recording of it is safe, and what becomes of a run whose recording fails.

Recording itself needs a GPU: benchmarks/modes.py does it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossinit_core import InversionSettings, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.gpu import graphs as recorded
from crossinit_core.gpu import self_tests as trials
from crossinit_core.gpu.graphs import Recorder

SETTINGS = InversionSettings(steps=2, batch_size=2, resolution=64)
PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone() -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(Path(__file__).resolve().parents[1] / "miniature" / "weights")


def test_on_a_cpu_work_is_run_as_it_comes() -> None:
    recorder = Recorder(torch.device("cpu"), enabled=True)
    total = torch.zeros(3)
    for value in (1.0, 2.0, 3.0):
        recorder("add", lambda x: total.add_(x), [total], torch.full((3,), value))
    assert not recorder.enabled
    assert total.tolist() == [6.0, 6.0, 6.0]


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """One that records, as far as that is possible without a GPU."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(recorded, "_recording_stream", lambda device: None)
    monkeypatch.setattr(trials, "_passed", {})
    return _recorder()


def _recorder(work: str | None = None) -> Recorder:
    recorder = Recorder(torch.device("cpu"), enabled=True, work=work)
    recorder.enabled = True
    return recorder


class _Full:
    """A recording for which the memory is too small, after a part of its work."""

    def __init__(self, function: Any, *_: Any) -> None:
        function()
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_recording_that_finds_no_memory_leaves_results_as_before_the_plain_run(
    recording: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller does the step again, in smaller pieces."""
    monkeypatch.setattr(recorded, "_Recording", _Full)
    total = torch.ones(3)
    with pytest.raises(torch.OutOfMemoryError):
        recording("add", lambda: total.add_(1), [total])
    assert total.tolist() == [1.0, 1.0, 1.0]


def test_a_plain_run_that_fails_half_way_leaves_results_as_before(recording: Recorder) -> None:
    first, second = torch.ones(2), torch.ones(2)

    def half() -> None:
        first.add_(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        recording("half", half, [first, second])
    assert first.tolist() == second.tolist() == [1.0, 1.0]


class _Repeats:
    """A recording that does what the function does."""

    pool = None
    made = 0

    def __init__(self, function: Any, *_: Any) -> None:
        type(self).made += 1
        self._function = function

    def replay(self, inputs: Any) -> None:
        self._function(*inputs)


def _ways_to(recorder: Recorder, value: float) -> list[str]:
    """Set a total to a value, and say whether it was set by a plain run or by a recording."""
    ways: list[str] = []

    def set_to(x: torch.Tensor) -> None:
        ways.append("run")
        total.copy_(x)

    total = torch.zeros(1)
    recorder("set", set_to, [total], torch.tensor([value]))
    assert total.item() == value
    return ways


def test_work_that_was_recorded_rightly_is_recorded_at_once_the_next_time(
    recording: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "_Recording", type("Repeats", (_Repeats,), {}))
    plainly_and_recorded, recorded_alone = ["run", "run"], ["run"]
    assert _ways_to(_recorder("SD 2.1 in fp16"), 1.0) == plainly_and_recorded
    assert _ways_to(_recorder("SD 2.1 in fp16"), 2.0) == recorded_alone
    assert _ways_to(_recorder("SD 2.1 in bf16"), 3.0) == plainly_and_recorded
    assert _ways_to(_recorder(), 4.0) == _ways_to(_recorder(), 5.0) == plainly_and_recorded


def test_what_would_not_fit_is_not_recorded(recording: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """To run out of memory in the middle of a recording cannot be mended. The caller does the step again, in smaller pieces."""
    repeats = type("Repeats", (_Repeats,), {})
    monkeypatch.setattr(recorded, "_Recording", repeats)
    assert _ways_to(_recorder("SD 2.1"), 1.0) == ["run", "run"]
    monkeypatch.setattr(Recorder, "_fits", lambda self, needed: False)
    total = torch.ones(3)
    with pytest.raises(torch.OutOfMemoryError):
        _recorder("SD 2.1")("set", lambda x: total.copy_(x), [total], torch.tensor([2.0]))
    assert total.tolist() == [1.0, 1.0, 1.0]
    assert repeats.made == 1


def test_a_recording_fits_where_more_is_free_than_a_plain_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(torch.device("cuda"), enabled=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**30, 8 * 2**30))
    assert recorder._fits(3 * 2**30)
    assert not recorder._fits(4 * 2**30)


def test_a_recording_at_once_that_fails_is_tried_again_after_a_plain_run(
    recording: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(_Repeats):
        def __init__(self, function: Any, *_: Any) -> None:
            super().__init__(function)
            if type(self).made == 2:
                raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "_Recording", Fails)
    assert _ways_to(_recorder("SD 2.1"), 1.0) == ["run", "run"]
    assert _ways_to(again := _recorder("SD 2.1"), 2.0) == ["run", "run"]
    assert again.enabled and Fails.made == 3


def test_a_recording_at_once_that_finds_no_memory_changes_nothing(
    recording: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller does the step again, in smaller pieces."""
    monkeypatch.setattr(recorded, "_Recording", type("Repeats", (_Repeats,), {}))
    total = torch.zeros(1)
    _recorder("SD 2.1")("add", lambda: total.add_(1), [total])
    before = total.clone()

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(recorded, "_Recording", full)
    with pytest.raises(torch.OutOfMemoryError):
        _recorder("SD 2.1")("add", lambda: total.add_(1), [total])
    assert torch.equal(total, before)


def test_numbers_that_overflow_are_not_recorded_and_the_next_ones_are(
    recording: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeats = type("Repeats", (_Repeats,), {})
    monkeypatch.setattr(recorded, "_Recording", repeats)
    total = torch.zeros(1)
    for value, recordings in ((torch.inf, 0), (2.0, 1), (3.0, 1)):
        recording("set", lambda x: total.copy_(x), [total], torch.tensor([value]))
        assert total.item() == value
        assert repeats.made == recordings


def test_where_only_the_recording_is_too_large_the_run_goes_on_without(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = cross_initialize_words(backbone, "person")
    expected = invert(backbone, start, SETTINGS, images=PHOTO).token.vectors
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(recorded, "_recording_stream", lambda device: None)
    monkeypatch.setattr(recorded, "_Recording", _FullWithInputs)

    def enabled(self: Recorder, *arguments: Any) -> None:
        first(self, *arguments)
        self.enabled = True

    first = Recorder.__init__
    monkeypatch.setattr(Recorder, "__init__", enabled)
    found = invert(backbone, start, replace(SETTINGS, micro_batch_size=1), images=PHOTO).token.vectors
    assert "without a recorded CUDA graph" in caplog.text
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


class _FullWithInputs(_Full):
    def __init__(self, function: Any, inputs: Any, *_: Any) -> None:
        super().__init__(lambda: function(*inputs))


def test_autograd_stays_in_the_thread_that_records() -> None:
    """Its own threads let go of gradients at any later time."""
    found: list[bool] = []
    Recorder(torch.device("cpu"), enabled=True)(
        "look", lambda: found.append(torch.autograd.is_multithreading_enabled()), []
    )
    assert found == [False]
    assert torch.autograd.is_multithreading_enabled()


@pytest.mark.parametrize("memory", ["normal", "low"])
def test_a_step_leaves_no_memory_behind_that_it_allocated(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    """Under a recording it would belong to the GPU's graph, and freeing it later ends the process."""
    left: dict[str, list[str]] = {}
    call = Recorder.__call__

    def watched(self: Recorder, name: str, function: Any, results: Any, *inputs: Any) -> None:
        def inside(*given: Any) -> None:
            with _no_garbage_collection(), _Allocations() as allocations:
                function(*given)
                gc.collect(0)
            known = {result.untyped_storage().data_ptr() for result in results}
            left[name] = allocations.left(known)

        call(self, name, inside, results, *inputs)

    monkeypatch.setattr(Recorder, "__call__", watched)
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
