"""How well a face recognizer tells people apart, for docs/evaluation.md and for those who bring one of their own.

    python -m benchmarks.recognizers [--people FOLDER] [--pairs FILE] [--recognizer NAME] [--features FILE] [--json FILE]

FOLDER has a folder of photos for each person, at least two of each for the likeness of one person. FILE is a CSV of two photos, by
their paths from its own folder, and Yes or No for one person or two, as in deepface's tests (`tests/unit/dataset/master.csv`).
Without both, only the portraits are measured that come inside Python packages (Eileen Collins from scikit-image, Grace Hopper from
matplotlib, both in the public domain), changed in several ways, and painted people.

`--features` keeps what was embedded, so that the same command goes on after an interruption. scikit-learn's Olivetti faces
(`fetch_olivetti_faces`, 400 grey photos of 40 people) are 64 px: save them at 256 px with their edges continued for 64 px.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from crossinit_core import load_celebrity_names
from crossinit_core.evaluation.choice import recognizer_of
from crossinit_core.evaluation.pictures import photos_of_people, read_rgb
from crossinit_core.evaluation.recognizers import Recognizer
from miniature.world.people import held_out_person, named_vectors, portrait

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "lying on its side": lambda photo: photo.rotate(90, expand=True),
    "grey": lambda photo: photo.convert("L").convert("RGB"),
    "at half its light": lambda photo: photo.point(lambda value: value // 2),
    "face 45 px wide": lambda photo: photo.resize((128, 128)),
    "blurred by 3 % of the face": lambda photo: photo.filter(ImageFilter.GaussianBlur(photo.width / 90)),
    "squeezed to 80 %": lambda photo: photo.resize((photo.width * 4 // 5, photo.height)),
    "JPEG of quality 10": lambda photo: _as_jpeg(photo),
}
PAINTED = 12


class Features:
    """Of the largest face of each picture, None without one; computed once."""

    def __init__(self, recognizer: Recognizer, file: Path | None) -> None:
        self._recognizer, self._file = recognizer, file
        self._known: dict[str, Any] = json.loads(file.read_text()) if file and file.is_file() else {}
        self.seconds: list[float] = []

    def of(self, path: Path) -> NDArray[np.float32] | None:
        name = path.resolve().as_posix()
        if name not in self._known:
            self._known[name] = self.fresh(read_rgb(path)).tolist()[:1]
            if self._file:
                self._file.write_text(json.dumps(self._known))
        found = self._known[name]
        return np.array(found[0], np.float32) if found else None

    def fresh(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        began = time.perf_counter()
        found = self._recognizer.embed(picture)
        self.seconds.append(time.perf_counter() - began)
        return found

    def alike(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
        return float(self._recognizer.similarity(first[None], second[None])[0, 0])


def pairs_of_people(folder: Path) -> Iterator[tuple[Path, Path, bool]]:
    photos = [(name, path) for name, paths in photos_of_people(folder).items() for path in paths]
    for place, (name, path) in enumerate(photos):
        yield from ((path, other, name == whose) for whose, other in photos[:place])


def pairs_of_file(file: Path) -> Iterator[tuple[Path, Path, bool]]:
    for first, second, decision, *_ in csv.reader(file.open(encoding="utf-8")):
        if decision in ("Yes", "No"):
            yield file.parent / first, file.parent / second, decision == "Yes"


def verification(features: Features, pairs: list[tuple[Path, Path, bool]]) -> dict[str, Any]:
    """Of pairs of photos with a face on both."""
    photos = sorted({path for pair in pairs for path in pair[:2]})
    found = {path: features.of(path) for path in photos}
    values: dict[bool, list[float]] = {True: [], False: []}
    for first, second, same in pairs:
        a, b = found[first], found[second]
        if a is not None and b is not None:
            values[same].append(features.alike(a, b))
    own, others = np.array(values[True]), np.array(values[False])
    facts: dict[str, Any] = {"photos": len(photos), "without a face": sum(value is None for value in found.values())}
    for name, some in (("one person", own), ("different people", others)):
        if len(some):
            low, high = np.percentile(some, [5, 95])
            facts[name] = {"pairs": len(some), "mean": some.mean(), "5 %": low, "95 %": high}
    if len(own) and len(others):
        facts["AUC"] = area(own, others)
    return facts


def area(own: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The share of (pair of one person, pair of two) in which the first is more alike: the area under the ROC curve."""
    order = np.sort(others)
    below = (np.searchsorted(order, own, "left") + np.searchsorted(order, own, "right")) / 2
    return float(below.mean() / len(others))


def portraits() -> dict[str, Image.Image]:
    from skimage import data

    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return {
        "Collins": Image.fromarray(data.astronaut()).crop((92, 0, 348, 256)),
        "Hopper": Image.open(hopper).convert("RGB").crop((90, 30, 440, 380)).resize((256, 256)),
    }


def changed(features: Features) -> dict[str, Any]:
    """How alike each changed portrait is to itself as it was, and the two to each other."""
    own = {name: features.fresh(np.asarray(photo))[0] for name, photo in portraits().items()}
    rows: dict[str, Any] = {"each other": features.alike(*own.values())}
    for change, do in CHANGES.items():
        rows[change] = {}
        for name, photo in portraits().items():
            found = features.fresh(np.asarray(do(photo)))
            rows[change][name] = features.alike(found[0], own[name]) if len(found) else None
    return rows


def painted(features: Features) -> dict[str, Any]:
    """Whether a recognizer of photos can say anything of painted people."""
    named = named_vectors(load_celebrity_names().names)
    own, others, without = [], [], 0
    before: list[NDArray[np.float32]] = []
    for number in range(PAINTED):
        person = held_out_person(number, named)
        sides = [features.fresh(portrait(person, seed)) for seed in (number, number + 1000)]
        without += sum(not len(side) for side in sides)
        if all(map(len, sides)):
            own.append(features.alike(sides[0][0], sides[1][0]))
            others += [features.alike(sides[0][0], other) for other in before]
            before.append(sides[1][0])
    facts: dict[str, Any] = {"pictures": 2 * PAINTED, "without a face": without}
    if own and others:
        facts |= {
            "one person": np.mean(own),
            "different people": np.mean(others),
            "AUC": area(np.array(own), np.array(others)),
        }
    return facts


def _as_jpeg(photo: Image.Image) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=10)
    return Image.open(file).convert("RGB")


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--people", type=Path, metavar="FOLDER")
    parser.add_argument("--pairs", type=Path, metavar="FILE")
    parser.add_argument("--recognizer", default="dlib", metavar="NAME")
    parser.add_argument("--features", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    recognizer = recognizer_of(arguments.recognizer)
    features = Features(recognizer, arguments.features)
    facts: dict[str, Any] = {"recognizer": recognizer.name}
    if arguments.people:
        facts["people"] = verification(features, list(pairs_of_people(arguments.people)))
    if arguments.pairs:
        facts["pairs"] = verification(features, list(pairs_of_file(arguments.pairs)))
    if not arguments.people and not arguments.pairs:
        facts |= {"changed portraits": changed(features), "painted people": painted(features)}
    if features.seconds:
        facts["seconds a picture"] = float(np.median(features.seconds))
    text = json.dumps(facts, indent=1, default=float)
    print(text)
    if arguments.json:
        arguments.json.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
