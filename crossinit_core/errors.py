"""Errors that name what they are about, so that a program with a page or a command line of its own can add what to do there.

And notes on errors of any kind.
"""

from __future__ import annotations

from typing import Literal

Subject = Literal[
    "photo",
    "mask",
    "boxes",
    "face",
    "frame",
    "detector",
    "recognizer",
    "reference",
    "start",
    "tokens",
    "arc",
    "strength",
]


class InputError(ValueError):
    """A value that cannot be used. The message says what it is and what was expected; `subject` names the input.

    The subjects: `photo`, `mask` and `boxes` as they were given; `face`, one that cannot be framed by itself; `frame`, one
    that was set by hand; `detector`, the library that finds faces; `recognizer`, the one that compares them; `reference`,
    photos that pictures are compared with; `start`, where learning begins; `tokens`, none were
    given; `arc`, two tokens between which there is none; `strength`, how far a token is turned.
    """

    def __init__(self, message: str, subject: Subject | None = None) -> None:
        super().__init__(message)
        self.subject: Subject | None = subject


def add_note(error: BaseException, note: str) -> None:
    """Note on an error what is known where it passes, as `BaseException.add_note` does, which Python 3.10 does not have.

    The notes are where PEP 678 puts them, in the attribute `__notes__`. Python 3.11 and newer show them below a traceback.
    """
    vars(error)["__notes__"] = [*notes_on(error), note]


def notes_on(error: BaseException) -> tuple[str, ...]:
    """What was noted on an error, first the oldest; on any Python."""
    return tuple(getattr(error, "__notes__", ()))
