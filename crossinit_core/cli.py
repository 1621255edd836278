"""The command line: learn people on a Stable Diffusion model (SD 1.x, SD 2.x, SDXL), make pictures, convert and mix tokens.

    python -m crossinit_core train MODEL photo.jpg
    python -m crossinit_core generate MODEL photo.safetensors --prompt "a {} person on the beach"

MODEL is a folder in diffusers' layout or a checkpoint file. Nothing is downloaded. Wrong inputs end with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .backbone import Backbone
from .celebrity_names import load_celebrity_names
from .commands import options as takes
from .commands.arguments import Parser, chosen_device
from .commands.face_crops import FaceCrops
from .commands.loss_log import LossLog
from .commands.options import PROMPT, RESUME_FOLDER
from .commands.published_flags import refuse_published_flags
from .commands.sampling import (
    PlacedPrompt,
    Sampling,
    check_everybody_is_placed,
    plan_pictures,
    sample,
    write_picture,
)
from .commands.signals import Screen, Terminated, leave_closed_output, signals_stop
from .commands.token_copies import TokenCopies, check_copies
from .commands.training_settings import settings_of
from .errors import notes_on
from .families import BASE_NAMES, base_of_widths, describe_widths, encoder_names, shown_widths
from .files import check_can_write
from .initialization import StartStates, cross_initialize, cross_initialize_words
from .learning.inversion import StepReport, invert
from .learning.settings import PRESETS, InversionSettings
from .photos.folders import Photos, read_photos
from .precision import DTYPES, resolve_precision
from .prompts import load_prompts
from .text import quoted
from .tokens import metadata
from .tokens.blending import blend_tokens, rescale_token
from .tokens.description import described
from .tokens.layouts import FORMATS, Format
from .tokens.learned_token import LearnedToken, check_token_name, suggest_token_name
from .tokens.lineage import other_lineage
from .tokens.metadata import norms_by_encoder, started_from_names, started_from_words
from .tokens.report import by_encoder, describe_tokens
from .tokens.report_figure import draw_report
from .tokens.saving import save_or_keep
from .tokens.token_files import SUFFIXES, keeps_metadata, load_learned_token, save_learned_token

if TYPE_CHECKING:
    from .diffusers_backbone import DiffusersBackbone

__all__ = ["PRESETS", "main"]

_LONGEST_LINE = 580


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a wrong input, 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, and
    141 if the reader of the output went away."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    logging.basicConfig(format="%(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    screen = Screen()
    try:
        with signals_stop():
            refuse_published_flags(given)
            options = _parser().parse_args(given)
            options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        screen.say("Stopped.")
        return 128 + stop.args[0] if isinstance(stop, Terminated) else 130
    except BrokenPipeError:
        leave_closed_output()
        return 141
    except (ImportError, MemoryError, OSError, RuntimeError, SafetensorError, ValueError) as error:
        # Anything else is a bug of ours, and shows where it is.
        line = " ".join(str(error).split()) or type(error).__name__
        screen.say(f"crossinit: {quoted(line, _LONGEST_LINE)}")
        return 2
    return 0


def train(options: argparse.Namespace) -> None:
    """Learn a face from photos and save it. The preset is that of the model's family, and given options replace its values."""
    screen = Screen()
    settings = settings_of(options, base_of_widths(_widths(options.model)))
    device = chosen_device(options.device)
    name, out = _name_and_file(options)
    check_can_write(out, what="output file")
    if options.save_every is not None:
        check_copies(out, options.save_every, settings.steps)
    if options.log and options.log.absolute() == out.absolute():
        raise ValueError(
            f"--log and --out are both '{quoted(out, 200)}'. Give the log another name, such as losses.jsonl."
        )
    log = LossLog(options.log, screen.say) if options.log else None
    if options.names:
        load_celebrity_names(options.names)
    photos = _photos(options, settings)
    # On a GPU a run learns on copies in its own precision: SDXL's UNet in float32 beside them would be 5 GB more.
    half = device.type == "cuda" and base_of_widths(_widths(options.model)) == "sdxl"
    unet_dtype = DTYPES[resolve_precision(settings.precision, device)] if half else None
    backbone = _backbone(options.model, device, unet_dtype=unet_dtype)
    for warning in backbone.warnings():
        screen.say(warning)
    v0, facts = _start(options, backbone)
    screen.say(_plan(settings.sized(backbone.resolution), backbone.base))
    copies = None
    if options.save_every is not None:
        start = LearnedToken(v0, name, backbone.base, _known(facts, settings, backbone), widths=backbone.widths)
        copies = TokenCopies(start, out, options.save_every, screen.say)
    resume_folder = options.resume_folder or out.parent / RESUME_FOLDER
    bar = tqdm(total=settings.steps, unit="step", dynamic_ncols=True, file=screen)

    def show(report: StepReport) -> None:
        bar.set_postfix(loss=f"{report.loss:.4f}", moved=f"{report.regularization:.2f}", refresh=False)
        bar.update(report.step - bar.n)
        if log:
            log.add(report.step, report.loss, report.distance)
        if copies:
            copies.add(report.step, report.steps, report.vectors)

    try:
        with logging_redirect_tqdm(), bar, closing(log) if log else nullcontext():
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
            )
    except KeyboardInterrupt as stop:
        if bar.n and notes_on(stop):  # nothing is promised if no resume file could be written
            screen.say(f"After step {bar.n} of {settings.steps}: the same command continues from here.")
        raise
    if log:
        log.finish(result.losses, result.distances)
    home = os.path.expanduser("~")  # noqa: PTH111 - unlike Path.home, it never raises
    save_or_keep(described(result.token), out, [resume_folder.absolute(), Path(home), Path(tempfile.gettempdir())])
    if result.resumed_from:
        print(f"{result.resumed_from} of {settings.steps} steps came from an earlier run in {resume_folder}")
    print(f"{out}: {len(v0)} vectors, {settings.steps} steps, last loss {result.losses[-1]:.4f}")


