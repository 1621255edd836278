"""Resume files: a run that was cancelled, crashed or ran out of memory goes on where it stopped.

A resume file is safetensors (a file from elsewhere cannot run code) and is named by a fingerprint
of everything that decides the result: settings, start vectors, photos, masks and model weights, and
by the number of steps. A longer run continues a shorter one, and never the other way round.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..backbone import Backbone, FrozenModel
from ..files import write_atomically
from .batches import RewindableBatches
from .settings import InversionSettings
from .state import RunState

log = logging.getLogger(__name__)

FORMAT = "crossinit-resume-1"
SUFFIX = ".resume.safetensors"
KEEP = 30
"""Resume files kept in a folder; each is about 30 KB. The oldest go first."""

RECIPE = "0.1.0"
"""The version of the arithmetic of a step. It changes only when the same inputs give other vectors, not with a release:
what users have begun goes on after an update of the pack."""


class ResumeFile:
    """The resume file of one run: what it holds, and when it is written.

    It is written every `resume_every` steps, at the end, and when an exception ends the run. Without a folder there is
    none, and nothing is promised.
    """

    def __init__(self, folder: Path | None, settings: InversionSettings, *, read: bool = True) -> None:
        self._folder, self._steps, self._every, self._read = folder, settings.steps, settings.resume_every, read
        self.fingerprint = ""
        """Names the run; empty until `find` was called."""
        self.step = 0
        """Steps that the file holds."""

    def find(self, fingerprint: str, batches: RewindableBatches, shape: torch.Size) -> RunState | None:
        """The state of the run of this name that is farthest on; None if there is none, or if `read` is off.

        The batches are brought to its place.
        """
        self.fingerprint = fingerprint
        if self._folder is None or not self._read:
            return None
        found = load_state(self._folder, fingerprint, self._steps, shape)
        if found and not batches.skip_to(found.step, found.batches):
            log.warning("There is a resume file of %d steps on other batches; this run starts anew.", found.step)
            return None
        if found:
            log.info("Continuing after step %d of %d.", found.step, self._steps)
            self.step = found.step
        return found

    def write_if_due(self, state: RunState) -> None:
        """After a step."""
        if state.step % self._every == 0 or state.step == self._steps:
            self._write(state)

    def keep(self, state: RunState, error: BaseException) -> None:
        """Save what an error would lose, and note on it where to go on; promise nothing if that could not be written."""
        if state.step > self.step:
            self._write(state)
        if 0 < state.step == self.step:
            note = f"Stopped after step {state.step}; the next run with the same inputs continues from {self._folder}"
            log.info(note)
            error.add_note(note)

    def _write(self, state: RunState) -> None:
        if self._folder and save_state(state, self._folder, self.fingerprint, self._steps):
            self.step = state.step


def run_fingerprint(
    backbone: Backbone, model: FrozenModel, settings: InversionSettings, start: Tensor, data: bytes
) -> str:
    """Names a run by everything that decides its result; `data` is a digest of photos and masks, or of batches."""
    facts = [RECIPE, backbone.prediction_type, str(model.dtype), model.fingerprint(), settings.identity()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in (start.numpy().tobytes(), backbone.alphas_cumprod().numpy().tobytes(), data):
        digest.update(part)
    return digest.hexdigest()


def save_state(state: RunState, folder: Path, fingerprint: str, steps: int) -> Path | None:
    """Write a resume file in one step, and drop the oldest ones beyond `KEEP`.

    `steps` is what the run is to reach. Returns the path, or None after a warning if the folder cannot be written:
    a full disk must not end a run.
    """
    tensors = {"vectors": state.vectors}
    tensors |= {f"optimizer.{key}": value for key, value in state.optimizer.items()}
    tensors |= {f"draws.{key}": value for key, value in state.batches.items()}
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
    """The state of this very run that is farthest on, but not beyond `steps`; None if there is none."""
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
            batches=_under("draws.", tensors),
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
