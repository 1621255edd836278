"""Which face detector frames which photos right, for Prepare Face Photo.

    python -m benchmarks.face_detection [--photos FOLDER] [--json FILE] [--sheet PICTURE]

Two portraits come inside Python packages, both in the public domain: Eileen Collins (scikit-image) and Grace Hopper
(matplotlib). FOLDER holds more: photos whose faces no program has marked, so their truth is what MTCNN and dlib's landmarks agree
on, upright and undisturbed (`--photos` says how many were left out because they did not). Each photo is then tilted, made small,
made dark, squeezed sideways (a poor stand-in for a turned head) and covered.

An attempt is right if the frame's centre is within a tenth of its side of where it belongs, its side within 18 %, and its
roll within 8 degrees. Pictures without a face (scikit-image's) are to give none, in four positions each.

Candidates: crossinit_core's MTCNN (facenet-pytorch) and cascades (OpenCV), and, if they are installed, dlib's detector HOG
(inside dlib-bin) with the landmarks of face-recognition-models; its network MMOD with --slow.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from skimage import data

from crossinit_core.photos.cascades import CascadeDetector
from crossinit_core.photos.face_detection import Face, FaceDetector, NoDetectorError, Point, roll_of
from crossinit_core.photos.framing import Frame, frame_of_eyes_and_mouth, frame_of_face
from crossinit_core.photos.mtcnn import MtcnnDetector

Marks = tuple[Point, Point, Point]
"""The eyes, the one on the picture's left first, and the middle of the mouth, in pixels."""
Kind = tuple[str, str, Image.Image, Marks]

# Marked by hand.
PORTRAITS: dict[str, Marks] = {
    "Collins": ((201, 101), (246, 102.5), (226, 150)),
    "Hopper": ((223, 192), (304, 189), (265, 277)),
}
WITHOUT_FACES = (
    *("cat", "coffee", "rocket", "brick", "grass", "gravel", "moon", "page", "text", "clock", "coins"),
    *("hubble_deep_field", "immunohistochemistry", "retina", "colorwheel", "horse"),
)


class DlibDetector:
    """dlib's frontal faces by HOG, or by its network MMOD, with five landmarks."""

    def __init__(self, network: bool = False) -> None:
        try:
            import dlib
        except ImportError as error:
            raise NoDetectorError(f"dlib: {error}") from error
        # The package of the models asks for pkg_resources, which new Pythons lack; only its files are needed.
        try:
            files = Path(
                str(metadata.distribution("face_recognition_models").locate_file("face_recognition_models/models"))
            )
        except metadata.PackageNotFoundError as error:
            raise NoDetectorError("face-recognition-models is not installed") from error
        self._landmarks = dlib.shape_predictor(str(files / "shape_predictor_5_face_landmarks.dat"))
        if network:
            mmod = dlib.cnn_face_detection_model_v1(str(files / "mmod_human_face_detector.dat"))
            self._boxes: Callable[[Any], list[Any]] = lambda photo: [face.rect for face in mmod(photo, 1)]
        else:
            hog = dlib.get_frontal_face_detector()
            self._boxes = lambda photo: list(hog(photo, 1))

    def find(self, photo: np.ndarray) -> list[Face]:
        """Faces on a photo of at most 960 pixels, enlarged twice: HOG sees no face below 80 pixels."""
        picture = Image.fromarray(photo)
        picture.thumbnail((960, 960))
        scale = photo.shape[1] / picture.width
        small = np.ascontiguousarray(np.asarray(picture))
        faces = []
        for box in self._boxes(small):
            corners = [(float(p.x) * scale, float(p.y) * scale) for p in self._landmarks(small, box).parts()]
            right, left = (_middle(corners[0], corners[1]), _middle(corners[2], corners[3]))
            eyes = (left, right) if left[0] < right[0] else (right, left)
            x, y = box.center().x * scale, box.center().y * scale
            # The five landmarks know the nose's base instead of the mouth; a mouth is half as far again from the eyes.
            between = _middle(*eyes)
            nose = corners[4]
            mouth = (between[0] + 1.5 * (nose[0] - between[0]), between[1] + 1.5 * (nose[1] - between[1]))
            faces.append(Face(x, y, box.width() * scale, roll_of(eyes), eyes, mouth=mouth))
        return sorted(faces, key=lambda face: -face.width)

    def eyes_in(self, photo: np.ndarray, x: float, y: float, width: float) -> tuple[Point, Point] | None:
        """Not measured."""
        raise NotImplementedError


