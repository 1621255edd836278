"""Photos of every kind become portraits that show the head as CelebA-HQ does, with a mask of face and hair."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from crossinit_core.errors import InputError
from crossinit_core.installing import pip_command
from crossinit_core.photos.face_detection import NoDetectorError
from crossinit_core.photos.faces import Framing, PreparedFaces, prepare_faces
from crossinit_core.photos.framing import Frame, frame_of_box
from crossinit_core.photos.images import training_images
from crossinit_core.photos.mtcnn import MtcnnDetector

# Marked by hand on scikit-image's astronaut and matplotlib's Grace Hopper: both photos are in the public domain.
EYES = {"collins": ((201, 101), (246, 102.5)), "hopper": ((223, 192), (304, 189))}


@pytest.fixture(scope="module")
def collins() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def hopper() -> Image.Image:
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return picture.convert("RGB")


@pytest.fixture(scope="module")
def both(collins: Image.Image, hopper: Image.Image) -> torch.Tensor:
    """Hopper, whose face is larger, on the right."""
    photo = Image.new("RGB", (1100, 600), "gray")
    photo.paste(collins, (0, 0))
    photo.paste(hopper, (560, 0))
    return _tensor(photo)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255


def _where(point: tuple[float, float], frame: Frame) -> tuple[float, float]:
    """A point of the photo in parts of the frame."""
    turn = math.radians(frame.roll)
    x, y = point[0] - frame.x, point[1] - frame.y
    return (
        0.5 + (math.cos(turn) * x + math.sin(turn) * y) / frame.side,
        0.5 + (-math.sin(turn) * x + math.cos(turn) * y) / frame.side,
    )


def _turned(picture: Image.Image, name: str, degrees: float) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    """A photo that was turned clockwise, and where its eyes are now."""
    result = picture.rotate(-degrees, resample=Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    eyes = []
    for x, y in EYES[name]:
        u, v = x - picture.width / 2, y - picture.height / 2
        eyes.append((result.width / 2 + cos * u - sin * v, result.height / 2 + sin * u + cos * v))
    return _tensor(result), eyes


def _assert_framed_like_celeba_hq(frame: Frame, eyes: Any, within: float = 0.035) -> None:
    """Eyes a quarter of the side apart, level, on both sides of the middle, a little above it."""
    left, right = (_where(eye, frame) for eye in eyes)
    assert left == pytest.approx((0.375, 0.475), abs=within)
    assert right == pytest.approx((0.625, 0.475), abs=within)


@pytest.fixture
def cascades(monkeypatch: pytest.MonkeyPatch) -> None:
    """facenet-pytorch is absent: frames are those of OpenCV's cascades."""
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)


@pytest.fixture(params=["MTCNN", "cascades"])
def each_detector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each detector in turn, with OpenCV there for the mask."""
    if request.param == "MTCNN":
        pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    else:
        monkeypatch.setitem(sys.modules, "facenet_pytorch", None)


@pytest.fixture(params=["MTCNN", "cascades"])
def detector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each detector in turn, with the other one's package absent."""
    if request.param == "MTCNN":
        pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
        monkeypatch.setitem(sys.modules, "cv2", None)
    else:
        monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    return str(request.param)


@pytest.mark.parametrize("name", ["collins", "hopper"])
@pytest.mark.parametrize("degrees", [0, 12, -25, 90, 180])
def test_a_face_is_found_straightened_and_framed(
    name: str, degrees: float, detector: str, request: pytest.FixtureRequest
) -> None:
    photo, eyes = _turned(request.getfixturevalue(name), name, degrees)
    prepared = prepare_faces(photo)
    assert prepared.images.shape == (1, 512, 512, 3) and prepared.masks.shape == (1, 512, 512)
    _assert_framed_like_celeba_hq(prepared.frames[0], eyes)
    assert "the only face" in prepared.summary()


def test_the_picture_shows_what_the_frame_says(collins: Image.Image) -> None:
    straight = prepare_faces(_tensor(collins)).images[0]
    turned = prepare_faces(_turned(collins, "collins", 90)[0]).images[0]
    middle = slice(64, 448)
    assert float((straight - turned)[middle, middle].abs().mean()) < 0.05
    assert float((straight - turned.flip(1))[middle, middle].abs().mean()) > 0.1


def test_photos_of_all_kinds_together(collins: Image.Image) -> None:
    """A grey photo, a small one and a large one in one list."""
    large = collins.resize((1280, 1280), Image.Resampling.BICUBIC)
    photos = [_tensor(collins)[..., :1], _tensor(large), _tensor(collins).expand(2, -1, -1, -1)]
    prepared = prepare_faces(photos, Framing(resolution=128))
    assert prepared.images.shape == (4, 128, 128, 3)
    assert prepared.summary().count("\n") == 3 and "Photo 4: the only face" in prepared.summary()
    for image in prepared.images[1:]:
        assert float((image - prepared.images[1]).abs().mean()) < 0.04


