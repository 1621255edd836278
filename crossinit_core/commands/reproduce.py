"""`crossinit reproduce`: the publication's table for a folder of people, on the model that somebody has.

Everybody is learned by each method, pictures of all prompts are made, and `evaluate`'s numbers are put side by side. Whatever is
done lies in the output folder, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_can_write, write_atomically
from ..text import quoted
from .evaluate import add_judges, chosen_prompts, judges, write_evaluation
from .signals import Screen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..diffusers_backbone import DiffusersBackbone
    from ..evaluation.protocol import PersonScores, PromptScorer
    from ..evaluation.recognizers import Recognizer
    from ..learning.settings import InversionSettings
    from .sampling_settings import Sampling

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

PLAN, PAGE = "plan.json", "index.md"


def add(commands: Any) -> None:
    """The command and its options, to argparse's `commands`."""
    text = (reproduce.__doc__ or "").partition("\n")[0]
    command = commands.add_parser("reproduce", help=text, description=text)
    command.set_defaults(run=reproduce)
    command.add_argument(
        "--photos",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a photo of each person, or a folder of them for each",
    )
    command.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="MODEL",
        help="a folder in diffusers' layout, a checkpoint file, or miniature/weights",
    )
    command.add_argument(
        "--out", type=Path, default=Path("reproduction"), metavar="FOLDER", help="default: %(default)s"
    )
    command.add_argument(
        "--methods", default=",".join(PUBLISHED), metavar="LIST", help=f"of {', '.join(METHODS)}; default: %(default)s"
    )
    command.add_argument(
        "--words", default="human face", help="where words, plain and direction start; default: %(default)s"
    )
    command.add_argument(
        "--preset", default="full", choices=("full", "fast", "fast-published"), help="default: %(default)s"
    )
    command.add_argument("--steps", type=int, metavar="N", help="of learning; default: those of the preset")
    command.add_argument(
        "--plain-steps",
        type=int,
        default=PLAIN_STEPS,
        metavar="N",
        help="of plain textual inversion; default: %(default)s",
    )
    command.add_argument(
        "--count", type=int, default=1, metavar="N", help="pictures of each prompt; default: %(default)s"
    )
    command.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="pictures that are made at once; default: %(default)s"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    command.add_argument(
        "--sampling-steps", type=int, default=50, metavar="N", help="of a picture; default: %(default)s"
    )
    command.add_argument("--guidance", type=float, default=7.5, metavar="X", help="default: %(default)s")
    command.add_argument("--device", help="default: cuda if there is one, else cpu")
    command.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16; default: %(default)s")
    add_judges(command)


@dataclass(frozen=True)
class _Subject:
    """A person: the name of their files, and their photos."""

    name: str
    photos: tuple[Path, ...]


class _Folder:
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


def reproduce(options: argparse.Namespace) -> None:
    """Learn everybody of a folder by several methods, draw them, and write the publication's table."""
    from ..evaluation.protocol import summarize
    from ..evaluation.reproduction import write_reproduction
    from ..loading import check_model
    from ..precision import DTYPES, resolve_precision
    from .arguments import chosen_device
    from .pictures import PlacedPrompt
    from .sampling_settings import Sampling

    say = Screen().say
    methods = _methods(options.methods)
    sampling = Sampling(
        options.sampling_steps, options.guidance, options.seed, options.count, batch_size=options.batch_size
    )
    sampling.check()
    device = chosen_device(options.device)
    check_model(options.model)
    base = _base(options.model)
    settings = {method: _settings(options, method, base) for method in methods}
    prompts = chosen_prompts(options)
    for prompt in prompts:
        PlacedPrompt.of(prompt, ["person"])
    recognizer, scorer = judges(options)
    subjects, left_out = _subjects(options.photos, recognizer, say)
    folder = _Folder(options.out)
    check_can_write(options.out / PLAN, what="reproduction")
    _check_plan(options, settings, prompts, subjects)
    dtype = DTYPES[resolve_precision(options.precision, device)]

    _learn_all(options, settings, subjects, folder, device)
    _draw_all(options.model, device, dtype, methods, subjects, prompts, sampling, folder)
    scores = _score_all(methods, subjects, prompts, recognizer, scorer, folder)
    for method in methods:
        write_evaluation(summarize(scores[method], recognizer, scorer), options.out / "evaluation" / method)
    seconds = {method: [_seconds(folder, method, one.name) for one in subjects] for method in methods}
    write_reproduction(
        options.out / PAGE,
        {method: METHODS[method] for method in methods},
        scores,
        seconds,
        {method: settings[method].steps for method in methods},
        recognizer,
        scorer,
        photos={one.name: one.photos for one in subjects},
        left_out=left_out,
        model=options.model.name,
    )
    print(options.out / PAGE)


