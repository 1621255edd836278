"""Learning through diffusers on a GPU: fused and recorded it learns what diffusers' own code learns in float32."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from crossinit_core import InversionResult, InversionSettings, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone

WEIGHTS = Path(__file__).resolve().parents[2] / "miniature" / "weights"
SETTINGS = InversionSettings(steps=25, batch_size=8, resolution=128, seed=3)
COSINE, RATIO = 0.999, 0.02
"""As of ComfyUI's modes: see `benchmarks.modes`."""
PHOTO = (
    torch.nn.functional.interpolate(
        torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), size=(128, 128), mode="bicubic"
    )
    .clamp(0, 1)
    .movedim(1, -1)
)


@pytest.fixture(scope="module")
def loaded(device: torch.device) -> DiffusersBackbone:
    """The embedded miniature, whose weights are real."""
    return DiffusersBackbone.from_pretrained(WEIGHTS, device=device)


@pytest.fixture
def backbone(loaded: DiffusersBackbone) -> Iterator[DiffusersBackbone]:
    assert loaded.fused, "on a GPU blocks are fused unless that is turned off"
    yield loaded
    loaded.fused = True


@pytest.fixture(scope="module")
def start(loaded: DiffusersBackbone) -> Tensor:
    return cross_initialize_words(loaded, "human face")


@pytest.fixture(scope="module")
def truth(loaded: DiffusersBackbone, start: Tensor) -> Tensor:
    """The vectors of diffusers' own code in float32, step by step in Python."""
    loaded.fused = False
    try:
        settings = replace(SETTINGS, precision="fp32", cuda_graph=False)
        return invert(loaded, start, settings, images=PHOTO).token.vectors
    finally:
        loaded.fused = True


def _learn(backbone: Any, start: Tensor, **changes: Any) -> InversionResult:
    return invert(backbone, start, replace(SETTINGS, **changes), images=PHOTO)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("crossinit_core")]


def _assert_near(vectors: Tensor, truth: Tensor, start: Tensor) -> None:
    moved, expected = (vectors - start).flatten(), (truth - start).flatten()
    assert torch.cosine_similarity(moved, expected, dim=0) >= COSINE
    assert abs(float(moved.norm() / expected.norm()) - 1) <= RATIO


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_learns_what_float32_learns(
    backbone: DiffusersBackbone, start: Tensor, truth: Tensor, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = _learn(backbone, start, precision=precision)
    _assert_near(result.token.vectors, truth, start)
    assert not _warnings(caplog), "everything was fused and recorded"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_diffusers_own_code_learns_it_too(
    backbone: DiffusersBackbone, start: Tensor, truth: Tensor, precision: str
) -> None:
    backbone.fused = False
    _assert_near(_learn(backbone, start, precision=precision).token.vectors, truth, start)


def test_it_is_what_a_cpu_learns(start: Tensor, truth: Tensor) -> None:
    """The GPU draws no random numbers of its own."""
    cpu = DiffusersBackbone.from_pretrained(WEIGHTS)
    _assert_near(_learn(cpu, start, precision="fp32").token.vectors, truth, start)


@pytest.mark.parametrize("fused", [True, False])
def test_recorded_and_plain_steps_give_the_same_bits(backbone: DiffusersBackbone, start: Tensor, fused: bool) -> None:
    backbone.fused = fused
    recorded = _learn(backbone, start, precision="fp16")
    again = _learn(backbone, start, precision="fp16")
    plain = _learn(backbone, start, precision="fp16", cuda_graph=False)
    assert torch.equal(recorded.token.vectors, again.token.vectors)
    assert torch.equal(recorded.token.vectors, plain.token.vectors)
    assert recorded.losses == again.losses == plain.losses


@pytest.mark.parametrize("changes", [{"memory": "low"}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}])
def test_saving_memory_learns_the_same(
    backbone: DiffusersBackbone, start: Tensor, truth: Tensor, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _assert_near(_learn(backbone, start, precision="fp16", **changes).token.vectors, truth, start)
    assert not _warnings(caplog), "everything was fused and recorded"


def test_nothing_is_kept_and_the_callers_model_is_as_before(
    backbone: DiffusersBackbone, start: Tensor, device: torch.device
) -> None:
    def weights() -> list[tuple[Any, ...]]:
        modules = [backbone.unet, backbone.text_encoder]
        return [
            (name, weight.data_ptr(), weight.stride(), weight.dtype, weight.requires_grad, weight.grad)
            for module in modules
            for name, weight in module.named_parameters()
        ]

    def kept() -> int:
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)

    before = weights()
    _learn(backbone, start, precision="fp16")  # libraries keep workspaces
    first = kept()
    _learn(backbone, start, precision="fp16")
    assert kept() == first
    assert weights() == before
    modules = (part for module in (backbone.unet, backbone.text_encoder) for part in module.modules())
    assert not any("forward" in vars(part) for part in modules)


def test_a_memory_that_is_too_small_is_found_out_late(
    backbone: DiffusersBackbone,
    start: Tensor,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run goes on in smaller pieces, and learns the same."""
    monkeypatch.setattr(backbone, "free_memory", lambda needed: None)
    changes: dict[str, Any] = {"precision": "fp16", "batch_size": 32, "steps": 4, "cuda_graph": False}
    whole = _learn(backbone, start, **changes)
    small = _learn(backbone, start, **changes, micro_batch_size=4)
    gc.collect()
    torch.cuda.empty_cache()
    room = (whole.peak_memory + small.peak_memory) / 2
    assert small.peak_memory < 0.9 * whole.peak_memory
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info(device)[1], device)
    try:
        with caplog.at_level(logging.WARNING):
            pieces = _learn(backbone, start, **changes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert "Out of memory: going on with micro-batches" in caplog.text
    _assert_near(pieces.token.vectors, whole.token.vectors, start)
