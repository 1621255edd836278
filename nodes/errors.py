"""What went wrong, as a sentence on the node itself and in a note: the page's own box says only which node failed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy_api.latest import io
from server import PromptServer

from .sockets import show_text

EVENT = "crossinit.error"
"""What web/errors.js listens for."""

# Errors whose text was written for people; of all others the kind is worth knowing as well.
_SENTENCES = (ValueError, RuntimeError, FileNotFoundError)
_LONGEST = 600


def tells_errors(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same node class, which shows the error of an `execute` and the objection of a `validate_inputs`."""
    for name, telling in (("execute", _execute), ("validate_inputs", _validate)):
        if name in vars(node):
            setattr(node, name, classmethod(telling(vars(node)[name].__func__)))
    return node


def _execute(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def execute(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
        try:
            return plain(cls, *args, **inputs)
        except comfy.model_management.InterruptProcessingException:
            raise  # cancel is no error
        except Exception as error:
            _tell(cls, _sentence(error), on_node=True)
            raise

    return execute


def _validate(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def validate_inputs(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
        answer = plain(cls, *args, **inputs)
        if isinstance(answer, str):
            # Not on the node: once it is mended, the node may not run, but give what it has.
            _tell(cls, answer, on_node=False)
        return answer

    # ComfyUI asks for the names of the arguments, and does not look through wrappers.
    validate_inputs.__signature__ = inspect.signature(plain)
    return validate_inputs


def _sentence(error: Exception) -> str:
    text = str(error).strip()
    if not text or not isinstance(error, _SENTENCES):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} ..."


def _tell(node: type[io.ComfyNode], text: str, *, on_node: bool) -> None:
    """As a note; `on_node` as the node's text as well, which the page keeps until web/texts.js sees the node run again."""
    if node.hidden is None:
        return  # called by a program, not by a graph
    told = {"node": node.define_schema().display_name, "message": text}
    marked = on_node and node.hidden.unique_id is not None
    PromptServer.instance.send_sync(EVENT, told | ({"id": node.hidden.unique_id} if marked else {}))
    if marked:
        show_text(node, text)
