"""How far a head may be turned, and how small it may be, for Prepare Face Photo to frame it right.

    python -m benchmarks.face_detection

Two portraits that come inside Python packages, both in the public domain: Eileen Collins (scikit-image) and Grace Hopper
(matplotlib). A frame is right if its centre is within a tenth of its side of where it belongs, its side within 15 %,
and its roll within 8 degrees. Pictures without a face (scikit-image's) are to give none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from skimage import data

from crossinit_core.photos.face_detection import FaceDetector
from crossinit_core.photos.framing import Frame, frame_of_face

# Centre, side and roll of the frames, from eyes that were marked by hand.
PORTRAITS = {"Collins": Frame(224, 106, 180, 2), "Hopper": Frame(263, 199, 328, -2)}
WITHOUT_FACES = (
    "camera",
    "cat",
    "coffee",
    "rocket",
    "brick",
    "grass",
    "gravel",
    "moon",
    "page",
    "text",
    "clock",
    "coins",
)


def portrait(name: str) -> Image.Image:
    """One of `PORTRAITS`."""
    if name == "Collins":
        return Image.fromarray(data.astronaut())
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return picture.convert("RGB")


def turned(picture: Image.Image, truth: Frame, degrees: float) -> tuple[Image.Image, Frame]:
    """The picture turned clockwise, with its frame."""
    result = picture.rotate(-degrees, resample=Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = truth.x - picture.width / 2, truth.y - picture.height / 2
    across, down = result.width / 2 + cos * x - sin * y, result.height / 2 + sin * x + cos * y
    return result, Frame(float(across), float(down), truth.side, truth.roll + degrees)


def scaled(picture: Image.Image, truth: Frame, side: float) -> tuple[Image.Image, Frame]:
    """The picture made so small that the frame has this side, on a plain photo of 1024 x 1024 px."""
    scale = side / truth.side
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    photo = Image.new("RGB", (1024, 1024), (128, 128, 128))
    photo.paste(small, (200, 300))
    return photo, Frame(200 + truth.x * scale, 300 + truth.y * scale, side, truth.roll)


def is_right(found: Frame, truth: Frame) -> bool:
    """Whether a frame is near enough to the one that was marked."""
    away = np.hypot(found.x - truth.x, found.y - truth.y) / truth.side
    turn = (found.roll - truth.roll + 180) % 360 - 180
    return bool(away < 0.1 and 0.85 < found.side / truth.side < 1.18 and abs(turn) < 8)


def verdicts(cases: Iterator[tuple[str, Image.Image, Frame]], detector: FaceDetector) -> None:
    """Print a letter for each case: `+` right, `o` found but not framed right, `-` not found, `!` somebody else."""
    for label, photo, truth in cases:
        faces = detector.find(np.asarray(photo))
        if not faces:
            print(f"  {label:>5} -")
            continue
        frame = frame_of_face(faces[0])
        away = np.hypot(frame.x - truth.x, frame.y - truth.y) / truth.side
        mark = "+" if is_right(frame, truth) else ("o" if away < 0.25 else "!")
        turn = (frame.roll - truth.roll + 180) % 360 - 180
        print(f"  {label:>5} {mark}  centre off {away:.3f}, side {frame.side / truth.side:.2f}, roll off {turn:+.1f}")


def main() -> None:
    """Measure, and print."""
    detector = FaceDetector()
    for name, truth in PORTRAITS.items():
        picture = portrait(name)
        print(f"{name}, turned by degrees")
        verdicts(((f"{a}", *turned(picture, truth, a)) for a in range(-180, 180, 10)), detector)
        print(f"{name}, frame of this many pixels on a photo of 1024 px")
        sides = (64, 80, 100, 128, 160, 200, 256, 320, 400)
        verdicts(((f"{side}", *scaled(picture, truth, side)) for side in sides), detector)
    wrong = [name for name in WITHOUT_FACES if detector.find(_rgb(getattr(data, name)()))]
    print(f"{len(WITHOUT_FACES)} pictures without a face, faces seen in: {', '.join(wrong) or 'none'}")


def _rgb(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    return np.asarray(Image.fromarray(array).convert("RGB"))


if __name__ == "__main__":
    main()
