"""What a reproduction is of: who is learned, how, on what, and that the folder of its results holds nothing else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomically
from ..text import quoted

if TYPE_CHECKING:
    from ..evaluation.recognizers import Recognizer
    from ..learning.settings import InversionSettings

METHODS = {
    "names": "cross initialization from names",
    "words": "cross initialization from words",
    "plain": "plain textual inversion",
    "direction": "direction alone",
    "swift": "the preset swift",
    "best": "the preset best",
}
"""What is compared, by the name that is typed; the first is what the others are compared with."""
PUBLISHED = ("names", "words", "plain", "direction")
"""What is compared unless others are asked for."""

PLAIN_STEPS = 5000
"""Of textual inversion, as the publication compares with it."""

PLAN = "plan.json"


@dataclass(frozen=True)
class Subject:
    """A person: the name of their files, and their photos."""

    name: str
    photos: tuple[Path, ...]


class Folder:
    """Where everything of a reproduction lies."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def token(self, method: str, person: str) -> Path:
        return self.root / "tokens" / method / f"{person}.safetensors"

    def seconds(self, method: str, person: str) -> Path:
        return self.root / "tokens" / method / f"{person}.json"

    def pictures(self, method: str, person: str, prompt: int) -> Path:
        return self.root / "pictures" / method / person / f"{prompt:03d}"

    def scores(self, method: str, person: str) -> Path:
        return self.root / "scores" / method / f"{person}.json"


def chosen_methods(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    wrong = [word for word in chosen if word not in METHODS]
    if wrong or not chosen:
        raise ValueError(f"--methods is '{quoted(text, 100)}', but a list of {', '.join(METHODS)} is expected.")
    return tuple(method for method in METHODS if method in chosen)


def base_of_model(model: Path) -> str:
    from ..diffusers_backbone import widths_of
    from ..families import base_of_widths

    return base_of_widths(widths_of(model))


def settings_of(options: argparse.Namespace, method: str, base: str) -> InversionSettings:
    """The preset of the model's family, as each method needs it."""
    from ..learning.settings import DIRECTION_PRIOR, DIRECTION_RATE, presets_of

    # Plain textual inversion has no short form.
    own = {"plain": "full", "swift": "swift", "best": "best"}
    preset = own[method] if method in own else str(options.preset)
    settings = replace(presets_of(base)[preset], seed=options.seed, precision=options.precision)
    if options.steps is not None and method in PUBLISHED:
        settings = replace(settings, steps=options.steps)
    if method == "plain":
        settings = replace(settings, steps=options.plain_steps, regularization=0.0)
    if method == "direction":
        settings = replace(settings, method="direction", learning_rate=DIRECTION_RATE, prior=DIRECTION_PRIOR)
    settings.check()
    return settings


def find_subjects(
    photos: Path, recognizer: Recognizer, say: Callable[[str], None]
) -> tuple[list[Subject], dict[str, str]]:
    """Everybody whose photos show a face, and why the others are left out.

    Raises FileNotFoundError or ValueError if nobody is left, or if two people would have files of one name.
    """
    from ..evaluation.faces import reference_features
    from ..evaluation.pictures import photos_of_people, read_rgb
    from ..tokens.learned_token import suggest_token_name

    if not photos.is_dir():
        raise FileNotFoundError(
            f"--photos is '{quoted(photos, 250)}', but a folder with a photo of each person is expected."
        )
    found: list[Subject] = []
    left_out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for person, files in photos_of_people(photos).items():
        name = suggest_token_name(person)
        if name.casefold() in taken:
            raise ValueError(
                f"'{quoted(person, 100)}' and '{quoted(taken[name.casefold()], 100)}' in --photos would both have files called "
                f"'{name}'. Rename one of them."
            )
        taken[name.casefold()] = person
        try:
            reference_features(recognizer, [read_rgb(path) for path in files])
        except (OSError, ValueError) as error:
            left_out[name] = quoted(error, 300)
            say(quoted(f"'{person}' is left out: {error}", 560))
            continue
        found.append(Subject(name, files))
    if not found:
        raise ValueError(
            f"There is no usable photo of anybody in '{quoted(photos, 200)}'. Use JPEG, PNG or WebP files."
        )
    return found, left_out


def check_plan(
    options: argparse.Namespace,
    settings: Mapping[str, InversionSettings],
    prompts: Sequence[str],
    subjects: Sequence[Subject],
) -> None:
    """Raises ValueError if the output folder holds something else: its files would be taken for those of this run.

    Methods, people and pictures of each prompt may be added.
    """
    plan: dict[str, Any] = {
        "model": options.model.resolve().as_posix(),
        "words": options.words,
        "prompts": list(prompts),
        "seed": options.seed,
        "sampling steps": options.sampling_steps,
        "guidance": options.guidance,
    }
    learning = {method: json.loads(json.dumps(asdict(each), default=str)) for method, each in settings.items()}
    photos = {one.name: [_stamp(path) for path in one.photos] for one in subjects}
    path = options.out / PLAN
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, value in plan.items():
        if before and before.get(name) != value:
            _refuse(options.out, name, before.get(name), value)
    for method, each in learning.items():
        for key, old in before.get("learning", {}).get(method, {}).items():
            if old != each.get(key):
                _refuse(options.out, f"{key} of '{method}'", old, each.get(key))
    for name, stamps in photos.items():
        if before.get("photos", {}).get(name, stamps) != stamps:
            raise ValueError(
                f"The photos of '{name}' are others than those that '{quoted(options.out, 150)}' was made from. Choose another --out."
            )
    plan["learning"] = {**before.get("learning", {}), **learning}
    plan["photos"] = {**before.get("photos", {}), **photos}
    write_atomically(path, f"{json.dumps(plan, ensure_ascii=False, indent=1)}\n".encode())


def _refuse(out: Path, name: str, old: object, new: object) -> None:
    raise ValueError(
        f"'{quoted(out, 150)}' holds a reproduction whose {name} is {quoted(old, 100)}, but here it is {quoted(new, 100)}. "
        "Choose another --out, or the same as before."
    )


def _stamp(path: Path) -> str:
    return f"{path.name} {path.stat().st_size}"
