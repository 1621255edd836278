"""The recognizer that somebody asks for by name."""

from __future__ import annotations

from pathlib import Path

from ..text import quoted
from .dlib_faces import DlibRecognizer
from .onnx_faces import OnnxRecognizer
from .recognizers import Recognizer


def recognizer_of(which: str | Path = "dlib") -> Recognizer:
    """A recognizer by what people write: `dlib`, or the path of an ONNX file.

    Raises NoRecognizerError, which says what to install, and ValueError or FileNotFoundError for what is neither.
    """
    text = str(which)
    if text == "dlib":
        return DlibRecognizer()
    if text.lower().endswith(".onnx"):
        return OnnxRecognizer(Path(which))
    raise ValueError(
        f"The recognizer is '{quoted(text)}', but 'dlib' or the path of an .onnx file is expected. Use 'dlib' if you have none."
    )
