"""Learning a face: `train`."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..backbone import Backbone
from ..celebrity_names import load_celebrity_names
from ..choices import StartStates
from ..diffusers_backbone import DiffusersBackbone, resolution_of, widths_of
from ..errors import notes_on
from ..families import base_of_widths
from ..files import check_can_write
from ..learning.inversion import StepReport, invert
from ..learning.ranks import ALONE, ProcessError, Ranks
from ..learning.settings import InversionSettings, Method, in_a_line
from ..loading import check_model, load_to_learn
from ..photos.face_crops import FaceCrops
from ..photos.folders import Photos, read_photos
from ..prompts import load_prompts
from ..starts import start_from_names, start_from_words
from ..text import quoted
from ..tokens import metadata
from ..tokens.description import described
from ..tokens.learned_token import LearnedToken, check_token_name, suggest_token_name
from ..tokens.saving import save_or_keep
from ..tokens.token_files import SUFFIXES
from .arguments import chosen_device
from .loss_log import LossLog
from .options import PROMPT, RESUME_FOLDER
from .pictures import PlacedPrompt
from .sampling_settings import Sampling
from .signals import Screen
from .tensorboard_log import TensorBoardLog
from .token_copies import TokenCopies, check_copies
from .training_samples import STEPS, TrainingSamples, check_samples, samples_folder
from .training_settings import settings_of


def train(options: argparse.Namespace) -> None:
    """Learn a face from photos and save it. The preset is that of the model's family, and given options replace its values."""
    screen = Screen()
    base = base_of_widths(widths_of(options.model))
    settings = settings_of(options, base)
    device = chosen_device(options.device)
    name, out = _name_and_file(options)
    ranks: Ranks = getattr(options, "ranks", ALONE)
    prompts: list[PlacedPrompt] = []
    logs: list[LossLog | TensorBoardLog] = []
    writes = not ranks.number  # of several processes, the first one
    if writes:
        check_can_write(out, what="output file")
        if options.save_every is not None:
            check_copies(out, options.save_every, settings.steps)
        prompts = _prompts(options, out, name)
        logs = _logs(options, out, name, screen.say)
    if options.names:
        load_celebrity_names(options.names)
    check_model(options.model)
    photos = _photos(options, settings)
    backbone = load_to_learn(options.model, device, settings.precision)
    for warning in backbone.warnings():
        screen.say(warning)
    v0, facts = _start(options, backbone, settings.method)
    sized = settings.sized(backbone.resolution)
    screen.say(in_a_line(sized, backbone.base))
    copies = samples = None
    if writes and options.save_every is not None:
        start = LearnedToken(v0, name, backbone.base, _known(facts, settings, backbone), widths=backbone.widths)
        copies = TokenCopies(start, out, options.save_every, screen.say)
    if prompts:
        sampling = Sampling(STEPS, seed=settings.seed % 2**63, resolution=sized.resolution)
        shown = [log.add_picture for log in logs if isinstance(log, TensorBoardLog)]
        samples = TrainingSamples(
            backbone, prompts, samples_folder(out), options.sample_every, sampling, screen.say, *shown
        )
    for option, every in (("--save-every", options.save_every), ("--sample-every", options.sample_every)):
        if every is not None and every > settings.steps:
            screen.say(f"{option} is {every}, but the run has {settings.steps} steps: nothing is made on the way.")
    resume_folder = options.resume_folder or out.parent / RESUME_FOLDER
    bar = tqdm(total=settings.steps, unit="step", dynamic_ncols=True, file=screen)

    def show(report: StepReport) -> None:
        bar.set_postfix(loss=f"{report.loss:.4f}", moved=f"{report.regularization:.2f}", refresh=False)
        bar.update(report.step - bar.n)
        for log in logs:
            log.add(report.step, report.loss, report.distance)
        if copies:
            copies.add(report.step, report.steps, report.vectors)
        if samples:
            samples.add(report.step, report.vectors)

    try:
        with logging_redirect_tqdm(), bar, ExitStack() as opened:
            for log in logs:
                opened.enter_context(closing(log))
            result = invert(
                backbone,
                v0,
                settings,
                images=photos.images,
                masks=photos.masks,
                on_step=show,
                resume_folder=resume_folder,
                resume=not options.no_resume,
                name=name,
                metadata=facts,
                ranks=ranks,
            )
    except (KeyboardInterrupt, ProcessError) as stop:
        if bar.n and notes_on(stop):  # nothing is promised if no resume file could be written
            screen.say(f"After step {bar.n} of {settings.steps}: the same command continues from here.")
        raise
    if not writes:
        return
    for log in logs:
        log.finish(result.losses, result.distances)
    home = os.path.expanduser("~")  # noqa: PTH111 - unlike Path.home, it never raises
    save_or_keep(described(result.token), out, [resume_folder.absolute(), Path(home), Path(tempfile.gettempdir())])
    if result.resumed_from:
        print(f"{result.resumed_from} of {settings.steps} steps came from an earlier run in {resume_folder}")
        missed = [name for name, made in (("--save-every", copies), ("--sample-every", samples)) if made]
        if missed:
            screen.say(f"{' and '.join(missed)} did nothing for these steps. With --no-resume all are made anew.")
    print(f"{out}: {len(v0)} vectors, {settings.steps} steps, last loss {result.losses[-1]:.4f}")