def test_without_straighten_the_head_stays_tilted(collins: Image.Image) -> None:
    photo, _ = _turned(collins, "collins", 12)
    assert prepare_faces(photo, Framing(straighten=False)).frames[0].roll == 0
    assert prepare_faces(photo).frames[0].roll == pytest.approx(14, abs=4)


def test_the_largest_face_or_the_one_asked_for(both: torch.Tensor) -> None:
    first = prepare_faces(both)
    assert "the largest of 2 faces" in first.summary()
    _assert_framed_like_celeba_hq(first.frames[0], [(x + 560, y) for x, y in EYES["hopper"]])
    second = prepare_faces(both, Framing(face=2))
    assert "number 2 of 2 faces" in second.summary()
    _assert_framed_like_celeba_hq(second.frames[0], EYES["collins"])
    with pytest.raises(ValueError, match="face is 3, but 2 were found"):
        prepare_faces(both, Framing(face=3))


@pytest.mark.parametrize("name", ["collins", "hopper"])
@pytest.mark.parametrize("change", ["tilted", "small", "dark", "sunglasses"])
def test_faces_that_the_cascades_miss(name: str, change: str, request: pytest.FixtureRequest) -> None:
    """A tilted, a small and a dark face, and one with sunglasses."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    picture: Image.Image = request.getfixturevalue(name)
    photo = _tensor(picture)
    eyes: list[tuple[float, float]] = list(EYES[name])
    if change == "tilted":
        photo, eyes = _turned(picture, name, 45)
    elif change == "small":
        scale = 0.72 if name == "collins" else 0.4
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
        photo, eyes = _tensor(small), [(x * scale, y * scale) for x, y in eyes]
    elif change == "dark":
        photo = photo * 0.25
    else:
        (x0, y0), (x1, y1) = eyes
        away = x1 - x0
        covered = picture.copy()
        glasses = (round(x0 - 0.4 * away), round(y0 - 0.2 * away), round(x1 + 0.4 * away), round(y1 + 0.2 * away))
        covered.paste((20, 20, 24), glasses)
        photo = _tensor(covered)
    frame = prepare_faces(photo, Framing(resolution=256)).frames[0]
    _assert_framed_like_celeba_hq(frame, eyes, within=0.06)


def test_several_faces_without_opencv(both: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    monkeypatch.setitem(sys.modules, "cv2", None)
    prepared = prepare_faces(both, Framing(face=2))
    assert "number 2 of 2 faces" in prepared.summary()
    _assert_framed_like_celeba_hq(prepared.frames[0], EYES["collins"])


def test_noise_of_any_size_is_no_face() -> None:
    """Noise, small or long: no detector fails on it."""
    noise = torch.Generator().manual_seed(0)
    for height, width in ((64, 64), (64, 2000), (300, 301)):
        photo = torch.rand(1, height, width, 3, generator=noise)
        with pytest.raises(InputError, match="No face was found"):
            prepare_faces(photo)


@pytest.mark.parametrize("picture", ["coffee", "rocket", "gravel", "page"])
def test_no_face_is_seen_where_there_is_none(picture: str, detector: str) -> None:
    array = getattr(data, picture)()
    with pytest.raises(InputError, match=r"No face was found on the photo of \d+ x \d+ px.*Use such a photo") as caught:
        prepare_faces(_tensor(Image.fromarray(array)))
    assert caught.value.subject == "face"


def test_the_message_names_the_photo(collins: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"Photo 2 of 2: No face was found"):
        prepare_faces([_tensor(collins), torch.full((1, 200, 300, 3), 0.5)])


def test_small_and_cut_off_faces_are_refused(collins: Image.Image) -> None:
    """They are not refused if the frame was set by hand."""
    small = _tensor(collins.resize((300, 300), Image.Resampling.LANCZOS))
    with pytest.raises(InputError, match=r"too small.*at least 128 px are needed.*face is larger") as caught:
        prepare_faces(small)
    assert caught.value.subject == "face"
    cropped = _tensor(collins.crop((100, 62, 400, 400)))
    with pytest.raises(InputError, match=r"cut off: \d+% of it is outside.*the whole head") as caught:
        prepare_faces(cropped)
    assert caught.value.subject == "face"
    for photo in (small, cropped):
        assert "framed by hand" in prepare_faces(photo, Framing(by_hand=True, side=0.5)).summary()


@pytest.mark.usefixtures("each_detector")
def test_the_outside_is_not_learned(collins: Image.Image) -> None:
    """What lies outside of the photo is masked."""
    prepared = prepare_faces(_tensor(collins.crop((100, 36, 400, 400))))
    assert "outside of the photo and not learned" in prepared.summary()
    top = prepared.masks[0][:15]
    assert float(top.max()) < 0.01 and float(prepare_faces(_tensor(collins)).masks[0][:15].max()) > 0.5


def _share(mask: torch.Tensor, left: int, top: int, right: int, bottom: int) -> float:
    return float(mask[top:bottom, left:right].mean())


def _held(prepared: PreparedFaces, left: float, top: float, right: float, bottom: float) -> float:
    """How much of a part of the photo, in its pixels, the first mask holds; what is outside of the frame is not held."""
    mask, frame = prepared.masks[0], prepared.frames[0]
    held = []
    for x in np.linspace(left, right, 24):
        for y in np.linspace(top, bottom, 24):
            u, v = (int(part * len(mask)) if 0 <= part < 1 else -1 for part in _where((x, y), frame))
            held.append(float(mask[v, u]) if min(u, v) >= 0 else 0.0)
    return sum(held) / len(held)


@pytest.mark.usefixtures("each_detector")
def test_the_mask_holds_the_head(collins: Image.Image) -> None:
    """Face and hair, without the background. Where they are on the photo is known, whatever the frame."""
    prepared = prepare_faces(_tensor(collins))
    mask = prepared.masks[0]
    assert _held(prepared, 197, 79, 250, 165) > 0.99  # eyes to mouth
    assert _held(prepared, 172, 56, 190, 94) > 0.9  # the hair beside her face
    assert _held(prepared, 132, 14, 154, 198) < 0.05
    assert _held(prepared, 132, 192, 316, 212) < 0.05
    assert _held(prepared, 161, 130, 175, 151) < 0.15  # the background below her hair, which an ellipse would take in
    assert _held(prepared, 272, 137, 286, 158) < 0.15
    assert float(((mask > 0.05) & (mask < 0.95)).float().mean()) > 0.03  # soft
    assert torch.equal(mask, prepare_faces(_tensor(collins)).masks[0])


def test_a_box_of_another_detector_frames_the_face(collins: Image.Image) -> None:
    box = {"x": 180, "y": 62, "width": 88, "height": 110, "score": 0.9}
    prepared = prepare_faces(_tensor(collins), boxes=[[box]])
    _assert_framed_like_celeba_hq(prepared.frames[0], EYES["collins"])
    loose = frame_of_box(180, 62, 88, 110)
    assert (loose.x, loose.y) == pytest.approx((224, 107), abs=10) and loose.side == pytest.approx(180, rel=0.1)


def test_boxes_are_chosen_by_size(both: torch.Tensor) -> None:
    """Each box belongs to its own photo."""
    small = {"x": 100, "y": 100, "width": 60, "height": 60}
    large = {"x": 700, "y": 200, "width": 160, "height": 200}
    plain = Framing(straighten=False, resolution=128)
    assert prepare_faces(both, plain, boxes=[[small, large]]).frames[0].x == 780
    assert (
        prepare_faces(both, Framing(face=2, straighten=False, resolution=128), boxes=[[small, large]]).frames[0].x
        == 130
    )
    two = prepare_faces(both.expand(2, -1, -1, -1), plain, boxes=[[small], [large]])
    assert [frame.x for frame in two.frames] == [130, 780]
    with pytest.raises(ValueError, match="boxes for 2 photos, but there are 3"):
        prepare_faces(both.expand(3, -1, -1, -1), plain, boxes=[[small], [large]])
    with pytest.raises(ValueError, match="holds no face"):
        prepare_faces(both, plain, boxes=[[]])
    with pytest.raises(ValueError, match="x, y, width and height in pixels"):
        prepare_faces(both, plain, boxes=[[{"x": 1, "y": 2, "width": 0, "height": 5}]])


def test_a_given_mask_frames_the_head(collins: Image.Image) -> None:
    """It is also the mask that comes out."""
    mask = torch.zeros(1, 512, 512)
    mask[:, 20:190, 150:300] = 1
    prepared = prepare_faces(_tensor(collins), masks=mask)
    frame = prepared.frames[0]
    assert (frame.x, frame.y) == (225, 105) and 170 < frame.side < 220
    assert _share(prepared.masks[0], 120, 60, 390, 450) > 0.99 and _share(prepared.masks[0], 0, 0, 30, 512) < 0.01
    by_hand = prepare_faces(_tensor(collins), Framing(by_hand=True, resolution=512), masks=mask)
    assert _share(by_hand.masks[0], 170, 40, 280, 170) > 0.9 and _share(by_hand.masks[0], 0, 230, 512, 512) < 0.01
    with pytest.raises(ValueError, match="The mask has nothing white"):
        prepare_faces(_tensor(collins), masks=torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="Nothing of the mask's white part"):
        prepare_faces(_tensor(collins), Framing(by_hand=True, x=0.9, y=0.9, side=0.3), masks=mask)


def test_zoom_shows_the_face_larger(collins: Image.Image) -> None:
    once, twice = (prepare_faces(_tensor(collins), Framing(zoom=zoom)).frames[0] for zoom in (1.0, 1.25))
    assert twice.side == pytest.approx(once.side / 1.25)


def test_learn_face_takes_the_portrait_as_it_is(collins: Image.Image) -> None:
    prepared: PreparedFaces = prepare_faces(_tensor(collins))
    assert torch.equal(training_images(prepared.images, 512), prepared.images)
    assert prepared.preview().shape == prepared.images.shape


def test_what_works_without_each_detector(collins: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames by hand, by a mask and by a box. All else says what to install, and into which Python."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(NoDetectorError, match=r"needs a face detector, and none works here") as caught:
        prepare_faces(_tensor(collins))
    assert str(caught.value).endswith(pip_command("facenet-pytorch<2.6"))
    by_hand = prepare_faces(_tensor(collins), Framing(by_hand=True))
    assert _share(by_hand.masks[0], 200, 200, 312, 380) > 0.99 and _share(by_hand.masks[0], 0, 0, 30, 512) < 0.01
    box = {"x": 180, "y": 62, "width": 88, "height": 110}
    assert "not straightened without a face detector" in prepare_faces(_tensor(collins), boxes=[[box]]).summary()
    mask = torch.zeros(1, 512, 512)
    mask[:, 20:190, 150:300] = 1
    assert "framed by the mask" in prepare_faces(_tensor(collins), masks=mask).summary()


def test_opencv_5_which_lost_its_detector_is_named(collins: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.setattr(cv2, "__version__", "5.0.0")
    monkeypatch.delattr(cv2, "CascadeClassifier")
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(NoDetectorError, match=r'OpenCV 5.0.0 is without.*Install one: .*"facenet-pytorch<2.6"'):
        prepare_faces(_tensor(collins))


def test_a_broken_detector_leaves_the_next_one(collins: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a torchvision that was made for another PyTorch."""
    broken = ModuleType("facenet_pytorch")

    def fail(**_: Any) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    vars(broken)["MTCNN"] = fail
    monkeypatch.setitem(sys.modules, "facenet_pytorch", broken)
    _assert_framed_like_celeba_hq(prepare_faces(_tensor(collins)).frames[0], EYES["collins"])
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(NoDetectorError, match="torchvision::nms"):
        prepare_faces(_tensor(collins))


