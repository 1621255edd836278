"""What makes a run fast does not change what it learns, and numbers that overflow do no harm."""

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

from crossinit_core import InversionResult, StepReport, TrainingBatch
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.gpu.upload import upload
from crossinit_core.learning import steps as run_module
from tests.watched_backbone import SETTINGS, Watched, learn


def _same(result: InversionResult, other: InversionResult) -> bool:
    return torch.equal(result.token.vectors, other.token.vectors) and result.losses == other.losses


# Numbers that overflow


def _overflows(precisions: tuple[torch.dtype, ...], from_call: int) -> Callable[[Tensor, torch.dtype, int], Tensor]:
    return lambda answer, dtype, call: answer * torch.inf if dtype in precisions and call >= from_call else answer


def test_an_overflow_goes_on_in_a_safer_precision(
    backbone: DiffusersBackbone, v0: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(backbone, _overflows((torch.bfloat16,), from_call=4))
    reports: list[StepReport] = []
    with caplog.at_level(logging.WARNING):
        result = learn(watched, v0, replace(SETTINGS, precision="bf16"), on_step=reports.append)
    assert [precision for precision, _ in watched.opened] == ["bf16", "fp32"]
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6], "a step is reported once"
    assert "Step 4 gave numbers that are not finite in bfloat16" in caplog.text
    assert "Going on in fp32" in caplog.text
    assert result.token.metadata["crossinit.precision"] == "float32"
    # The good steps stay, and the bad one is done again with the same draws.
    half = learn(backbone, v0, replace(SETTINGS, precision="bf16", steps=3))
    assert result.losses[:3] == half.losses
    whole = learn(backbone, v0, replace(SETTINGS, precision="fp32"))
    assert result.losses == pytest.approx(whole.losses, rel=0.02)


def test_an_overflow_is_survived_with_ready_made_batches(backbone: DiffusersBackbone, v0: Tensor) -> None:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, backbone.vocabulary_size, (2, 77), generator=draw)
    ids[:, 5:7] = torch.tensor([backbone.vocabulary_size, backbone.vocabulary_size + 1])

    def batch() -> TrainingBatch:
        latents, noise = torch.randn(2, 2, 4, 8, 8, generator=draw)
        return TrainingBatch(latents, noise, torch.randint(0, 1000, (2,), generator=draw), ids)

    batches = [batch() for _ in range(6)]
    watched = Watched(backbone, _overflows((torch.bfloat16,), from_call=1))
    result = learn(watched, v0, replace(SETTINGS, precision="bf16"), batches=iter(batches))
    assert _same(result, learn(backbone, v0, replace(SETTINGS, precision="fp32"), batches=batches))


def test_a_gradient_too_large_for_float16_is_scaled_down(backbone: DiffusersBackbone, v0: Tensor) -> None:
    """The loss is a number, and its gradient is one only where the loss was multiplied by little."""

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * (torch.inf if float(gradient.abs().max()) > 1 else 1)

    watched = Watched(backbone, lambda answer, *_: Steep.apply(answer))
    result = learn(watched, v0, replace(SETTINGS, precision="fp16", steps=3))
    assert [precision for precision, _ in watched.opened] == ["fp16"]
    assert len(watched.samples) > 3, "the step was done again"
    plain = learn(backbone, v0, replace(SETTINGS, precision="fp16", steps=3))
    moved, expected = (run.token.vectors - v0 for run in (result, plain))
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99


def test_a_resumed_run_keeps_its_precision(backbone: DiffusersBackbone, v0: Tensor, tmp_path: Path) -> None:
    """A cancelled run goes on in the precision that it had found."""
    settings = replace(SETTINGS, precision="bf16")
    expected = learn(Watched(backbone, _overflows((torch.bfloat16,), from_call=3)), v0, settings)

    def stop(report: StepReport) -> None:
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched = Watched(backbone, _overflows((torch.bfloat16,), from_call=3))
        learn(watched, v0, settings, on_step=stop, resume_folder=tmp_path)
    resumed = Watched(backbone)
    result = learn(resumed, v0, settings, resume_folder=tmp_path)
    assert result.resumed_from == 4
    assert [precision for precision, _ in resumed.opened][-1] == "fp32"
    assert _same(result, expected)


