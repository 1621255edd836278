"""What makes a run fast or small does not change what it learns, and numbers that overflow do no harm."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossinit_core import (
    InversionResult,
    InversionSettings,
    StepReport,
    TrainingBatch,
    cross_initialize_words,
    invert,
)
from crossinit_core import run as run_module
from crossinit_core.backbone import activation_memory
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.memory import GIB, plan_memory
from crossinit_core.upload import upload

SETTINGS = InversionSettings(steps=6, batch_size=2, resolution=64, seed=5)
PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone(tiny_models: Path) -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps")


@pytest.fixture(scope="module")
def start(backbone: DiffusersBackbone) -> Tensor:
    return cross_initialize_words(backbone, "human face")


class Watched:
    """A backbone whose UNet's answers go through `around(answer, precision, call)`; notes how it was opened."""

    def __init__(
        self,
        backbone: DiffusersBackbone,
        around: Callable[[Tensor, torch.dtype, int], Tensor] = lambda answer, *_: answer,
        free: int | None = None,
        needed: Callable[[int, bool], int] = lambda samples, checkpointing: 0,
    ) -> None:
        self._backbone, self._around, self._free, self._needed = backbone, around, free, needed
        self.opened: list[tuple[str, bool]] = []
        self.samples: list[int] = []
        self.asked_for: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def memory_needed(self, *, samples: int, gradient_checkpointing: bool, **_: Any) -> int:
        return self._needed(samples, gradient_checkpointing)

    def free_memory(self, needed: int) -> int | None:
        self.asked_for.append(needed)
        return self._free

    @contextmanager
    def training(self, **options: Any) -> Iterator[Any]:
        self.opened.append((options["precision"], options["gradient_checkpointing"]))
        with self._backbone.training(**options) as model:
            predict = model.predict

            def watched(noisy: Tensor, *more: Tensor) -> Tensor:
                self.samples.append(len(noisy))
                return self._around(predict(noisy, *more), model.dtype, len(self.samples))

            model.predict = watched  # type: ignore[method-assign]
            yield model


def _learn(backbone: Any, start: Tensor, settings: InversionSettings = SETTINGS, **inputs: Any) -> InversionResult:
    if "batches" not in inputs:
        inputs["images"] = PHOTO
    return invert(backbone, start, settings, **inputs)


def _same(result: InversionResult, other: InversionResult) -> bool:
    return torch.equal(result.token.vectors, other.token.vectors) and result.losses == other.losses


# Numbers that overflow


def _overflows(precisions: tuple[torch.dtype, ...], from_call: int) -> Callable[[Tensor, torch.dtype, int], Tensor]:
    return lambda answer, dtype, call: answer * torch.inf if dtype in precisions and call >= from_call else answer


def test_an_overflow_goes_on_in_a_safer_precision(
    backbone: DiffusersBackbone, start: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(backbone, _overflows((torch.bfloat16,), from_call=4))
    reports: list[StepReport] = []
    with caplog.at_level(logging.WARNING):
        result = _learn(watched, start, replace(SETTINGS, precision="bf16"), on_step=reports.append)
    assert [precision for precision, _ in watched.opened] == ["bf16", "fp32"]
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6], "a step is reported once"
    assert "Step 4 gave numbers that are not finite in bfloat16" in caplog.text
    assert "Going on in fp32" in caplog.text
    assert result.token.metadata["crossinit.precision"] == "float32"
    # The good steps stay, and the bad one is done again with the same draws.
    half = _learn(backbone, start, replace(SETTINGS, precision="bf16", steps=3))
    assert result.losses[:3] == half.losses
    whole = _learn(backbone, start, replace(SETTINGS, precision="fp32"))
    assert result.losses == pytest.approx(whole.losses, rel=0.02)


def test_an_overflow_is_survived_with_ready_made_batches(backbone: DiffusersBackbone, start: Tensor) -> None:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, backbone.vocabulary_size, (2, 77), generator=draw)
    ids[:, 5:7] = torch.tensor([backbone.vocabulary_size, backbone.vocabulary_size + 1])
    batches = [
        TrainingBatch(*torch.randn(2, 2, 4, 8, 8, generator=draw), torch.randint(0, 1000, (2,), generator=draw), ids)
        for _ in range(6)
    ]
    watched = Watched(backbone, _overflows((torch.bfloat16,), from_call=1))
    result = _learn(watched, start, replace(SETTINGS, precision="bf16"), batches=iter(batches))
    assert _same(result, _learn(backbone, start, replace(SETTINGS, precision="fp32"), batches=batches))


