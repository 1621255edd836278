"""Runs that are stopped, and what their resume files hold: for the tests of going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from crossinit_core import InversionResult, InversionSettings, StepReport
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.batches import batches_from_photos
from crossinit_core.learning.resume_files import SUFFIX
from crossinit_core.learning.resume_format import Expected
from crossinit_core.learning.step import check_optimizer

SETTINGS = InversionSettings(steps=5, batch_size=2, resolution=64, resume_every=100, seed=3)
PHOTO = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


class Cancel(BaseException):
    """As ComfyUI's cancel and Ctrl-C do, it passes `except Exception`."""


def stop_after(step: int) -> Callable[[StepReport], None]:
    """An `on_step` that cancels the run when this step is reported."""

    def stop(report: StepReport) -> None:
        if report.step == step:
            raise Cancel

    return stop


def notes_of(error: BaseException) -> str:
    """What was noted on an exception on its way; empty where nothing was."""
    return "\n".join(getattr(error, "__notes__", ()))


def files_in(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it does not exist."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def step_in(folder: Path) -> int | None:
    """The step of the only resume file, beside those that were set aside."""
    files = [path for path in files_in(folder) if path.name.endswith(SUFFIX)]
    if not files:
        return None
    assert len(files) == 1
    with safe_open(files[0], framework="pt") as file:
        return int(file.metadata()["step"])


def same(result: InversionResult, other: InversionResult) -> bool:
    """To the last bit."""
    return (
        torch.equal(result.token.vectors, other.token.vectors)
        and result.losses == other.losses
        and result.distances == other.distances
    )


def expected_of(backbone: DiffusersBackbone, v0: torch.Tensor, content: bytes) -> Expected:
    """What a run of SETTINGS on PHOTO expects of a resume file; the fingerprint is the file's."""
    settings = SETTINGS.sized(backbone.resolution)
    batches, _ = batches_from_photos(backbone, len(v0), settings, PHOTO, None)
    length = int.from_bytes(content[:8], "little")
    fingerprint = json.loads(content[8 : 8 + length])["__metadata__"]["fingerprint"]
    return Expected(
        fingerprint,
        v0.shape,
        settings.steps,
        "fp32",
        partial(check_optimizer, v0, settings, (v0.shape[1],)),
        batches.check,
    )