def test_an_overflow_stops_at_the_last_good_step(backbone: DiffusersBackbone, v0: Tensor, tmp_path: Path) -> None:
    """What overflows in every precision stops at the last good step."""
    watched = Watched(backbone, _overflows((torch.bfloat16, torch.float32), from_call=3))
    seen: list[int] = []
    with pytest.raises(FloatingPointError, match="Step 3 gave numbers that are not finite in float32"):
        learn(
            watched,
            v0,
            replace(SETTINGS, precision="bf16"),
            on_step=lambda report: seen.append(report.step),
            resume_folder=tmp_path,
        )
    assert seen == [1, 2]
    mended = learn(backbone, v0, replace(SETTINGS, precision="bf16"), resume_folder=tmp_path)
    assert mended.resumed_from == 2, "the good steps were not kept"


def test_one_model_is_gone_before_the_next(backbone: DiffusersBackbone, v0: Tensor) -> None:
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

    learn(Counted(backbone, _overflows((torch.bfloat16,), from_call=2)), v0, replace(SETTINGS, precision="bf16"))
    assert alive == [0, 0]


# Reports that come late


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, steps are launched before the ones before them are reported."""
    monkeypatch.setattr(run_module, "steps_ahead", lambda device: 3)


@pytest.fixture(scope="module")
def in_turn(backbone: DiffusersBackbone, v0: Tensor) -> InversionResult:
    return learn(backbone, v0)


@pytest.mark.usefixtures("ahead")
def test_late_reports_are_those_of_a_run_in_turn(
    backbone: DiffusersBackbone, v0: Tensor, in_turn: InversionResult
) -> None:
    reports: list[StepReport] = []
    result = learn(backbone, v0, on_step=reports.append)
    assert _same(result, in_turn)
    assert [(report.step, report.loss) for report in reports] == list(enumerate(in_turn.losses, 1))
    assert torch.equal(reports[-1].vectors, result.token.vectors)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_cancel_keeps_what_was_reported_and_not_more(
    backbone: DiffusersBackbone, v0: Tensor, in_turn: InversionResult, tmp_path: Path, step: int
) -> None:
    def stop(report: StepReport) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(backbone, v0, on_step=stop, resume_folder=tmp_path)
    result = learn(backbone, v0, resume_folder=tmp_path)
    assert result.resumed_from == step
    assert _same(result, in_turn)


@pytest.mark.usefixtures("ahead")
def test_an_overflow_that_is_found_late_is_undone(backbone: DiffusersBackbone, v0: Tensor) -> None:
    """Two more steps were launched after the bad one; none of them may leave a trace."""
    settings = replace(SETTINGS, precision="bf16")
    late = learn(Watched(backbone, lambda answer, dtype, call: answer * (torch.nan if call == 3 else 1)), v0, settings)
    half = learn(backbone, v0, replace(settings, steps=2))
    assert late.losses[:2] == half.losses
    assert all(np.isfinite(late.losses))
    full = learn(backbone, v0, replace(SETTINGS, precision="fp32"))
    assert late.losses == pytest.approx(full.losses, rel=0.02)


@pytest.mark.usefixtures("ahead")
def test_an_error_ahead_does_not_swallow_the_steps_before_it(
    backbone: DiffusersBackbone, v0: Tensor, tmp_path: Path
) -> None:
    def fail(answer: Tensor, dtype: torch.dtype, call: int) -> Tensor:
        if call >= 4:
            raise RuntimeError("the model is broken")
        return answer

    seen: list[int] = []
    with pytest.raises(RuntimeError, match="the model is broken"):
        learn(
            Watched(backbone, fail),
            v0,
            on_step=lambda report: seen.append(report.step),
            resume_folder=tmp_path,
        )
    assert seen == [1, 2, 3]
    assert learn(backbone, v0, resume_folder=tmp_path).resumed_from == 3


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