def test_a_gradient_too_large_for_float16_is_scaled_down(backbone: DiffusersBackbone, start: Tensor) -> None:
    """The loss is a number, and its gradient is one only where the loss was multiplied by little."""

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * (torch.inf if float(gradient.abs().max()) > 1 else 1)

    watched = Watched(backbone, lambda answer, *_: Steep.apply(answer))
    result = _learn(watched, start, replace(SETTINGS, precision="fp16", steps=3))
    assert [precision for precision, _ in watched.opened] == ["fp16"]
    assert len(watched.samples) > 3, "the step was done again"
    plain = _learn(backbone, start, replace(SETTINGS, precision="fp16", steps=3))
    moved, expected = (run.token.vectors - start for run in (result, plain))
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99


def test_a_cancelled_run_goes_on_in_the_precision_that_it_had_found(
    backbone: DiffusersBackbone, start: Tensor, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, precision="bf16")
    expected = _learn(Watched(backbone, _overflows((torch.bfloat16,), from_call=3)), start, settings)

    def stop(report: StepReport) -> None:
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched = Watched(backbone, _overflows((torch.bfloat16,), from_call=3))
        _learn(watched, start, settings, on_step=stop, resume_folder=tmp_path)
    resumed = Watched(backbone)
    result = _learn(resumed, start, settings, resume_folder=tmp_path)
    assert result.resumed_from == 4
    assert [precision for precision, _ in resumed.opened][-1] == "fp32"
    assert _same(result, expected)


def test_what_overflows_in_every_precision_stops_at_the_last_good_step(
    backbone: DiffusersBackbone, start: Tensor, tmp_path: Path
) -> None:
    watched = Watched(backbone, _overflows((torch.bfloat16, torch.float32), from_call=3))
    seen: list[int] = []
    with pytest.raises(FloatingPointError, match="Step 3 gave numbers that are not finite in float32"):
        _learn(
            watched,
            start,
            replace(SETTINGS, precision="bf16"),
            on_step=lambda report: seen.append(report.step),
            resume_folder=tmp_path,
        )
    assert seen == [1, 2]
    mended = _learn(backbone, start, replace(SETTINGS, precision="bf16"), resume_folder=tmp_path)
    assert mended.resumed_from == 2, "the good steps were not kept"


def test_the_model_of_one_attempt_is_gone_when_the_next_is_made(backbone: DiffusersBackbone, start: Tensor) -> None:
    """On a GPU that has no room for two."""
    opened: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Counted(Watched):
        @contextmanager
        def training(self, **options: Any) -> Iterator[Any]:
            gc.collect()
            alive.append(sum(model() is not None for model in opened))
            with super().training(**options) as model:
                opened.append(weakref.ref(model._unet))
                yield model

    _learn(Counted(backbone, _overflows((torch.bfloat16,), from_call=2)), start, replace(SETTINGS, precision="bf16"))
    assert alive == [0, 0]


