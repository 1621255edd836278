"""The environment that run.py makes: `.venv`, and the pinned ComfyUI in `.host`. Standard library only.

It is made in stages, which are in stages.py. A finished stage is stamped in `.host/setup.json` with a hash of
what it was made from, so that the next start neither runs pip nor needs the network, and an interrupted one goes on.
"""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from .hosts import SetupError, missing_packages
from .progress import CommandError, run_logged, say
from .stages import PIP, TORCH, Layout, Stage, Stamps, make_stages, requirements_of, version_text

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)


def prepare_pinned(layout: Layout, groups: Sequence[str]) -> None:
    """Make what is missing of `.venv` and `.host/ComfyUI`, with the packages of `groups` (pyproject.toml)."""
    stamps = Stamps(layout.stamps)
    stages = make_stages(layout, groups, stamps)
    todo = [stage for stage in stages if not stage.is_done(stamps)]
    if len(todo) == 1 and todo[0].needless():
        stamps.add(todo[0].name, todo[0].made_from())
        return
    if not todo:
        return
    check_python(sys.version_info[:2], platform.system(), platform.machine())
    check_disk(layout.made, sum(stage.gigabytes for stage in todo))
    for number, stage in enumerate(stages, 1):
        head = f"[{number}/{len(stages)}] {stage.title}"
        if stage.is_done(stamps):
            say(f"{head}: ready")
            continue
        say(f"{head} ...")
        started = time.monotonic()
        try:
            stage.work()
        except CommandError as error:
            raise SetupError(
                f"{stage.title} could not be installed: {error.reason}\n"
                f"This needs Python {version_text(OLDEST_PYTHON)} to {version_text(NEWEST_PYTHON)}, {_needed(todo)} of free "
                f"disk and the network (PyPI). The whole log: {layout.log}. "
                "Run the same command again to go on from here."
            ) from error
        stamps.add(stage.name, stage.made_from())
        say(f"{head}: done in {time.monotonic() - started:.0f} s")


def prepare_existing(layout: Layout, python: Path, groups: Sequence[str], *, install_missing: bool) -> None:
    """Check that a Python which is not ours has the packages of `groups`; install them only if told to.

    Without groups nothing is demanded: two nodes need a library each, and say so themselves if it is missing.
    """
    missing = missing_packages(python, requirements_of(layout.root / "pyproject.toml", groups))
    if not missing:
        return
    packages = ", ".join(missing)
    if not install_missing and not groups:
        say(
            f"{python} lacks {packages}. The nodes that want them will say so; --install-missing lets pip install them."
        )
        return
    if not install_missing:
        raise SetupError(
            f"{python} lacks {packages}. Nothing was installed there. To let pip install them, add --install-missing; "
            "to leave that Python as it is, run this command without --comfyui."
        )
    say(f"Installing into {python}: {packages} ...")
    run_logged([str(python), *PIP, "install", "--progress-bar", "off", *missing], "Packages", layout.log)


def check_python(version: tuple[int, int], system: str, machine: str) -> None:
    """Refuse, before anything is downloaded, what the pinned torch has no build for."""
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise SetupError(
            f"This is Python {version_text(version)}, but {TORCH[0]} exists for Python {version_text(OLDEST_PYTHON)} to "
            f"{version_text(NEWEST_PYTHON)}. Start run.py with one of these, or use your own ComfyUI with --comfyui PATH."
        )
    if (system, machine) == ("Darwin", "x86_64"):
        raise SetupError(
            f"{TORCH[0]} has no build for Intel Macs. Use a ComfyUI that runs on this Mac with --comfyui PATH."
        )


def check_disk(folder: Path, gigabytes: float) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if free < gigabytes:
        raise SetupError(
            f"The set-up needs about {gigabytes:.0f} GB of free disk in {folder}, but {free:.1f} GB are free. "
            "Free some, or use your own ComfyUI with --comfyui PATH."
        )


def _needed(stages: Iterable[Stage]) -> str:
    return f"about {max(1.0, sum(stage.gigabytes for stage in stages)):.0f} GB"
