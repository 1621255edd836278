"""The pack's own sockets and what travels on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..crossinit_core import CelebrityNames, LearnedToken
from ..crossinit_core.starts import Starts
from ..crossinit_core.text import quoted

CATEGORY = "CrossInit"
SEARCH_ALIASES = [
    *("textual inversion", "embedding", "face", "portrait", "personalization", "train", "celeb basis"),
    # Of several words each must be found in one alias.
    *("train face", "train embedding", "train textual inversion", "face embedding", "portrait personalization"),
    # People who keep their page in English type these as well: in Chinese, Japanese and Korean, in Russian, Arabic, Persian and
    # Hebrew. Only in scripts that no English word resembles. Escaped: tools on Windows read source files as cp1252.
    *(
        "\u6587\u672c\u53cd\u8f6c",
        "\u5d4c\u5165",
        "\u4eba\u8138",
        "\u8096\u50cf",
        "\u8bad\u7ec3",
        "\u500b\u4eba\u5316",
        "\u4eba\u81c9",
        "\u8a13\u7df4",
        "\u57cb\u3081\u8fbc\u307f",
        "\u9854",
        "\u5b66\u7fd2",
        "\uc784\ubca0\ub529",
        "\uc5bc\uad74",
        "\ud559\uc2b5",
    ),
    *(
        "\u043b\u0438\u0446\u043e",
        "\u043f\u043e\u0440\u0442\u0440\u0435\u0442",
        "\u043e\u0431\u0443\u0447\u0435\u043d\u0438\u0435",
        "\u044d\u043c\u0431\u0435\u0434\u0434\u0438\u043d\u0433",
        "\u0648\u062c\u0647",
        "\u062a\u062f\u0631\u064a\u0628",
        "\u0686\u0647\u0631\u0647",
        "\u0622\u0645\u0648\u0632\u0634",
        "\u05e4\u05e0\u05d9\u05dd",
        "\u05d0\u05d9\u05de\u05d5\u05df",
    ),
]
"""What people type into the search of nodes."""

CelebrityNamesSocket = io.Custom("CELEBRITY_NAMES")
CrossInitSocket = io.Custom("CROSS_INIT")
LearnedTokenSocket = io.Custom("LEARNED_TOKEN")


_TYPES: dict[str, tuple[type, str]] = {
    CelebrityNamesSocket.io_type: (CelebrityNames, "Load Celebrity Names"),
    CrossInitSocket.io_type: (Starts, "Cross Initialization"),
    LearnedTokenSocket.io_type: (LearnedToken, "Learn Face or Load Learned Token"),
    io.Image.io_type: (Tensor, "a node with an IMAGE output"),
    io.Mask.io_type: (Tensor, "a node with a MASK output"),
}
"""What travels on a wire, and where it comes from."""

_MODELS = {io.Model.io_type, io.Clip.io_type, io.Vae.io_type}
_PLAIN = (str, bytes, int, float, dict, list, tuple)
"""What a graph in API form can hold in the place of a wire. Other packs have their own classes of models, so no more is asked
of them."""


def check_wires(schema: io.Schema, given: Mapping[str, Any]) -> None:
    """Raises ValueError for a value of another type than its input takes: only graphs in API form, and nodes whose outputs
    fit every input, can bring one. Nothing is said of an optional input that is None."""
    for entry in schema.inputs:
        values = given.get(entry.id)
        if isinstance(entry, io.Autogrow.Input):
            for name, value in (values if isinstance(values, dict) else {entry.id: values}).items():
                if value is not None:
                    _check_wire(str(name), LearnedTokenSocket.io_type, value)
            continue
        for value in values if schema.is_input_list and isinstance(values, list) else [values]:
            if value is not None or not (entry.optional or entry.id not in given):
                _check_wire(entry.id, entry.get_io_type(), value)


def _check_wire(name: str, kind: str, value: Any) -> None:
    if kind in _TYPES:
        expected, source = _TYPES[kind]
        if isinstance(value, expected):
            return
    elif kind in _MODELS:
        source = f"a node with a {kind} output"
        if value is not None and not isinstance(value, _PLAIN):
            return
    else:
        return
    what = (
        "nothing" if value is None else f"'{quoted(value)}'" if isinstance(value, str) else f"a {type(value).__name__}"
    )
    raise ValueError(f"'{name}' got {what}, but takes {kind}. Connect {source}.")


def single(name: str, values: list[Any]) -> Any:
    """The value of an input that is the same for all photos, in a node that takes whole lists.

    Raises ValueError if a list of several came.
    """
    if len(values) != 1:
        raise ValueError(
            f"'{name}' got a list of {len(values)}, but takes one value for all photos together. Connect a single value to "
            f"'{name}'."
        )
    return values[0]