CANDIDATES: dict[str, tuple[Callable[[], FaceDetector], str]] = {
    "MTCNN": (MtcnnDetector, "facenet-pytorch"),
    "cascades": (CascadeDetector, "opencv-python-headless"),
    "dlib HOG": (DlibDetector, "dlib-bin"),
    "dlib MMOD": (lambda: DlibDetector(network=True), "dlib-bin"),
}
SLOW = "dlib MMOD"


def portrait(name: str) -> Image.Image:
    """One of `PORTRAITS`."""
    if name == "Collins":
        return Image.fromarray(data.astronaut())
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return picture.convert("RGB")


def photos_of(
    folder: Path, detectors: dict[str, FaceDetector]
) -> tuple[list[tuple[str, Image.Image, Marks]], list[str]]:
    """The photos of a folder with their largest face's marks, and the names of those that two detectors disagree on."""
    kept: list[tuple[str, Image.Image, Marks]] = []
    left_out = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        picture.thumbnail((1024, 1024))
        marks: list[Marks] = []
        for name in ("MTCNN", "dlib HOG"):
            faces = detectors[name].find(np.asarray(picture)) if name in detectors else []
            if faces and faces[0].eyes and faces[0].mouth:
                marks.append((*faces[0].eyes, faces[0].mouth))
        distance = math.dist(marks[0][0], marks[0][1]) if marks else 1
        if len(marks) == 2 and all(
            math.dist(a, b) < 0.15 * distance for a, b in zip(*(m[:2] for m in marks), strict=True)
        ):
            kept.append((path.name, picture, _mean(marks)))
        else:
            left_out.append(path.name)
    return kept, left_out


def variants(name: str, picture: Image.Image, marks: Marks) -> Iterator[Kind]:
    """(kind, label, photo, marks), for all kinds."""
    yield "as it is", name, picture, marks
    for angle in (*range(-60, 0, 15), *range(15, 61, 15)):
        kind = "tilted up to 30°" if abs(angle) <= 30 else "tilted 45° and 60°"
        yield kind, f"{name} {angle}°", *turned(picture, marks, angle)
    for angle in (90, 180, 270):
        yield "lying or upside down", f"{name} {angle}°", *turned(picture, marks, angle)
    for side in (64, 80, 100, 128, 160, 200):
        yield (
            ("frame of 64 to 100 px" if side <= 100 else "frame of 128 to 200 px"),
            f"{name} {side}",
            *scaled(picture, marks, side),
        )
    for light in (0.5, 0.25, 0.1):
        yield "dark", f"{name} {light:.0%} light", ImageEnhance.Brightness(picture).enhance(light), marks
    for squeeze in (0.8, 0.65, 0.5):
        size = (round(picture.width * squeeze), picture.height)
        moved = tuple((x * squeeze, y) for x, y in marks)
        yield "squeezed sideways", f"{name} {squeeze:.0%}", picture.resize(size, Image.Resampling.LANCZOS), moved  # type: ignore[misc]
    for what in ("sunglasses", "mask", "one side"):
        yield "covered", f"{name} {what}", covered(picture, marks, what), marks


