"""Resume files: when they are written, which run each belongs to, and how long it is kept."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crossinit_core import InversionResult, InversionSettings, StepReport, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning import provenance, resume_files
from tests.resumed import PHOTO, SETTINGS, Cancel, files_in, same, step_in, stop_after


@pytest.fixture(scope="module")
def uninterrupted(backbone: DiffusersBackbone, v0: torch.Tensor) -> InversionResult:
    return invert(backbone, v0, SETTINGS, images=PHOTO)


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
        on_step=lambda report: found.append(step_in(tmp_path / "new" / "folder")),
    )
    assert found == [None, 2, 2, 4, 5]


def test_slow_steps_are_written_one_by_one(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CPU, where 20 steps may take ten minutes: a power cut takes none of them."""
    monkeypatch.setattr(resume_files, "WRITE_AFTER", -1.0)
    found: list[int | None] = []
    invert(
        backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=lambda _: found.append(step_in(tmp_path))
    )
    assert found == [1, 2, 3, 4, 5]


def test_a_deleted_folder_is_made_again(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    folder = tmp_path / "resume"

    def delete(report: StepReport) -> None:
        if report.step == 2:
            shutil.rmtree(folder)

    settings = replace(SETTINGS, resume_every=1)
    result = invert(backbone, v0, settings, images=PHOTO, resume_folder=folder, on_step=delete)
    assert same(result, uninterrupted) and not result.notes
    assert step_in(folder) == 5


def test_a_folder_that_goes_away_is_told_once(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    """A file takes its place after step 2, which is the last that can be kept."""
    folder = tmp_path / "resume"

    def replace_it(report: StepReport) -> None:
        if report.step == 2:
            shutil.rmtree(folder)
            folder.write_bytes(b"a file")

    settings = replace(SETTINGS, resume_every=1)
    result = invert(backbone, v0, settings, images=PHOTO, resume_folder=folder, on_step=replace_it)
    assert same(result, uninterrupted)
    (note,) = result.notes
    assert f"The resume folder '{folder}' could not be written" in note and "would start anew" in note


def test_without_a_folder_nothing_is_written(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Cancel):
        invert(backbone, v0, replace(SETTINGS, resume_every=1), images=PHOTO, on_step=stop_after(2))
    assert not files_in(tmp_path)


def test_a_shorter_run_starts_anew(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    shorter = replace(SETTINGS, steps=2)
    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, shorter, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 0
    assert same(result, invert(backbone, v0, shorter, images=PHOTO))
    # The longer run's result is still there.
    assert invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path).resumed_from == SETTINGS.steps


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
    assert len(files_in(tmp_path)) == 2


def test_other_inputs_are_another_run(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """A run on another photo, mask or start does not continue this one."""
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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files are mapped")
def test_a_resumed_run_lets_go_of_its_file(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """Windows lets nobody replace a file that is mapped, so the run's own resume file could not be written."""
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(2))
    held: list[bool] = []

    def look(report: StepReport) -> None:
        held.append(str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8"))

    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=look)
    assert held == [False] * 3


def test_a_cancelled_run_outlives_other_runs(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    for seed in range(40):
        others = replace(SETTINGS, steps=1, batch_size=1, seed=100 + seed)
        invert(backbone, v0, others, images=PHOTO, resume_folder=tmp_path)
    assert len(files_in(tmp_path)) == 41
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert same(result, uninterrupted)


def _age(path: Path, days: float) -> Path:
    past = time.time() - days * 86400
    os.utime(path, (past, past))
    return path


def test_files_that_nobody_uses_go(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """After 30 days a file expires, and is deleted after 30 more; what does not belong to the pack stays."""
    name = f"{1:024x}-320.resume.safetensors"
    new = [tmp_path / f"{number:024x}-320.resume.safetensors" for number in range(2, 5)]
    for path in new:
        path.write_bytes(b"new")
    _age(new[0], 29)
    old = tmp_path / name
    old.write_bytes(b"old")
    _age(old, 31)
    damaged = tmp_path / f"{9:024x}-25.resume.safetensors.damaged"
    damaged.write_bytes(b"damaged")
    _age(damaged, 31)
    mine = [tmp_path / "mine.txt", tmp_path / "my.resume.safetensors"]
    for path in mine:
        path.write_bytes(b"not a resume file of the pack")
        _age(path, 400)
    folder = tmp_path / f"{8:024x}-25.resume.safetensors"
    folder.mkdir()
    _age(folder, 400)
    invert(backbone, v0, replace(SETTINGS, steps=1), images=PHOTO, resume_folder=tmp_path)
    expired = tmp_path / f"{name}.expired"
    assert expired.read_bytes() == b"old" and not old.exists() and not damaged.exists()
    _age(expired, 31)
    invert(backbone, v0, replace(SETTINGS, steps=1), images=PHOTO, resume_folder=tmp_path)
    assert not expired.exists()
    assert all(path.exists() for path in (*new, *mine, folder))


@pytest.mark.parametrize("days", [31, 20000, -4000], ids=["a month", "1970", "the future"])
def test_a_wrong_clock_throws_no_run_away(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path, days: int
) -> None:
    """A file whose time is long ago, or to come, is still found by its run after another run came by."""
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    _age(files_in(tmp_path)[0], days)
    invert(backbone, v0, replace(SETTINGS, steps=1, seed=9), images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert same(result, uninterrupted)


def test_a_file_in_use_stays_new(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """A finished run that is asked for again and again is not forgotten."""
    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    (path,) = files_in(tmp_path)
    _age(path, 29)
    assert invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path).resumed_from == 5
    assert time.time() - path.stat().st_mtime < 86400


def test_what_a_crash_left_is_cleared_away(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """Half-written files go after an hour, when no living program can be writing them."""
    name = f"{1:024x}-320.resume.safetensors"
    orphans = [tmp_path / f".{name}.{number:032x}.tmp" for number in range(3)]
    for path in orphans:
        path.write_bytes(b"half")
    _age(orphans[0], 2 / 24)
    _age(orphans[1], -30)
    invert(backbone, v0, replace(SETTINGS, steps=1), images=PHOTO, resume_folder=tmp_path)
    assert [path.exists() for path in orphans] == [False, False, True]


def test_a_release_keeps_the_resume_files(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version goes into the token's metadata, and has no part in a run's name. A change of the arithmetic has."""
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    monkeypatch.setattr(provenance, "__version__", "9.9.9")
    again = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert again.resumed_from == 3
    assert again.token.metadata["crossinit.version"] == "9.9.9"
    monkeypatch.setattr(resume_files, "RECIPE", "another")
    anew = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert anew.resumed_from == 0
    assert same(anew, again)


def test_runs_have_the_names_of_the_first_version() -> None:
    """So what was begun with version 0.1.0, where this name was computed, goes on."""
    backbone = SimpleNamespace(prediction_type="epsilon", alphas_cumprod=lambda: torch.linspace(1, 0, 1000))
    model = SimpleNamespace(dtype=torch.float16, fingerprint=lambda: "weights")
    name = resume_files.run_fingerprint(
        backbone,
        model,
        InversionSettings(resolution=512),
        torch.ones(2, 4),
        b"photos",
    )
    assert name == "f249369031388a84db40d5223b55cbcabc938703ddc86887cdda00f5dcd1e909"
