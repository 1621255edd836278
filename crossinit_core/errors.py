"""Errors that name what they are about, so that a program with a page or a command line of its own can add what to do there."""

from __future__ import annotations

from typing import Literal

Subject = Literal["photo", "mask", "boxes", "face", "frame", "detector", "start", "tokens", "arc"]


class InputError(ValueError):
    """A value that cannot be used. The message says what it is and what was expected; `subject` names the input.

    The subjects: `photo`, `mask` and `boxes` as they were given; `face`, one that cannot be framed by itself; `frame`, one
    that was set by hand; `detector`, the library that finds faces; `start`, where learning begins; `tokens`, none were
    given; `arc`, two tokens between which there is none.
    """

    def __init__(self, message: str, subject: Subject | None = None) -> None:
        super().__init__(message)
        self.subject: Subject | None = subject
