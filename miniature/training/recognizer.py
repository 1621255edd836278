"""The drawn world's own judges behind the protocols of `crossinit_core.evaluation`: who is painted, and what else.

crossinit evaluate PICTURES --photos PHOTOS --recognizer miniature.training.recognizer:recognizer
    --clip miniature.training.recognizer:prompt_judge
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..world.identity import VECTOR_SIZE, similarity
from . import pack
from .captions import PROMPTS
from .judge import Judge, Verdict, look

SIDE = 128
JUDGE = 1
"""The judge that never met the generator."""


class DrawnRecognizer:
    """A `Recognizer` of painted faces: the features are the parameters of the face that the judge sees."""

    name = "the miniature's second judge"
    scale = "1 is the same face; two random people have 0.56 on average."

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def embed(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(1, `VECTOR_SIZE`), or no row if the judge does not take the picture for a portrait."""
        verdict = _seen(self._judge, picture)
        return verdict.vectors if verdict.clean[0] > 0.5 else np.zeros((0, VECTOR_SIZE), np.float32)

    def similarity(self, features: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, M) in 0..1."""
        return np.asarray(similarity(features[:, None], references[None]))


class DrawnPromptJudge:
    """A `PromptScorer`: 1 if a picture shows all that its prompt asks, else 0."""

    name = "the miniature's second judge, share of pictures that show all that is asked"

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._asks = {prompt.text: prompt.asks for prompt in PROMPTS}

    def score(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float | None]:
        """None for a prompt that asks nothing, or that is not among the translated 20."""
        found: list[float | None] = []
        for picture, prompt in zip(pictures, prompts, strict=True):
            asks = self._asks.get(prompt)
            found.append(float(_seen(self._judge, picture).shows(asks)[0]) if asks else None)
        return found


def recognizer() -> DrawnRecognizer:
    """With the shipped weights."""
    return DrawnRecognizer(pack.load_judges(pack.WEIGHTS)[JUDGE])


def prompt_judge() -> DrawnPromptJudge:
    """With the shipped weights."""
    return DrawnPromptJudge(pack.load_judges(pack.WEIGHTS)[JUDGE])


def _seen(judge: Judge, picture: NDArray[np.uint8]) -> Verdict:
    if picture.shape != (SIDE, SIDE, 3):
        picture = np.array(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return look(judge, np.array(picture[None]))