def test_the_detector_in_a_special_folder(
    collins: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, OpenCV's own reader fails on a path such as C:/Users/Jürgen; the detector must not hand it one."""
    import cv2

    def refuse(*arguments: Any) -> Any:
        if arguments:
            raise AssertionError(f"OpenCV was asked to open {arguments}")
        return classifier()

    classifier = cv2.CascadeClassifier
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    monkeypatch.setattr(cv2, "CascadeClassifier", refuse)
    assert "the only face" in prepare_faces(_tensor(collins)).summary()


def test_a_broken_torchvision_leaves_the_next_one(collins: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that loads, and fails when it is used."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    import torchvision.ops

    def fail(*_: Any) -> None:
        raise RuntimeError("Couldn't load custom C++ ops")

    monkeypatch.setattr(torchvision.ops, "nms", fail)
    _assert_framed_like_celeba_hq(prepare_faces(_tensor(collins)).frames[0], EYES["collins"])
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(NoDetectorError, match=r"custom C\+\+ ops"):
        prepare_faces(_tensor(collins))


def test_a_lack_of_memory_is_not_no_face(collins: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    facenet = pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(facenet.MTCNN, "detect", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        prepare_faces(_tensor(collins))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_defaults_of_torch_do_no_harm(collins: Image.Image, dtype: torch.dtype) -> None:
    """Another device and dtype may be the process's defaults; they are found as before, and stay."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    expected = MtcnnDetector().find(np.asarray(collins))[0].eyes
    threads = torch.get_num_threads()
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device("meta")
        with torch.inference_mode():
            found = MtcnnDetector().find(np.asarray(collins))[0].eyes
            assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == dtype and torch.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.is_grad_enabled() and torch.get_num_threads() == threads
    assert found is not None and expected is not None
    assert np.allclose(found, expected, atol=0.5)
