"""Resume files: a run that was cancelled, crashed or ran out of memory goes on where it stopped.

A resume file is named by a fingerprint of everything that decides the result: settings, start vectors, photos, masks and
model weights, and by the number of steps. A longer run continues a shorter one, and never the other way round. The version
of the pack is not part of the name. `resume_format` has the content, `resume_folder` what else lies in the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..backbone import Backbone, FrozenModel
from ..errors import add_note
from ..files import write_atomically
from ..text import quoted
from .batches import RewindableBatches
from .resume_folder import SUFFIX, files_of_run, prepare, read_at_most, resume_path, set_aside, steps_in_name, used
from .resume_format import Expected, decode, encode
from .settings import InversionSettings
from .state import RunState

__all__ = ["RECIPE", "SUFFIX", "ResumeFile", "run_fingerprint"]

log = logging.getLogger(__name__)

WRITE_AFTER = 10.0
"""Seconds after which a step is written in any case: where steps are slow, `resume_every` of them are much to lose."""

RECIPE = "0.1.0"
"""The version of the arithmetic of a step. It changes only when the same inputs give other vectors, not with a release:
what users have begun goes on after an update of the pack."""


class ResumeFile:
    """The resume file of one run: what it holds, and when it is written.

    It is written every `resume_every` steps and every `WRITE_AFTER` seconds, at the end, and when an exception ends the
    run. Without a folder there is none, and nothing is promised. Nothing that goes wrong with it ends the run: `tell` gets
    one sentence that says what it means.
    """

    def __init__(
        self, folder: Path | None, settings: InversionSettings, tell: Callable[[str], None], *, read: bool = True
    ) -> None:
        """Sees at once whether the folder can be written."""
        self._folder, self._steps, self._every, self._read = folder, settings.steps, settings.resume_every, read
        self._tell = tell
        self._problem = ""
        """Why the last write failed; empty if it did not."""
        self._written = time.monotonic()
        self.fingerprint = ""
        """Names the run; empty until `find` was called."""
        self.step = 0
        """Steps that the file holds."""
        if folder is not None:
            try:
                prepare(folder)
            except (OSError, ValueError) as error:
                self._failed(error)

    def find(self, expected: Expected, batches: RewindableBatches) -> RunState | None:
        """The state of the run of this name that is farthest on; None if there is none, or if `read` is off.

        The batches are brought to its place. A file that cannot be used is set aside.
        """
        self.fingerprint = expected.fingerprint
        if self._folder is None or not self._read:
            return None
        found = self._farthest(self._folder, expected)
        while found and not batches.skip_to(found.step, found.batches):
            # Other batches after the same first one: the file is another run's, and is left alone.
            self.fingerprint = hashlib.sha256(self.fingerprint.encode()).hexdigest()
            found = self._farthest(self._folder, replace(expected, fingerprint=self.fingerprint))
        if found:
            log.info("Going on after step %d of %d.", found.step, self._steps)
            self.step = found.step
        return found

    def _farthest(self, folder: Path, expected: Expected) -> RunState | None:
        """The state that is farthest on among the files of this name, and a note on each that cannot be used."""
        found: RunState | None = None
        complaints = []
        for path in files_of_run(folder, expected.fingerprint):
            state, complaint = _read(path, expected)
            complaints += [complaint] if complaint else []
            if state and state.step <= self._steps and (found is None or state.step > found.step):
                found = state
        end = (
            f"This run goes on from step {found.step}, which another file holds." if found else "This run starts anew."
        )
        for complaint in complaints:
            self._tell(f"{complaint} {end}")
        return found

    def write_if_due(self, state: RunState) -> None:
        """After a step."""
        late = time.monotonic() - self._written > WRITE_AFTER
        if late or state.step % self._every == 0 or state.step == self._steps:
            self._write(state)

    def keep(self, state: RunState, error: BaseException) -> None:
        """Save what an error would lose, and note on it where to go on. If that is not possible, nothing is noted, and the
        reason is told."""
        if state.step > self.step or (state.step and not self._is_there()):
            self._write(state)
        if self._folder is None or not state.step:
            return
        if state.step == self.step and not self._problem:
            note = f"Stopped after step {state.step}; the next run with the same inputs continues from {self._folder}"
            log.info("%s", note)
            add_note(error, note)
        else:
            kept = f"goes on from step {self.step}" if self._is_there() else "starts anew"
            self._tell(
                f"Stopped after step {state.step}, which could not be kept in '{quoted(self._folder, 300)}' "
                f"({self._problem}): the next run with the same inputs {kept}."
            )

    def _write(self, state: RunState) -> None:
        if self._folder is None or not self.fingerprint:
            return
        self._written = time.monotonic()
        try:
            path = resume_path(self._folder, self.fingerprint, self._steps)
            if path.is_dir():
                set_aside(path)
            write_atomically(path, encode(state, self.fingerprint))
        except (OSError, ValueError) as error:
            self._failed(error)
        else:
            self.step, self._problem = state.step, ""

    def _is_there(self) -> bool:
        """Whether what was written is still in the folder."""
        return bool(self._folder and self.step and files_of_run(self._folder, self.fingerprint))

    def _failed(self, error: OSError | ValueError) -> None:
        """Say once for each reason that nothing can be written: a full disk must not end a run."""
        problem = quoted(getattr(error, "strerror", None) or error)
        if problem != self._problem:
            kept = f"go on from step {self.step}" if self._is_there() else "start anew"
            self._tell(
                f"The resume folder '{quoted(self._folder, 300)}' could not be written ({problem}). Learning goes on, but a "
                f"run that is stopped would {kept}. Free some space there, or allow writing."
            )
        self._problem = problem


def run_fingerprint(
    backbone: Backbone, model: FrozenModel, settings: InversionSettings, start: Tensor, data: bytes
) -> str:
    """Names a run by everything that decides its result; `data` is a digest of photos and masks, or of batches."""
    facts = [RECIPE, backbone.prediction_type, str(model.dtype), model.fingerprint(), settings.identity()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in (start.numpy().tobytes(), backbone.alphas_cumprod().numpy().tobytes(), data):
        digest.update(part)
    return digest.hexdigest()


def _read(path: Path, expected: Expected) -> tuple[RunState | None, str]:
    """The state in a file of this run, perhaps a longer one; or a sentence about a file that cannot be used."""
    expected = replace(expected, steps=max(expected.steps, steps_in_name(path)))
    name, about = quoted(path.name), None
    try:
        content, about = read_at_most(path, expected.most_bytes)
        state = decode(content, expected)
    except FileNotFoundError:  # another program has moved it since
        return None, ""
    except OSError as error:
        return None, f"The resume file '{name}' cannot be read now ({quoted(error.strerror)})."
    except ValueError as error:
        aside = set_aside(path, about)
        where = f"It is set aside as '{quoted(aside.name)}'." if aside else "It stays where it is."
        return None, f"The resume file '{name}' cannot be used: {error}. {where}"
    used(path)
    return state, ""