# Reports that come late


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, steps are launched before the ones before them are reported."""
    monkeypatch.setattr(run_module, "steps_ahead", lambda device: 3)


@pytest.fixture(scope="module")
def in_turn(backbone: DiffusersBackbone, start: Tensor) -> InversionResult:
    return _learn(backbone, start)


@pytest.mark.usefixtures("ahead")
def test_late_reports_are_those_of_a_run_in_turn(
    backbone: DiffusersBackbone, start: Tensor, in_turn: InversionResult
) -> None:
    reports: list[StepReport] = []
    result = _learn(backbone, start, on_step=reports.append)
    assert _same(result, in_turn)
    assert [(report.step, report.loss) for report in reports] == list(enumerate(in_turn.losses, 1))
    assert torch.equal(reports[-1].vectors, result.token.vectors)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_cancel_keeps_what_was_reported_and_not_more(
    backbone: DiffusersBackbone, start: Tensor, in_turn: InversionResult, tmp_path: Path, step: int
) -> None:
    def stop(report: StepReport) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _learn(backbone, start, on_step=stop, resume_folder=tmp_path)
    result = _learn(backbone, start, resume_folder=tmp_path)
    assert result.resumed_from == step
    assert _same(result, in_turn)


@pytest.mark.usefixtures("ahead")
def test_an_overflow_that_is_found_late_is_undone(backbone: DiffusersBackbone, start: Tensor) -> None:
    """Two more steps were launched after the bad one; none of them may leave a trace."""
    settings = replace(SETTINGS, precision="bf16")
    late = _learn(
        Watched(backbone, lambda answer, dtype, call: answer * (torch.nan if call == 3 else 1)), start, settings
    )
    half = _learn(backbone, start, replace(settings, steps=2))
    assert late.losses[:2] == half.losses
    assert all(np.isfinite(late.losses))
    full = _learn(backbone, start, replace(SETTINGS, precision="fp32"))
    assert late.losses == pytest.approx(full.losses, rel=0.02)


@pytest.mark.usefixtures("ahead")
def test_an_error_ahead_does_not_swallow_the_steps_before_it(
    backbone: DiffusersBackbone, start: Tensor, tmp_path: Path
) -> None:
    def fail(answer: Tensor, dtype: torch.dtype, call: int) -> Tensor:
        if call >= 4:
            raise RuntimeError("the model is broken")
        return answer

    seen: list[int] = []
    with pytest.raises(RuntimeError, match="the model is broken"):
        _learn(
            Watched(backbone, fail),
            start,
            on_step=lambda report: seen.append(report.step),
            resume_folder=tmp_path,
        )
    assert seen == [1, 2, 3]
    assert _learn(backbone, start, resume_folder=tmp_path).resumed_from == 3


# Memory


def _needs(gib_a_sample: float, weights: float = 2.0) -> Callable[[int, bool], int]:
    return lambda samples, checkpointing: int((weights + samples * gib_a_sample * (0.3 if checkpointing else 1)) * GIB)


@pytest.mark.parametrize(
    ("free", "checkpointing", "samples"),
    [
        (None, False, 8),
        (24.0, False, 8),
        (7.0, False, 8),
        (6.0, True, 8),
        (3.0, True, 4),
        (2.3, True, 1),
        (0.5, True, 1),
    ],
)
def test_the_mode_follows_the_free_memory(
    backbone: DiffusersBackbone, free: float | None, checkpointing: bool, samples: int
) -> None:
    host = Watched(backbone, free=None if free is None else int(free * GIB), needed=_needs(0.6))
    plan = plan_memory(host, InversionSettings(resolution=64))
    assert (plan.gradient_checkpointing, plan.micro_batch_size) == (checkpointing, samples)
    assert host.asked_for == [int(6.8 * GIB)], "the host is asked to make room for the fast way"


def test_the_low_memory_mode_keeps_to_four_gib(backbone: DiffusersBackbone) -> None:
    settings = InversionSettings(resolution=64, memory="low")
    for gib, samples in ((0.6, 8), (2.0, 2), (9.0, 1)):
        plan = plan_memory(Watched(backbone, free=100 * GIB, needed=_needs(gib)), settings)
        assert (plan.gradient_checkpointing, plan.micro_batch_size) == (True, samples)


def test_the_normal_mode_never_holds_back(backbone: DiffusersBackbone) -> None:
    host = Watched(backbone, free=GIB, needed=_needs(0.6))
    plan = plan_memory(host, InversionSettings(resolution=64, memory="normal"))
    assert (plan.gradient_checkpointing, plan.micro_batch_size) == (False, 8)


def test_what_was_asked_for_is_never_exceeded(backbone: DiffusersBackbone) -> None:
    settings = InversionSettings(resolution=64, micro_batch_size=2, gradient_checkpointing=True)
    plan = plan_memory(Watched(backbone, free=100 * GIB, needed=_needs(0.6)), settings)
    assert (plan.gradient_checkpointing, plan.micro_batch_size) == (True, 2)


def test_full_size_fits_the_limits_by_its_estimate() -> None:
    """SD 2.1's weights in half precision are 2.3 GiB."""
    assert 2.3 * GIB + activation_memory(8, 512, torch.float16, False) < 7.0 * GIB
    assert 2.3 * GIB + activation_memory(8, 512, torch.float16, True) < 4.0 * GIB


def test_the_low_memory_mode_learns_the_same(
    backbone: DiffusersBackbone, start: Tensor, in_turn: InversionResult, caplog: pytest.LogCaptureFixture
) -> None:
    host = Watched(backbone, free=int(2.4 * GIB), needed=_needs(1.0))
    with caplog.at_level(logging.INFO):
        result = _learn(host, start)
    assert host.opened == [("auto", True)]
    assert set(host.samples) == {1}
    assert "low-memory mode, 1 of 2 samples at once" in caplog.text
    torch.testing.assert_close(result.token.vectors, in_turn.token.vectors, atol=1e-5, rtol=0)


def test_an_unforeseen_lack_of_memory_ends_in_the_low_memory_mode(
    backbone: DiffusersBackbone, start: Tensor, in_turn: InversionResult, caplog: pytest.LogCaptureFixture
) -> None:
    host = Watched(backbone)

    def around(answer: Tensor, dtype: torch.dtype, call: int) -> Tensor:
        if not host.opened[-1][1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer

    host._around = around
    with caplog.at_level(logging.WARNING):
        result = _learn(host, start)
    assert [checkpointing for _, checkpointing in host.opened] == [False, True]
    assert "going on in low-memory mode" in caplog.text
    torch.testing.assert_close(result.token.vectors, in_turn.token.vectors, atol=1e-5, rtol=0)


# Small parts


def test_uploaded_weights_are_copies_in_their_own_types() -> None:
    weights = {
        "table": torch.randn(5, 3).half(),
        "turned": torch.randn(4, 6).t(),
        "scalar": torch.tensor(2.0, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }
    copies = upload(weights, torch.device("cpu"))
    assert list(copies) == list(weights)
    for name, weight in weights.items():
        assert torch.equal(copies[name], weight)
        assert copies[name].dtype == weight.dtype
        assert not weight.numel() or copies[name].data_ptr() != weight.data_ptr()
