"""ArcFace, AdaFace and their like: a network in an ONNX file that the user brings, run by onnxruntime.

Such files come with InsightFace (`w600k_r50.onnx`, `glintr100.onnx`; for non-commercial use), with AdaFace and from the ONNX
Model Zoo. None is shipped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..installing import pip_command
from ..photos.detectors import face_detector
from ..text import quoted
from .alignment import aligned_face, arcface_template
from .recognizers import NoRecognizerError, cosines

Colours = Literal["rgb", "bgr"]
Values = Literal["-1..1", "0..255"]

MOST_FACES = 8
"""Of a picture, the largest ones; a crowd behind somebody takes long and is nobody."""

_BGR_NAMES = re.compile(r"adaface", re.IGNORECASE)
"""AdaFace learned from OpenCV's pictures, whose first channel is blue (mk-minchul/AdaFace, `inference.py`)."""
_BACKBONE_NODES = 8
"""InsightFace looks at so many for a Sub and a Mul (`model_zoo/arcface_onnx.py`)."""


class OnnxRecognizer:
    """A `Recognizer` from an ONNX file with one picture of 112 px as its input and one row of features as its output.

    How the picture is prepared is told by the file: its sides and the place of the channels by the input's shape, the range of
    values by whether the network begins with a subtraction and a multiplication (then it takes 0..255, otherwise -1..1, which is
    InsightFace's rule), and the order of the colours by its name (AdaFace: blue first). `colours` and `values` say otherwise.

    Raises NoRecognizerError without onnxruntime, and ValueError or FileNotFoundError, which name the file, for one that is not
    such a network.
    """

    def __init__(self, path: Path, colours: Colours | None = None, values: Values | None = None) -> None:
        shown = quoted(path.name, 120)
        if not path.is_file():
            raise FileNotFoundError(f"There is no face recognizer at '{quoted(path, 300)}'. Choose an .onnx file.")
        try:
            import onnxruntime
        except ImportError as error:
            raise NoRecognizerError(
                f"The recognizer '{shown}' needs onnxruntime ({quoted(error, 120)}). Install it: {pip_command('onnxruntime')}"
            ) from error
        runtime: Any = onnxruntime
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class of its own for every cause, all of them undocumented
            raise ValueError(f"'{shown}' is not a network that onnxruntime reads ({quoted(error, 200)}).") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        sides = [size for size in shape[1:] if size != 3]
        self._channels_last = len(shape) == 4 and shape[3] == 3
        if len(shape) != 4 or 3 not in (shape[1], shape[3]) or len(sides) != 2 or sides[0] != sides[1]:
            raise ValueError(
                f"'{shown}' takes {quoted([entry.shape for entry in inputs], 100)}, but a face recognizer takes one square "
                "picture, such as [1, 3, 112, 112]. Choose ArcFace's or AdaFace's file, not that of a detector."
            )
        if not isinstance(sides[0], int):
            raise ValueError(
                f"'{shown}' does not say how large its picture is, but 112 px are usual. Choose another file."
            )
        self._side = sides[0]
        try:
            arcface_template(self._side)
        except ValueError as error:
            raise ValueError(f"'{shown}': {error}") from None
        if len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise ValueError(
                f"'{shown}' gives {quoted([entry.shape for entry in outputs], 100)}, but a face recognizer gives one row of "
                "features, such as [1, 512]. Choose ArcFace's or AdaFace's file."
            )
        self._input = inputs[0].name
        self._values = values or ("0..255" if _scales_by_itself(path) else "-1..1")
        self._colours = colours or ("bgr" if _BGR_NAMES.search(path.name) else "rgb")
        self._detector = face_detector()
        self.name = path.name
        self.scale = "A cosine: near 0 for strangers, 1 for the same picture."

    def embed(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Recognizer`. The faces are found by the same detector that frames photos."""
        faces = self._detector.find(picture)[:MOST_FACES]
        if not faces:
            return np.zeros((0, 1), np.float32)
        aligned = np.stack([aligned_face(picture, face, self._side) for face in faces])
        return self.embed_aligned(aligned)

    def embed_aligned(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, d) features of faces that are aligned: (N, side, side, 3) uint8 RGB."""
        pixels = faces[..., ::-1] if self._colours == "bgr" else faces
        given = pixels.astype(np.float32)
        if self._values == "-1..1":
            given = (given - 127.5) / 127.5
        if not self._channels_last:
            given = given.transpose(0, 3, 1, 2)
        given = np.ascontiguousarray(given)
        # One by one: some exported networks say that they take several, and do not.
        found = [self._session.run(None, {self._input: given[i : i + 1]})[0] for i in range(len(given))]
        features = np.concatenate(found).astype(np.float32)
        if not np.isfinite(features).all():
            raise ValueError(f"The recognizer '{quoted(self.name, 120)}' gives no finite numbers. Choose another file.")
        return features

    def similarity(self, features: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, M) cosines; see `Recognizer`."""
        return cosines(features, references)


def _scales_by_itself(path: Path) -> bool:
    """Whether a Sub and a Mul are among the first nodes, as in networks that came from MXNet."""
    names: list[bytes] = []
    for field, content in _fields(path.read_bytes()):
        if field == 7:  # ModelProto.graph
            for inner, node in _fields(content):
                if inner == 1 and len(names) < _BACKBONE_NODES:  # GraphProto.node
                    names += [bytes(text) for number, text in _fields(node) if number == 4]  # NodeProto.op_type
            break
    return any(name == b"Sub" for name in names) and any(name == b"Mul" for name in names)


def _fields(content: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protocol buffer that hold bytes, by number. onnxruntime has read the file already, so it is sound."""
    view, place = memoryview(content), 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = view[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(view):
        tag = number()
        kind = tag & 7
        if kind == 2:
            length = number()
            yield tag >> 3, view[place : place + length]
            place += length
        elif kind == 0:
            number()
        else:
            place += 8 if kind == 1 else 4
