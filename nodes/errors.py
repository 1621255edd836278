"""What went wrong, as a sentence on the node itself. The page's own error box says only which node failed."""

from __future__ import annotations

import functools
from typing import Any

import comfy.model_management
from comfy_api.latest import io

from .sockets import show_text

# Errors whose text was written for people; of all others the kind is worth knowing as well.
_SENTENCES = (ValueError, RuntimeError, FileNotFoundError)
_LONGEST = 600


def tells_errors(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same node class, whose `execute` shows the text of an error on the node and then lets it pass."""
    plain = vars(node)["execute"].__func__

    @functools.wraps(plain)
    def execute(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
        try:
            return plain(cls, *args, **inputs)
        except comfy.model_management.InterruptProcessingException:
            raise  # cancel is no error
        except Exception as error:
            show_text(cls, _text(error))
            raise

    node.execute = classmethod(execute)
    return node


def _text(error: Exception) -> str:
    text = str(error).strip()
    if not text or not isinstance(error, _SENTENCES):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} ..."