def generate(options: argparse.Namespace) -> None:
    """Sample pictures of learned people: 50 steps of DPM-Solver++ at guidance 7.5, as published."""
    sampling = Sampling(options.steps, options.guidance, options.seed, options.count, options.resolution)
    sampling.check()
    device = chosen_device(options.device)
    tokens = [load_learned_token(path) for path in options.tokens]
    names = [token.name for token in tokens]
    prompts = load_prompts(options.prompts) if options.prompts else tuple(options.prompt or [PROMPT])
    placed = [PlacedPrompt.of(prompt, names) for prompt in prompts]
    check_everybody_is_placed(names, placed, Screen().say)
    check_can_write(options.out / "picture.png", what="picture")
    pictures = plan_pictures(placed, sampling, options.out, options.layout)
    if options.skip_existing:
        missing = [picture for picture in pictures if not picture.path.exists()]
        if len(missing) < len(pictures):
            Screen().say(f"{len(pictures) - len(missing)} of {len(pictures)} pictures are there already.")
        if not missing:
            return
        pictures = missing
    dtype = DTYPES[resolve_precision(options.precision, device)]
    widths = _widths(options.model)
    for token in tokens if widths else ():
        token.check_fits(widths)
    backbone = _backbone(options.model, device, dtype)
    for token in tokens:
        token.check_fits(backbone.widths)
        if warning := other_lineage(token.metadata, backbone.checkpoint):
            Screen().say(quoted(f"'{token.name}': {warning}", _LONGEST_LINE))
    for path in sample(backbone, tokens, pictures, sampling, dtype, again=options.skip_existing):
        print(path, flush=True)


def convert(options: argparse.Namespace) -> None:
    """Write a token file in another format, for another tool."""
    known = _format(options)
    token = load_learned_token(options.token, name=options.name)
    _write(token, options.out, known)


def blend(options: argparse.Namespace) -> None:
    """Mix two tokens into one, somebody between two people."""
    known, name = _format(options), _name_of_out(options)
    _check_share("--weight", options.weight, "the first token", "the second")
    first, second = load_learned_token(options.first), load_learned_token(options.second)
    _write(blend_tokens(first, second, options.weight, method=options.method, name=name), options.out, known)


def rescale(options: argparse.Namespace) -> None:
    """Give a token's vectors the length of their start, so that they leave more room for the rest of a prompt."""
    known, name = _format(options), _name_of_out(options)
    _check_share("--amount", options.amount, "as long as it is", "as long as its start")
    _write(rescale_token(load_learned_token(options.token), options.amount).renamed(name), options.out, known)


def report(options: argparse.Namespace) -> None:
    """Print how tokens were learned, as far as their files say it, and draw their charts."""
    out: Path | None = options.out
    if out:
        if out.suffix.lower() != ".png":
            raise ValueError(f"--out is '{quoted(out, 200)}', but the file name must end in .png.")
        check_can_write(out, what="report")
    tokens = [load_learned_token(path) for path in options.tokens]
    if out:
        write_picture(Image.fromarray(draw_report(tokens)), out)
    for line in describe_tokens(tokens).splitlines():
        print(f"{'  ' if line.startswith('  ') else ''}{quoted(line.strip(), _LONGEST_LINE)}")
    if out:
        print(out)


def inspect(options: argparse.Namespace) -> None:
    """Print what token files hold."""
    facts = [_facts(path) for path in options.tokens]
    if options.json:
        print(json.dumps(facts if len(facts) > 1 else facts[0], ensure_ascii=False, indent=2))
        return
    for fact in facts:
        known = fact.pop("metadata")
        widths, norms = fact.pop("widths"), fact.pop("norms")
        for name, of_one in zip(encoder_names(widths), by_encoder(norms, widths), strict=True):
            fact[f"norms, {name}" if name else "norms"] = " ".join(map(str, of_one))
        fact["width"] = f"{shown_widths(widths)} ({describe_widths(widths)})"
        for key, value in (*fact.items(), *known.items()):
            print(f"{quoted(key, 60):<28} {quoted(value, 500)}")


