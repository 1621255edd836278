"""What went wrong, as a sentence on the node itself and in a note: the page's own box says only which node failed.

The core's errors say what was wrong with a value. What to do about it in a graph is added here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..crossinit_core.errors import Subject, add_note, notes_on
from .host.page import harmless, send_event, show_text
from .host.progress import Cancelled
from .sockets import check_wires

EVENT = "crossinit.error"
"""What web/errors.js listens for."""

_BY_HAND = (
    "Or frame it yourself: set framing to 'by hand' and give center_x, center_y and crop_size, or connect a bounding_box "
    "or a mask."
)
REMEDIES: dict[Subject, str] = {
    "photo": "Check what is connected to image.",
    "mask": "Check what is connected to mask, or disconnect it.",
    "boxes": "Check the node that bounding_box comes from.",
    "face": _BY_HAND,
    "frame": "Check center_x, center_y and crop_size.",
    "detector": f"Then restart ComfyUI. {_BY_HAND}",
    "start": "Connect cross_init, from Cross Initialization with the same CLIP, names and number of vectors.",
    "tokens": "Connect one, from Learn Face or Load Learned Token.",
    "recognizer": "Then restart ComfyUI, or choose another recognizer.",
    "reference": "Check what is connected to photos.",
    "arc": "Blend these with the method 'straight'.",
    "strength": "It is the dial 'likeness and prompt'. Rescale Learned Token, with its cross_init connected, works without.",
}
"""What to do in a graph, by what an error of the core is about."""

# Errors whose text was written for people; of all others the kind is worth knowing as well.
_SENTENCES = (ValueError, RuntimeError, FileNotFoundError)
_LONGEST = 600


def tells_errors(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same node class, which shows the error of an `execute` and the objection of a `validate_inputs`.

    A `validate_inputs` may return its objection, or raise it as a ValueError.
    """
    for name, telling in (("execute", _execute), ("validate_inputs", _validate)):
        if name in vars(node):
            setattr(node, name, classmethod(telling(vars(node)[name].__func__)))
    return node


def _execute(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def execute(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
        try:
            check_wires(cls.define_schema(), inputs)
            return plain(cls, *args, **inputs)
        except Cancelled:
            raise
        except Exception as error:
            told = _without_markup(_with_remedy(error))
            _tell(cls, _sentence(told, notes_of(error)), running=True)
            if told is error:
                raise
            for note in notes_of(error):
                add_note(told, note)
            raise told.with_traceback(error.__traceback__) from None

    return execute


def _validate(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def validate_inputs(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
        try:
            answer = plain(cls, *args, **inputs)
        except ValueError as error:
            answer = str(error)
        if isinstance(answer, str):
            answer = harmless(_cut(answer, _LONGEST))
            # Not on the node: once the cause is fixed, the node may not run again but give its old result.
            _tell(cls, answer, running=False)
        return answer

    # ComfyUI asks for the names of the arguments, and does not look through wrappers.
    vars(validate_inputs)["__signature__"] = inspect.signature(plain)
    return validate_inputs


def _with_remedy(error: Exception) -> Exception:
    """The error that leaves the node, for ComfyUI shows and logs it as well.

    Where the core says what it is about, this is Python's own kind of error: ComfyUI writes the path of any other kind's
    module before the message.
    """
    subject: Subject | None = getattr(error, "subject", None)
    if subject is None:
        return error
    remedy = REMEDIES[subject]
    own = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return own(f"{_cut(str(error), _LONGEST - len(remedy) - len(' ... '))} {remedy}")


def _sentence(error: Exception, noted: list[str]) -> str:
    text = str(error).strip()
    if not text or not isinstance(error, _SENTENCES):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    notes = " ".join(noted)
    return f"{_cut(text, _LONGEST - len(notes) - len(' ... '))} {notes}" if notes else _cut(text, _LONGEST)


def notes_of(error: BaseException) -> list[str]:
    """What the core noted on an error: where the next run goes on."""
    return [_cut(harmless(note), _LONGEST // 2) for note in notes_on(error) if note.startswith("Stopped")]


def _cut(text: str, longest: int) -> str:
    """A long text without its middle: it begins with what is wrong, and ends with what to do."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - len(' ... ')].rstrip()} ... {text[-end:].lstrip()}"


def _without_markup(error: Exception) -> Exception:
    """The error with a text that no page takes for markup: ComfyUI shows it in a box of its own.

    It stays what it is, for ComfyUI knows some kinds; one whose text cannot be set becomes a RuntimeError.
    """
    text = str(error)
    safe = harmless(text)
    if isinstance(error, _SENTENCES):
        safe = _cut(safe, _LONGEST)
    if safe != text:
        error.args = (safe,)
    return error if str(error) == safe else RuntimeError(safe)


def _tell(node: type[io.ComfyNode], text: str, *, running: bool) -> None:
    """As a note; if the node was `running` as its text as well, until web/texts.js sees it run again.

    The note has the node's id, by which the page knows its title; `node` is what it is called if nobody gave it one.
    """
    if node.hidden is None:
        return  # called by a program, not by a graph
    told = {"node": node.define_schema().display_name, "message": text, "id": node.hidden.unique_id, "running": running}
    send_event(EVENT, told, queueing=not running)
    if running:
        show_text(node, text, wrong=True)
