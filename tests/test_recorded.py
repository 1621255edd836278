"""What a step must do so that a GPU's recording of it is safe. Recording itself needs a GPU: benchmarks/modes.py does it."""

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
from crossinit_core.recorded import Recorder

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
