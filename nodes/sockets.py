"""The pack's own sockets and what travels on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io
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
