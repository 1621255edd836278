"""Runs that are stopped, and what their resume files hold: for the tests of going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from crossinit_core import InversionResult, InversionSettings, StepReport
from crossinit_core.learning.resume_files import SUFFIX

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
