"""Resume files: when they are written, which run each belongs to, and how many are kept."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crossinit_core import InversionSettings, StepReport, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning import provenance, resume_files
from tests.resumed import PHOTO, SETTINGS, Cancel, files_in, notes_of, same, step_in, stop_after


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


def test_resume_files_do_not_pile_up(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:024x}.resume.safetensors").write_bytes(b"old")
    (tmp_path / "mine.txt").write_bytes(b"not a resume file")
    invert(backbone, v0, replace(SETTINGS, steps=1), images=PHOTO, resume_folder=tmp_path)
    left = list(tmp_path.glob("*.resume.safetensors"))
    assert len(left) == 30
    assert sum(path.stat().st_size > 3 for path in left) == 1, "the new file itself was dropped"
    assert (tmp_path / "mine.txt").exists()


def test_undeletable_old_files_cost_nothing(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On Windows while another program reads one: here a folder has its name, which no `unlink` takes away."""
    for number in range(40):
        (tmp_path / f"{number:024x}.resume.safetensors").mkdir()
    with caplog.at_level(logging.WARNING), pytest.raises(Cancel) as stopped:
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(2))
    assert "could not be written" not in caplog.text
    assert "Stopped after step 2" in notes_of(stopped.value)
    assert invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path).resumed_from == 2


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
        backbone,  # type: ignore[arg-type]
        model,  # type: ignore[arg-type]
        InversionSettings(resolution=512),
        torch.ones(2, 4),
        b"photos",
    )
    assert name == "f249369031388a84db40d5223b55cbcabc938703ddc86887cdda00f5dcd1e909"
