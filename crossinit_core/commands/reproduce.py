"""`crossinit reproduce`: the publication's table for a folder of people, on the model that somebody has.

Everybody is learned by each method, pictures of all prompts are made, and `evaluate`'s numbers are put side by side. Whatever is
done lies in the output folder, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_can_write, write_atomically
from .evaluate import chosen_prompts, judges, write_evaluation
from .reproduction_plan import (
    METHODS,
    PLAN,
    Folder,
    Subject,
    base_of_model,
    check_plan,
    chosen_methods,
    find_subjects,
    settings_of,
)
from .signals import Screen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..diffusers_backbone import DiffusersBackbone
    from ..evaluation.protocol import PersonScores, PromptScorer
    from ..evaluation.recognizers import Recognizer
    from ..learning.settings import InversionSettings
    from .sampling_settings import Sampling

PAGE = "index.md"


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
    methods = chosen_methods(options.methods)
    sampling = Sampling(
        options.sampling_steps, options.guidance, options.seed, options.count, batch_size=options.batch_size
    )
    sampling.check()
    device = chosen_device(options.device)
    check_model(options.model)
    base = base_of_model(options.model)
    settings = {method: settings_of(options, method, base) for method in methods}
    prompts = chosen_prompts(options)
    for prompt in prompts:
        PlacedPrompt.of(prompt, ["person"])
    recognizer, scorer = judges(options)
    subjects, left_out = find_subjects(options.photos, recognizer, say)
    folder = Folder(options.out)
    check_can_write(options.out / PLAN, what="reproduction")
    check_plan(options, settings, prompts, subjects)
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


def _learn_all(
    options: argparse.Namespace,
    settings: Mapping[str, InversionSettings],
    subjects: Sequence[Subject],
    folder: Folder,
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
    from ..starts import CROSS, PLAIN, start_from_names, start_from_words

    if method in ("names", "swift", "best"):
        return start_from_names(backbone, load_celebrity_names()).of("published" if method == "names" else "direction")
    way = CROSS if method == "words" else PLAIN
    return start_from_words(backbone, options.words, way=way).of("published")


def _draw_all(
    model: Path,
    device: torch.device,
    dtype: torch.dtype,
    methods: Sequence[str],
    subjects: Sequence[Subject],
    prompts: Sequence[str],
    sampling: Sampling,
    folder: Folder,
) -> None:
    """Pictures of everybody by every method; those that are there stay."""
    from tqdm import tqdm

    from ..tokens.token_files import load_learned_token
    from .pictures import PlacedPrompt, write_picture
    from .sampling import Sampler

    seeds = range(sampling.seed, sampling.seed + sampling.count)
    missing: list[tuple[str, Subject, int, list[int]]] = []
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
    subjects: Sequence[Subject],
    prompts: Sequence[str],
    recognizer: Recognizer,
    scorer: PromptScorer | None,
    folder: Folder,
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


def _seconds(folder: Folder, method: str, person: str) -> float | None:
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
    if learning is not None and device.type == "cuda" and base_of_model(model) == "sdxl":
        unet_dtype = DTYPES[resolve_precision(learning, device)]  # type: ignore[arg-type]
    return load_backbone(model, device, dtype or torch.float32, unet_dtype)