def turned(picture: Image.Image, marks: Marks, degrees: float) -> tuple[Image.Image, Marks]:
    """The picture turned clockwise, with its marks."""
    result = picture.rotate(-degrees, resample=Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def move(point: Point) -> Point:
        x, y = point[0] - picture.width / 2, point[1] - picture.height / 2
        return result.width / 2 + cos * x - sin * y, result.height / 2 + sin * x + cos * y

    return result, (move(marks[0]), move(marks[1]), move(marks[2]))


def scaled(picture: Image.Image, marks: Marks, side: float) -> tuple[Image.Image, Marks]:
    """The picture so small that the face's frame has this side, on a plain photo of 1024 x 1024 px."""
    scale = side / truth_of(marks).side
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    photo = Image.new("RGB", (1024, 1024), (128, 128, 128))
    photo.paste(small, (200, 300))
    a, b, c = ((200 + x * scale, 300 + y * scale) for x, y in marks)
    return photo, (a, b, c)


def covered(picture: Image.Image, marks: Marks, what: str) -> Image.Image:
    """The picture with sunglasses, with a mask over nose and mouth, or with half of the face covered."""
    frame, result = truth_of(marks), picture.copy()
    # Left, top, right, bottom in parts of the frame, whose eyes are at 0.475 of its height.
    left, top, right, bottom = {
        "sunglasses": (0.28, 0.42, 0.72, 0.53),
        "mask": (0.28, 0.56, 0.72, 0.85),
        "one side": (0.5, 0.2, 0.85, 0.9),
    }[what]
    cos, sin = math.cos(math.radians(frame.roll)), math.sin(math.radians(frame.roll))
    corners = []
    for u, v in ((left, top), (right, top), (right, bottom), (left, bottom)):
        across, down = (u - 0.5) * frame.side, (v - 0.5) * frame.side
        corners.append((frame.x + cos * across - sin * down, frame.y + sin * across + cos * down))
    ImageDraw.Draw(result).polygon(
        corners, fill={"sunglasses": (20, 20, 24), "mask": (150, 190, 210)}.get(what, (90, 70, 60))
    )
    return result


def truth_of(marks: Marks) -> Frame:
    """Where the frame belongs."""
    return frame_of_eyes_and_mouth(marks[:2], marks[2])


def verdict(detector: FaceDetector, photo: Image.Image, marks: Marks) -> tuple[str, float | None]:
    """`right`, `found` but framed wrong, `missed`, or `elsewhere`; and the eyes' error in parts of their distance."""
    faces = detector.find(np.asarray(photo))
    if not faces:
        return "missed", None
    truth = truth_of(marks)
    # On a photo of several, the one that was marked.
    face = min(faces, key=lambda face: math.dist((face.x, face.y), (truth.x, truth.y)))
    frame = frame_of_face(face)
    away = math.dist((frame.x, frame.y), (truth.x, truth.y)) / truth.side
    turn = (frame.roll - truth.roll + 180) % 360 - 180
    eyes = None
    if face.eyes:
        eyes = sum(math.dist(a, b) for a, b in zip(face.eyes, marks, strict=False)) / 2 / math.dist(marks[0], marks[1])
    if away < 0.1 and 0.85 < frame.side / truth.side < 1.18 and abs(turn) < 8:
        return "right", eyes
    return ("found" if away < 0.25 else "elsewhere"), eyes


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of more photos, upright, each with a largest face")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    parser.add_argument("--sheet", type=Path, help="where a picture of MTCNN's frames is written")
    parser.add_argument("--slow", action="store_true", help=f"{SLOW} as well: several seconds a photo")
    arguments = parser.parse_args()
    detectors: dict[str, FaceDetector] = {}
    for name, (make, _) in CANDIDATES.items():
        if name == SLOW and not arguments.slow:
            continue
        try:
            detectors[name] = make()
        except NoDetectorError as error:
            print(f"{name} is not measured: {error}")
    photos = [(name, portrait(name), marks) for name, marks in PORTRAITS.items()]
    more, left_out = photos_of(arguments.photos, detectors) if arguments.photos else ([], [])
    cases = [case for photo in (*photos, *more) for case in variants(*photo)]
    empty = [
        (name, angle, _without(name).rotate(angle, expand=True))
        for name in WITHOUT_FACES
        for angle in (0, 90, 180, 270)
    ]
    result: dict[str, Any] = {
        "photos": [name for name, _, _ in (*photos, *more)],
        "left out": left_out,
        "pictures without a face": len(empty),
        "python": platform.python_version(),
        "versions": {name: _version(CANDIDATES[name][1]) for name in detectors},
        "detectors": {name: measured(detector, cases, empty) for name, detector in detectors.items()},
    }
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.sheet:
        sheet(cases, detectors).save(arguments.sheet)


def measured(detector: FaceDetector, cases: list[Kind], empty: list[tuple[str, int, Image.Image]]) -> dict[str, Any]:
    """Counts for each kind, the median error of the eyes, false faces, and the time for a photo."""
    kinds: dict[str, dict[str, int]] = {}
    errors, wrong, started = [], [], time.process_time()
    for kind, label, photo, marks in cases:
        told, eyes = verdict(detector, photo, marks)
        counts = kinds.setdefault(kind, {"tries": 0, "right": 0, "found": 0, "missed": 0, "elsewhere": 0})
        counts["tries"] += 1
        counts[told] += 1
        if told == "elsewhere":
            wrong.append(label)
        if eyes is not None and told != "elsewhere":
            errors.append(eyes)
    seconds = (time.process_time() - started) / len(cases)
    false = [f"{name} {angle}°" for name, angle, photo in empty if detector.find(np.asarray(photo))]
    upright = next(photo for kind, _, photo, _ in cases if kind == "as it is")
    started = time.process_time()
    detector.find(np.asarray(upright))
    return {
        "kinds": kinds,
        "median error of the eyes, in eye distances": round(float(np.median(errors)), 3) if errors else None,
        "elsewhere": wrong,
        "false faces": false,
        "mean CPU ms a photo": round(1000 * seconds),
        "CPU ms for an upright photo": round(1000 * (time.process_time() - started)),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    names = list(result["detectors"])
    lines = ["| photos | tries | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    first = result["detectors"][names[0]]["kinds"]
    for kind, counts in first.items():
        rights = [result["detectors"][name]["kinds"][kind]["right"] for name in names]
        lines.append(f"| {kind} | {counts['tries']} | " + " | ".join(map(str, rights)) + " |")
    tries = sum(counts["tries"] for counts in first.values())
    sums = [sum(kind["right"] for kind in result["detectors"][name]["kinds"].values()) for name in names]
    lines.append(f"| **all** | {tries} | " + " | ".join(f"**{total}**" for total in sums) + " |")
    for key in ("median error of the eyes, in eye distances", "mean CPU ms a photo", "CPU ms for an upright photo"):
        lines.append(f"| {key} | | " + " | ".join(str(result["detectors"][name][key]) for name in names) + " |")
    false = [len(result["detectors"][name]["false faces"]) for name in names]
    lines.append(f"| false faces | {result['pictures without a face']} | " + " | ".join(map(str, false)) + " |")
    return "\n".join(lines)


def sheet(cases: list[Kind], detectors: dict[str, FaceDetector], side: int = 128, columns: int = 12) -> Image.Image:
    """What the first detector cuts out of each photo; black if it finds nothing."""
    import torch

    from crossinit_core.photos.framing import cut

    detector = next(iter(detectors.values()))
    page = Image.new("RGB", (columns * side, math.ceil(len(cases) / columns) * side))
    for index, (_, _, photo, _) in enumerate(cases):
        if faces := detector.find(np.asarray(photo)):
            pixels = torch.from_numpy(np.asarray(photo).copy()).movedim(-1, 0)[None].float() / 255
            portrait = cut(pixels, frame_of_face(faces[0]), side)[0].movedim(0, -1)
            tile = Image.fromarray((portrait * 255).round().byte().numpy())
            page.paste(tile, (index % columns * side, index // columns * side))
    return page


def _without(name: str) -> Image.Image:
    array = getattr(data, name)()
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    picture = Image.fromarray(array).convert("RGB")
    picture.thumbnail((960, 960))
    return picture


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def _mean(marks: list[Marks]) -> Marks:
    a, b, c = (_middle(*points) for points in zip(*marks, strict=True))
    return a, b, c


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
