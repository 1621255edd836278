"""What a worker does: it holds the model, and learns one person after the other with `invert`."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from PIL import Image

from ..celebrity_names import load_celebrity_names
from ..errors import notes_on
from ..files import check_can_write, write_atomically
from ..learning.inversion import InversionResult, invert
from ..loading import load_to_learn
from ..photos.face_detection import NoDetectorError
from ..starts import Starts, start_from_names, start_from_words
from ..text import quoted
from ..tokens import metadata
from ..tokens.description import described
from ..tokens.token_files import save_learned_token
from .crew import LONGEST_REASON, Order, Report
from .people import Person, Start
from .portraits import read_portraits
from .work_list import forget, picture_path, resume_folder, state_of, token_path

if TYPE_CHECKING:
    from ..diffusers_backbone import DiffusersBackbone

_MOST_STARTS = 8
_MOST_NOTES = 5


class FaceLearner:
    """Learns people on one model. Raises as `DiffusersBackbone.from_pretrained` does if it cannot be loaded."""

    def __init__(self, order: Order, backbone: DiffusersBackbone | None = None) -> None:
        if order.threads:
            torch.set_num_threads(order.threads)
        self._order = order
        self._backbone = backbone or load_to_learn(order.model, torch.device(order.device), order.precision)
        self._starts: dict[Start, Starts] = {}

    def learn(self, person: Person) -> Report:
        """Learn and save a person. Errors are reports; KeyboardInterrupt, and what else is no Exception, goes to the caller
        after the resume file was written."""
        began, out = time.perf_counter(), self._order.out
        try:
            with contextlib.suppress(ValueError, OSError):
                if state_of(person, out) == "":  # by another run on the same folder
                    return Report("done", "already learned")
            try:
                check_can_write(token_path(out, person.name), what="token file")
            except ValueError as error:
                return Report("stop", _reason(error))
            notes: list[str] = []
            result = self._invert(person, notes.append)
            try:
                self._save(person, result)
            except OSError as error:
                what = quoted(error.strerror or error, 120)
                return Report(
                    "stop",
                    f"The token of '{person.name}' could not be saved in '{quoted(out, 200)}' ({what}). Its resume file is kept. "
                    "Make room, then run the same command again.",
                )
            forget(out, person.name)
            return Report("done", result.summary(), time.perf_counter() - began, tuple(notes[:_MOST_NOTES]))
        except NoDetectorError as error:
            return Report("stop", _reason(error))
        except (ValueError, OSError, FloatingPointError) as error:
            return Report("failed", _reason(error), time.perf_counter() - began)
        except Exception as error:  # of the GPU, or a bug: this process may not be able to go on
            return Report("broken", f"{type(error).__name__}: {_reason(error)}", time.perf_counter() - began)

    def _invert(self, person: Person, say: Callable[[str], None]) -> InversionResult:
        backbone = self._backbone
        settings = person.settings.sized(backbone.resolution)
        photos = read_portraits(person, settings.resolution or backbone.resolution, say)
        v0, facts = self._start(person.start).of(settings.method)
        return invert(
            backbone,
            v0,
            settings,
            images=photos.images,
            masks=photos.masks,
            resume_folder=resume_folder(self._order.out, person.name),
            name=person.name,
            metadata={**facts, metadata.JOB: person.job},
            on_note=say,
        )

    def _save(self, person: Person, result: InversionResult) -> None:
        """The token last: if it is there, so is the rest."""
        history = result.token.history
        if history and history.photos:
            content = io.BytesIO()
            Image.fromarray(history.photos[0].pixels).save(content, format="JPEG", quality=88)
            write_atomically(picture_path(self._order.out, person.name), content.getvalue())
        save_learned_token(described(result.token), token_path(self._order.out, person.name))

    def _start(self, start: Start) -> Starts:
        """Where a person starts; the last few starts are kept."""
        if start not in self._starts:
            if len(self._starts) >= _MOST_STARTS:
                del self._starts[next(iter(self._starts))]
            self._starts[start] = _start(self._backbone, start)
        return self._starts[start]


def _start(backbone: DiffusersBackbone, start: Start) -> Starts:
    if start.words is not None:
        return start_from_words(backbone, start.words, start.vectors, states=start.states)
    return start_from_names(backbone, load_celebrity_names(start.names), start.vectors or 2, states=start.states)


def _reason(error: BaseException) -> str:
    """One line; a note says where it goes on."""
    text = " ".join(" ".join([str(error) or type(error).__name__, *notes_on(error)]).split())
    return quoted(text, LONGEST_REASON)