def _prompts(options: argparse.Namespace, out: Path, name: str) -> list[PlacedPrompt]:
    """The prompts of the pictures that are made on the way; empty if none are."""
    if options.sample_every is None:
        if options.prompt or options.prompts:
            raise ValueError("--prompt and --prompts need --sample-every N, the steps between two pictures.")
        return []
    prompts = load_prompts(options.prompts) if options.prompts else tuple(options.prompt or [PROMPT])
    return check_samples(out, options.sample_every, prompts, name)


def _logs(
    options: argparse.Namespace, out: Path, name: str, say: Callable[[str], None]
) -> list[LossLog | TensorBoardLog]:
    logs: list[LossLog | TensorBoardLog] = []
    if options.losses and options.losses.absolute() == out.absolute():
        raise ValueError(
            f"--losses and --out are both '{quoted(out, 200)}'. Give the losses another name, such as losses.jsonl."
        )
    if options.losses:
        logs.append(LossLog(options.losses, say))
    if options.tensorboard:
        logs.append(TensorBoardLog(options.tensorboard / name, say))
    return logs


def _name_and_file(options: argparse.Namespace) -> tuple[str, Path]:
    """The token's name and the file to write: each follows from the other, both from the first photo.

    Raises ValueError for a name or a suffix that a token cannot have.
    """
    named_after = options.out.stem if options.out else options.photos[0].resolve().stem
    name = options.name or suggest_token_name(named_after)
    out = options.out or Path(f"{check_token_name(name)}.safetensors")
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out is '{quoted(out, 200)}', but the file name must end in one of {', '.join(SUFFIXES)}.")
    return name, out


def _known(facts: dict[str, str], settings: InversionSettings, backbone: DiffusersBackbone) -> dict[str, str]:
    """What a copy says that is taken on the way; the token itself says more."""
    return {
        **facts,
        metadata.CHECKPOINT: backbone.checkpoint,
        metadata.LEARNING_RATE: repr(settings.learning_rate),
        metadata.BATCH_SIZE: str(settings.batch_size),
        metadata.SEED: str(settings.seed),
    }


def _start(options: argparse.Namespace, backbone: Backbone, method: Method) -> tuple[Tensor, dict[str, str]]:
    """v0 (K, d), and what the token's file says about it."""
    states: StartStates = options.states
    if options.words is not None:
        return start_from_words(backbone, options.words, options.vectors, states=states).of(method)
    vectors = 2 if options.vectors is None else options.vectors
    return start_from_names(backbone, load_celebrity_names(options.names), vectors, states=states).of(method)


def _photos(options: argparse.Namespace, settings: InversionSettings) -> Photos:
    """All photos and masks among files and folders; a line on stderr for every file that is not used."""
    resolution = settings.resolution or resolution_of(options.model)
    if options.face_number is None and not options.face:
        return read_photos(options.photos, resolution, Screen().say)
    number = 1 if options.face_number is None else options.face_number
    if not 1 <= number <= 1000:
        raise ValueError(f"--face-number is {quoted(number, 60)}, but must be from 1 to 1000. 1 is the largest face.")
    crops = FaceCrops(number, Screen().say)
    try:
        return read_photos(options.photos, resolution, Screen().say, crops)
    except ValueError:
        if crops.refused:
            more = f" ({len(crops.refused)} photos were refused)" if len(crops.refused) > 1 else ""
            raise ValueError(f"--face: {crops.refused[0]}{more}") from None
        raise
