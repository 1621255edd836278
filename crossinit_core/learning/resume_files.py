"""Resume files: a run that was cancelled, crashed or ran out of memory goes on where it stopped.

A resume file is safetensors (a file from elsewhere cannot run code) and is named by a fingerprint
of everything that decides the result: settings, start vectors, photos, masks and model weights, and
by the number of steps. A longer run continues a shorter one, and never the other way round.
"""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_atomically
from .state import RunState

log = logging.getLogger(__name__)

FORMAT = "crossinit-resume-1"
SUFFIX = ".resume.safetensors"
KEEP = 30
"""Resume files kept in a folder; each is about 30 KB. The oldest go first."""


def save_state(state: RunState, folder: Path, fingerprint: str, steps: int) -> Path | None:
    """Write a resume file in one step, and drop the oldest ones beyond `KEEP`.

    `steps` is what the run is to reach. Returns the path, or None after a warning where the folder cannot be written:
    a full disk must not end a run.
    """
    tensors = {"vectors": state.vectors}
    tensors |= {f"optimizer.{key}": value for key, value in state.optimizer.items()}
    tensors |= {f"draws.{key}": value for key, value in state.draws.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    metadata = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "step": str(state.step),
        "losses": json.dumps(state.losses),
        "distances": json.dumps(state.distances),
        "angles": json.dumps(state.angles),
        "precision": state.precision,
        "loss_scale": repr(state.loss_scale),
        "settings": json.dumps(state.settings),
    }
    path = folder / f"{_stem(fingerprint)}{steps}{SUFFIX}"
    try:
        write_atomically(path, save(tensors, metadata))
    except (OSError, SafetensorError) as error:
        log.warning("The resume file %s could not be written (%s); a cancelled run would start anew.", path, error)
        return None
    with contextlib.suppress(OSError):  # another program may hold or delete them at this moment
        newest_first = sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[KEEP:]:
            old.unlink(missing_ok=True)
    return path


def load_state(folder: Path, fingerprint: str, steps: int, shape: torch.Size) -> RunState | None:
    """The state of this very run that is farthest on, but not beyond `steps`; None where there is none."""
    found = [_read(path, fingerprint, shape) for path in folder.glob(f"{_stem(fingerprint)}*{SUFFIX}")]
    fitting = [state for state in found if state and state.step <= steps]
    return max(fitting, key=lambda state: state.step, default=None)


def _stem(fingerprint: str) -> str:
    return f"{fingerprint[:24]}-"


def _read(path: Path, fingerprint: str, shape: torch.Size) -> RunState | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: while a tensor is mapped on the file, Windows lets nobody replace it.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT or metadata.get("fingerprint") != fingerprint:
            raise ValueError("it belongs to another run")
        if tensors["vectors"].shape != shape:
            raise ValueError(f"its vectors are {tuple(tensors['vectors'].shape)}, expected {tuple(shape)}")
        return RunState(
            step=int(metadata["step"]),
            vectors=tensors["vectors"],
            optimizer=_under("optimizer.", tensors),
            draws=_under("draws.", tensors),
            losses=tuple(json.loads(metadata["losses"])),
            distances=tuple(json.loads(metadata["distances"])),
            angles=tuple(json.loads(metadata.get("angles", "[]"))),
            precision=cast(Any, metadata.get("precision", "")),
            loss_scale=float(metadata["loss_scale"]),
            settings=json.loads(metadata["settings"]),
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        log.warning("The resume file %s cannot be used (%s).", path, error)
        return None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
