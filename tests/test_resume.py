"""A run that was stopped goes on where it was, and ends as if it had never been stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from crossinit_core import (
    InversionResult,
    InversionSettings,
    StepReport,
    TrainingBatch,
    cross_initialize_words,
    invert,
)
from crossinit_core.diffusers_backbone import DiffusersBackbone

SETTINGS = InversionSettings(steps=5, batch_size=2, resolution=64, resume_every=100, seed=3)
PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


class Cancel(BaseException):
    """As ComfyUI's cancel and Ctrl-C do, it passes `except Exception`."""


@pytest.fixture(scope="module")
def backbone(tiny_models: Path) -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps")


@pytest.fixture(scope="module")
def v0(backbone: DiffusersBackbone) -> torch.Tensor:
    return cross_initialize_words(backbone, "human face")


@pytest.fixture(scope="module")
def uninterrupted(backbone: DiffusersBackbone, v0: torch.Tensor) -> InversionResult:
    return invert(backbone, v0, SETTINGS, images=PHOTO)


class Interrupted:
    """A backbone whose UNet raises `error` at its `call`-th use."""

    def __init__(self, backbone: DiffusersBackbone, call: int, error: BaseException) -> None:
        self._backbone, self._error, self._left = backbone, error, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    @contextmanager
    def training(self, **options: Any) -> Iterator[Any]:
        with self._backbone.training(**options) as model:
            predict = model.predict

            def interrupted(*inputs: torch.Tensor) -> torch.Tensor:
                self._left -= 1
                if not self._left:
                    raise self._error
                return predict(*inputs)

            model.predict = interrupted  # type: ignore[method-assign]
            yield model


def _stop_after(step: int) -> Callable[[StepReport], None]:
    def stop(report: StepReport) -> None:
        if report.step == step:
            raise Cancel

    return stop


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _step_in(folder: Path) -> int | None:
    """The step of the only resume file."""
    files = _files(folder)
    if not files:
        return None
    assert len(files) == 1
    with safe_open(files[0], framework="pt") as file:
        return int(file.metadata()["step"])


def _same(result: InversionResult, other: InversionResult) -> bool:
    return (
        torch.equal(result.token.vectors, other.token.vectors)
        and result.losses == other.losses
        and result.distances == other.distances
    )


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_cancelled_run_goes_on_and_ends_the_same(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path, step: int
) -> None:
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=_stop_after(step))
    assert _step_in(tmp_path) == step
    seen: list[int] = []
    result = invert(
        backbone,
        v0,
        SETTINGS,
        images=PHOTO,
        resume_folder=tmp_path,
        on_step=lambda report: seen.append(report.step),
    )
    assert result.resumed_from == step
    assert seen == list(range(step + 1, 6))
    assert _same(result, uninterrupted)
    assert result.token.metadata["crossinit.steps"] == "5"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA error: unspecified")])