def _format(options: argparse.Namespace) -> Format | None:
    """The format that was asked for. Raises ValueError if OUT cannot be written, or not in it."""
    out: Path = options.out
    known = FORMATS[options.format] if options.format else None
    if out.suffix not in SUFFIXES:
        raise ValueError(f"OUT is '{quoted(out, 200)}', but the file name must end in one of {', '.join(SUFFIXES)}.")
    if known and out.suffix != known.suffix:
        raise ValueError(
            f"OUT is '{quoted(out, 200)}', but the format '{options.format}' is written with {known.suffix}. "
            f"Name the file '{quoted(out.with_suffix(known.suffix).name, 100)}'."
        )
    check_can_write(out, what="output file")
    return known


def _name_of_out(options: argparse.Namespace) -> str:
    return check_token_name(options.name or suggest_token_name(options.out.stem))


def _check_share(option: str, value: float, at_0: str, at_1: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{option} is {value}, but must be from 0 ({at_0}) to 1 ({at_1}).")


def _write(token: LearnedToken, out: Path, known: Format | None) -> None:
    """Write a token, and print what it is and who reads the file."""
    try:
        save_learned_token(described(token), out, known.layout if known else None)
    except OSError as error:
        raise OSError(
            f"'{quoted(out, 250)}' could not be written ({quoted(error.strerror or error)}). Make room or choose another place."
        ) from error
    kept = keeps_metadata(token, out, known.layout if known else None)
    what = f"{out.suffix} of {describe_widths(token.widths)}" if len(token.widths) == 2 else out.suffix
    lost = f" ({what} keeps nothing of their origin)" if token.metadata and not kept else ""
    readers = f", for {', '.join(known.readers_of(token.widths))}" if known else ""
    print(f"{out}: '{token.name}', {len(token.vectors)} vectors{readers}{lost}")


def _facts(path: Path) -> dict[str, Any]:
    """What a token file holds; `norms` are those of each text encoder's part, one encoder after the other."""
    token = load_learned_token(path)
    return {
        "file": str(path),
        "name": token.name,
        "vectors": len(token.vectors),
        "width": token.width,
        "widths": list(token.widths),
        "base": token.base,
        "norms": [round(norm, 4) for norm in norms_by_encoder(token.vectors, token.widths).tolist()],
        "metadata": dict(sorted(token.metadata.items())),
    }


def _plan(settings: InversionSettings, base: str) -> str:
    """What a run does, in a line: `SDXL: 400 steps, batch 4, 768 px, rate 0.02`."""
    return (
        f"{BASE_NAMES.get(base, base)}: {settings.steps} steps, batch {settings.batch_size}, {settings.resolution} px, "
        f"rate {settings.learning_rate:g}"
    )


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


def _start(options: argparse.Namespace, backbone: Backbone) -> tuple[Tensor, dict[str, str]]:
    """v0 (K, d), and what the token's file says about it."""
    states: StartStates = options.states
    method = "cross initialization"
    if states == "context" and len(backbone.widths) > 1:  # else both are the same
        method += " (what the UNet sees)"
    if options.words is not None:
        v0 = cross_initialize_words(backbone, options.words, options.vectors, states=states)
        return v0, started_from_words(method, options.words)
    names = load_celebrity_names(options.names)
    v0 = cross_initialize(backbone, names.names, 2 if options.vectors is None else options.vectors, states=states)
    return v0, started_from_names(method, names)


def _photos(options: argparse.Namespace, settings: InversionSettings) -> Photos:
    """All photos and masks among files and folders; a line on stderr for every file that is not used."""
    from .diffusers_backbone import resolution_of

    resolution = settings.resolution or resolution_of(options.model)
    if options.face_number is None and not options.face:
        return read_photos(options.photos, resolution, Screen().say)
    crops = FaceCrops(1 if options.face_number is None else options.face_number, Screen().say)
    try:
        return read_photos(options.photos, resolution, Screen().say, crops)
    except ValueError:
        if crops.refused:
            more = f" ({len(crops.refused)} photos were refused)" if len(crops.refused) > 1 else ""
            raise ValueError(f"--face: {crops.refused[0]}{more}") from None
        raise


def _widths(model: Path) -> tuple[int, ...]:
    """The widths of a model's text encoders, before it is loaded; empty if it does not say."""
    from .diffusers_backbone import widths_of

    return widths_of(model)


def _backbone(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, unet_dtype: torch.dtype | None = None
) -> DiffusersBackbone:
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ImportError(f"This command needs diffusers ({error}). Install it: pip install diffusers") from error
    from .diffusers_backbone import DiffusersBackbone

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return DiffusersBackbone.from_pretrained(folder, device=device, dtype=dtype, unet_dtype=unet_dtype)


def _parser() -> argparse.ArgumentParser:
    name = "crossinit" if Path(sys.argv[0]).stem.startswith("crossinit") else "python -m crossinit_core"
    parser = Parser(prog=name, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, add_options in (
        (train, takes.of_train),
        (generate, takes.of_generate),
        (convert, takes.of_convert),
        (blend, takes.of_blend),
        (rescale, takes.of_rescale),
        (report, takes.of_report),
        (inspect, takes.of_inspect),
    ):
        text = (run.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        add_options(command)
    return parser
