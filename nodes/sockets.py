"""The pack's own sockets and what travels on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from comfy_api.latest import io
from comfy_execution.validation import validate_node_input
from server import PromptServer
from torch import Tensor

CATEGORY = "CrossInit"
SEARCH_ALIASES = [
    *("textual inversion", "embedding", "face", "portrait", "personalization", "train", "celeb basis"),
    # Of several words each must be found in one alias.
    *("train face", "train embedding", "train textual inversion", "face embedding", "portrait personalization"),
    # People who keep their page in English type these as well. Only in scripts that no English word resembles.
    *(
        "文本反转",
        "嵌入",
        "人脸",
        "肖像",
        "训练",
        "個人化",
        "人臉",
        "訓練",
        "埋め込み",
        "顔",
        "学習",
        "임베딩",
        "얼굴",
        "학습",
    ),
    *("лицо", "портрет", "обучение", "эмбеддинг", "وجه", "تدريب", "چهره", "آموزش", "פנים", "אימון"),
]
"""What people type into the search of nodes."""

CelebrityNamesSocket = io.Custom("CELEBRITY_NAMES")
CrossInitSocket = io.Custom("CROSS_INIT")
LearnedTokenSocket = io.Custom("LEARNED_TOKEN")


@dataclass(frozen=True, eq=False)
class CrossInit:
    """Where learning starts: `vectors` (K, d) float32 on the CPU, and facts of their origin for the token's file."""

    vectors: Tensor
    facts: dict[str, str] = field(default_factory=dict)


def check_wires(node: type[io.ComfyNode], types: Mapping[str, str]) -> bool | str:
    """What `validate_inputs` answers for a node that wants at least one token but requires none of its sockets.

    types: the type at the other end of each wire; a node that asks for these is to compare them itself.
    """
    expected = {entry.id: entry.get_io_type() for entry in node.define_schema().inputs}
    for name, given in types.items():
        wanted = expected.get(name, LearnedTokenSocket.io_type)
        if not validate_node_input(given, wanted):
            return f"{name} is connected to {given}, but takes {wanted}."
    if not types.keys() - expected.keys():
        return "No learned token is connected. Connect at least one, from Learn Face or Load Learned Token."
    return True


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """A line of text on the node in the page."""
    if node.hidden is not None:  # None: called by a program, not by a graph
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)