def test_a_run_that_dies_in_the_middle_of_a_step_goes_on_and_ends_the_same(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    error: BaseException,
) -> None:
    with pytest.raises(type(error)):
        invert(Interrupted(backbone, 4, error), v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert _step_in(tmp_path) == 3
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert _same(result, uninterrupted)


def test_half_a_batch_that_was_done_is_done_again(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, micro_batch_size=1)
    with pytest.raises(Cancel):
        invert(Interrupted(backbone, 6, Cancel()), v0, settings, images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 2
    assert _same(result, invert(backbone, v0, settings, images=PHOTO))


def test_a_run_may_be_stopped_again_and_again(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    for step in (1, 2, 3, 4):
        with pytest.raises(Cancel):
            invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=_stop_after(step))
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 4
    assert _same(result, uninterrupted)


def test_a_run_that_is_stopped_before_its_first_step_leaves_nothing(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(Cancel):
        invert(Interrupted(backbone, 1, Cancel()), v0, SETTINGS, images=PHOTO, resume_folder=tmp_path / "r")
    assert not _files(tmp_path / "r")


def test_the_file_is_written_regularly_and_at_the_end(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    """What a power cut leaves: the step in the file, seen after each step."""
    found: list[int | None] = []
    settings = replace(SETTINGS, resume_every=2)
    invert(
        backbone,
        v0,
        settings,
        images=PHOTO,
        resume_folder=tmp_path / "new" / "folder",
        on_step=lambda report: found.append(_step_in(tmp_path / "new" / "folder")),
    )
    assert found == [None, 2, 2, 4, 5]


def test_without_a_folder_nothing_is_written(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Cancel):
        invert(backbone, v0, replace(SETTINGS, resume_every=1), images=PHOTO, on_step=_stop_after(2))
    assert not _files(tmp_path)


def test_a_longer_run_continues_a_shorter_one(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    invert(backbone, v0, replace(SETTINGS, steps=3), images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert _same(result, uninterrupted)


def test_a_shorter_run_starts_anew(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    shorter = replace(SETTINGS, steps=2)
    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, shorter, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 0
    assert _same(result, invert(backbone, v0, shorter, images=PHOTO))
    # The longer run's result is still there.
    assert invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path).resumed_from == SETTINGS.steps


def test_a_finished_run_returns_at_once(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    unused = Interrupted(backbone, 1, AssertionError("a step was made"))
    result = invert(unused, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=_stop_after(5))
    assert result.resumed_from == SETTINGS.steps
    assert _same(result, uninterrupted)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"learning_rate": 0.004},
        {"batch_size": 3},
        {"regularization": 0.1},
        {"weight_decay": 0.02},
        {"flip_probability": 0.0},
        {"precision": "bf16"},
        {"subject": "portrait of {}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_with_another_setting_does_not_continue_this_one(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path, change: dict[str, Any]
) -> None:
    invert(backbone, v0, replace(SETTINGS, steps=1), images=PHOTO, resume_folder=tmp_path)
    changed = replace(SETTINGS, steps=2, **change)
    result = invert(backbone, v0, changed, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 0
    assert len(_files(tmp_path)) == 2


def test_a_run_on_another_photo_mask_or_start_does_not_continue_this_one(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    settings, inputs = replace(SETTINGS, steps=1), {"images": PHOTO, "resume_folder": tmp_path}
    half = torch.zeros(1, 64, 64)
    half[:, 32:] = 1
    runs: list[dict[str, Any]] = [
        {"v0": v0},
        {"v0": v0, "images": PHOTO.flip(1)},
        {"v0": v0, "images": torch.cat([PHOTO, PHOTO])},
        {"v0": v0, "masks": half},
        {"v0": v0, "masks": half.flip(1)},
        {"v0": v0 + 1e-4},
        {"v0": v0[:1]},
    ]
    for run in runs:
        assert invert(backbone, settings=settings, **{**inputs, **run}).resumed_from == 0, run
    for run in runs:
        assert invert(backbone, settings=settings, **{**inputs, **run}).resumed_from == 1, run


def test_a_run_on_changed_weights_does_not_continue_this_one(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    """Another checkpoint, or a LoRA on it."""
    settings = replace(SETTINGS, steps=1)
    invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path)
    for part in (backbone.unet, backbone.text_encoder, backbone.vae):
        weight = next(parameter for parameter in part.parameters() if parameter.ndim > 1)
        before = weight.clone()
        weight.mul_(1.01)
        try:
            assert invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path).resumed_from == 0
        finally:
            weight.copy_(before)
    assert invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path).resumed_from == 1


@pytest.mark.parametrize("change", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}, {"resume_every": 1}])
def test_after_running_out_of_memory_a_run_may_go_on_with_less(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    invert(backbone, v0, replace(SETTINGS, steps=3), images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, replace(SETTINGS, **change), images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    torch.testing.assert_close(result.token.vectors, uninterrupted.token.vectors, atol=1e-5, rtol=0)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_bytes(b"not a safetensors file at all")


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _of_another_run(path: Path) -> None:
    content = path.read_bytes()
    key = b'"fingerprint":"'
    place = content.index(key) + len(key)
    path.write_bytes(content[:place] + b"0" * 64 + content[place + 64 :])


@pytest.mark.parametrize("damage", [_empty, _text, _cut_off, _of_another_run])
def test_a_damaged_resume_file_is_replaced_with_a_warning(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    invert(backbone, v0, replace(SETTINGS, steps=2), images=PHOTO, resume_folder=tmp_path)
    (path,) = _files(tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING):
        result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert "cannot be used" in caplog.text
    assert path.name in caplog.text
    assert result.resumed_from == 0
    assert _same(result, uninterrupted)
    path.unlink()
    assert _step_in(tmp_path) == 5


def test_a_run_that_shall_start_anew_does_so_and_is_protected_all_the_same(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=_stop_after(3))
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, resume=False, on_step=_stop_after(2))
    assert _step_in(tmp_path) == 2
    assert _same(invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path), uninterrupted)


def test_a_folder_that_cannot_be_written_does_not_end_the_run(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = tmp_path / "resume"
    taken.write_text("a file where the folder should be", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=taken)
    assert _same(result, uninterrupted)
    assert "could not be written" in caplog.text
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=taken, on_step=_stop_after(3))


def test_ready_made_batches_are_resumed_too(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[backbone.bos, 49408, 49409, backbone.eos, *repeat(backbone.pad, 73)]])
    batches = [
        TrainingBatch(
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.randint(0, 1000, (2,), generator=generator),
            ids.expand(2, -1),
        )
        for _ in range(5)
    ]
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, batches=batches, resume_folder=tmp_path, on_step=_stop_after(3))
    result = invert(backbone, v0, SETTINGS, batches=iter(batches), resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert _same(result, invert(backbone, v0, SETTINGS, batches=batches))
    masked = [replace(batch, mask=torch.ones(2, 1, 8, 8)) for batch in batches]
    late = [*batches[:2], replace(batches[2], noise=batches[2].noise + 1), *batches[3:]]
    for others in (list(reversed(batches)), masked, late):
        again = invert(backbone, v0, SETTINGS, batches=iter(others), resume_folder=tmp_path)
        assert again.resumed_from == 0
        assert _same(again, invert(backbone, v0, SETTINGS, batches=others))


def test_batches_with_timesteps_that_do_not_exist_are_refused(backbone: DiffusersBackbone, v0: torch.Tensor) -> None:
    latents, ids = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, dtype=torch.long)
    for timestep in (-1, 1000):
        batch = TrainingBatch(latents, latents, torch.tensor([timestep]), ids)
        with pytest.raises(
            ValueError, match=f"timesteps from {timestep} to {timestep}, but they must be from 0 to 999"
        ):
            invert(backbone, v0, SETTINGS, batches=[batch])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files are mapped")
def test_a_run_that_goes_on_does_not_hold_the_file_that_it_came_from(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    """Windows lets nobody replace a file that is mapped, so the run's own resume file could not be written."""
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=_stop_after(2))
    held: list[bool] = []

    def look(report: StepReport) -> None:
        held.append(str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8"))

    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=look)
    assert held == [False] * 3


def test_batches_with_ids_beyond_the_learned_vectors_are_refused(backbone: DiffusersBackbone, v0: torch.Tensor) -> None:
    latents = torch.zeros(1, 4, 8, 8)
    batch = TrainingBatch(latents, latents, torch.zeros(1, dtype=torch.long), torch.full((1, 77), 49410))
    with pytest.raises(ValueError, match="from 0 to 49409"):
        invert(backbone, v0, SETTINGS, batches=[batch])


def test_resume_files_do_not_pile_up(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:024x}.resume.safetensors").write_bytes(b"old")
    (tmp_path / "mine.txt").write_bytes(b"not a resume file")
    invert(backbone, v0, replace(SETTINGS, steps=1), images=PHOTO, resume_folder=tmp_path)
    left = list(tmp_path.glob("*.resume.safetensors"))
    assert len(left) == 30
    assert sum(path.stat().st_size > 3 for path in left) == 1, "the new file itself was dropped"
    assert (tmp_path / "mine.txt").exists()