# ------------------------------------------------------------------------------------------------ before long work


def _methods(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    wrong = [word for word in chosen if word not in METHODS]
    if wrong or not chosen:
        raise ValueError(f"--methods is '{quoted(text, 100)}', but a list of {', '.join(METHODS)} is expected.")
    return tuple(method for method in METHODS if method in chosen)


def _base(model: Path) -> str:
    from ..diffusers_backbone import widths_of
    from ..families import base_of_widths

    return base_of_widths(widths_of(model))


def _settings(options: argparse.Namespace, method: str, base: str) -> InversionSettings:
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


def _subjects(
    photos: Path, recognizer: Recognizer, say: Callable[[str], None]
) -> tuple[list[_Subject], dict[str, str]]:
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
    found: list[_Subject] = []
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
        found.append(_Subject(name, files))
    if not found:
        raise ValueError(
            f"There is no usable photo of anybody in '{quoted(photos, 200)}'. Use JPEG, PNG or WebP files."
        )
    return found, left_out


def _check_plan(
    options: argparse.Namespace,
    settings: Mapping[str, InversionSettings],
    prompts: Sequence[str],
    subjects: Sequence[_Subject],
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


# ------------------------------------------------------------------------------------------------ the work


def _learn_all(
    options: argparse.Namespace,
    settings: Mapping[str, InversionSettings],
    subjects: Sequence[_Subject],
    folder: _Folder,
    device: torch.device,
) -> None:
    """Tokens of everybody by every method; those that are there stay."""
    from tqdm import tqdm

    from ..learning.inversion import StepReport, invert
    from ..photos.folders import read_photos
    from ..tokens.description import described
    from ..tokens.token_files import save_learned_token

    missing = [
        (method, subject)
        for subject in subjects
        for method in settings
        if not folder.token(method, subject.name).is_file()
    ]
    if not missing:
        return
    backbone = _backbone(options.model, device, learning=settings[missing[0][0]].precision)
    starts = {method: _start(options, method, backbone) for method in settings}
    total = sum(settings[method].steps for method, _ in missing)
    with tqdm(total=total, unit="step", dynamic_ncols=True, file=Screen(), desc="learning") as bar:
        for method, subject in missing:
            bar.set_postfix_str(f"{subject.name}, {method}")
            own = settings[method]
            photos = read_photos(subject.photos, own.resolution or backbone.resolution, Screen().say)
            start, facts = starts[method]
            done = 0

            def on_step(report: StepReport) -> None:
                nonlocal done
                bar.update(report.step - done)
                done = report.step

            result = invert(
                backbone,
                start,
                own,
                images=photos.images,
                masks=photos.masks,
                on_step=on_step,
                resume_folder=folder.root / "resume",
                name=subject.name,
                metadata=facts,
            )
            bar.update(own.steps - done)
            # The time is known only of a run that was not interrupted.
            known = None if result.resumed_from else result.seconds
            write_atomically(folder.seconds(method, subject.name), json.dumps({"seconds": known}).encode())
            save_learned_token(described(result.token), folder.token(method, subject.name))


def _start(options: argparse.Namespace, method: str, backbone: DiffusersBackbone) -> tuple[Tensor, dict[str, str]]:
    from ..celebrity_names import load_celebrity_names
    from ..initialization import cross_initialize, cross_initialize_words, lookup_words
    from ..tokens.metadata import started_from_names, started_from_words

    if method in ("names", "swift", "best"):
        names = load_celebrity_names()
        return cross_initialize(backbone, names.names), started_from_names("cross initialization", names)
    if method == "words":
        start = cross_initialize_words(backbone, options.words)
        return start, started_from_words("cross initialization", options.words)
    return lookup_words(backbone, options.words), started_from_words("plain textual inversion", options.words)


def _draw_all(
    model: Path,
    device: torch.device,
    dtype: torch.dtype,
    methods: Sequence[str],
    subjects: Sequence[_Subject],
    prompts: Sequence[str],
    sampling: Sampling,
    folder: _Folder,
) -> None:
    """Pictures of everybody by every method; those that are there stay."""
    from tqdm import tqdm

    from ..tokens.token_files import load_learned_token
    from .pictures import PlacedPrompt, write_picture
    from .sampling import Sampler

    seeds = range(sampling.seed, sampling.seed + sampling.count)
    missing: list[tuple[str, _Subject, int, list[int]]] = []
    for method in methods:
        for subject in subjects:
            for number in range(1, len(prompts) + 1):
                place = folder.pictures(method, subject.name, number)
                if absent := [seed for seed in seeds if not (place / f"{seed}.png").is_file()]:
                    missing.append((method, subject, number, absent))
    if not missing:
        return
    sampler = Sampler(_backbone(model, device, dtype), sampling, dtype, silent=True)
    total = sum(len(absent) for *_, absent in missing)
    with tqdm(total=total, unit="picture", dynamic_ncols=True, file=Screen(), desc="drawing") as bar:
        for method, subject, number, absent in missing:
            token = load_learned_token(folder.token(method, subject.name))
            conditioning = sampler.conditioning(PlacedPrompt.of(prompts[number - 1], [token.name]), [token.vectors])
            place = folder.pictures(method, subject.name, number)
            for start in range(0, len(absent), sampling.batch_size):
                batch = absent[start : start + sampling.batch_size]
                for seed, picture in zip(batch, sampler.pictures(conditioning, batch), strict=True):
                    write_picture(picture, place / f"{seed}.png", "Make room, then run the same command again.")
                    bar.update(1)


def _drawn(place: Path) -> list[Path]:
    return sorted(place.glob("*.png"))


def _score_all(
    methods: Sequence[str],
    subjects: Sequence[_Subject],
    prompts: Sequence[str],
    recognizer: Recognizer,
    scorer: PromptScorer | None,
    folder: _Folder,
) -> dict[str, list[PersonScores]]:
    """Everybody's numbers by every method; those of these very judges and pictures that are there stay."""
    from tqdm import tqdm

    from ..evaluation.pictures import Person, PictureFile
    from ..evaluation.protocol import PersonScores, score_person

    whose = [recognizer.name, scorer.name if scorer else None]
    found: dict[str, list[PersonScores]] = {method: [] for method in methods}
    jobs = [(method, subject) for method in methods for subject in subjects]
    with tqdm(total=len(jobs), unit="person", dynamic_ncols=True, file=Screen(), desc="measuring") as bar:
        for method, subject in jobs:
            files = [
                PictureFile(path.relative_to(folder.root), prompt)
                for number, prompt in enumerate(prompts, start=1)
                for path in _drawn(folder.pictures(method, subject.name, number))
            ]
            path = folder.scores(method, subject.name)
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            names = [file.path.as_posix() for file in files]
            if known.get("judges") == whose and [each["picture"] for each in known["scores"]["pictures"]] == names:
                scores = PersonScores.of(known["scores"])
            else:
                person = Person(subject.name, subject.photos, tuple(files))
                scores = score_person(person, recognizer, scorer, root=folder.root)
                content = {"judges": whose, "scores": asdict(scores)}
                write_atomically(path, json.dumps(content, ensure_ascii=False).encode())
            found[method].append(scores)
            bar.update(1)
    return found


def _seconds(folder: _Folder, method: str, person: str) -> float | None:
    path = folder.seconds(method, person)
    seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else None
    return float(seconds) if seconds is not None else None


def _backbone(
    model: Path, device: torch.device, dtype: torch.dtype | None = None, *, learning: str | None = None
) -> DiffusersBackbone:
    """The model in `dtype`, or as a run learns on it: in float32, but for SDXL's UNet on a GPU, which is copied in its own."""
    import torch

    from ..loading import load_backbone
    from ..precision import DTYPES, resolve_precision

    unet_dtype = None
    if learning is not None and device.type == "cuda" and _base(model) == "sdxl":
        unet_dtype = DTYPES[resolve_precision(learning, device)]  # type: ignore[arg-type]
    return load_backbone(model, device, dtype or torch.float32, unet_dtype)
