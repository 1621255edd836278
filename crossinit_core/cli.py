"""The command line: train, generate, convert and inspect, over a Stable Diffusion model (SD 1.x, SD 2.x, SDXL): a diffusers folder or a checkpoint.

    python -m crossinit_core train MODEL photo.jpg
    python -m crossinit_core generate MODEL photo.safetensors --prompt "a {} person on the beach"

Nothing is downloaded. Wrong inputs end with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .backbone import Backbone
from .celebrity_names import load_celebrity_names
from .commands import evaluate, reproduce, train_many
from .commands.arguments import Parser, chosen_device, format_name, formats_help
from .commands.processes import processes
from .commands.published_flags import refuse_published_flags
from .commands.sampling import SIZES, PlacedPrompt, Sampling, check_everybody_is_placed, sample
from .commands.signals import Screen, Terminated, leave_closed_output, signals_stop
from .errors import notes_on
from .families import BASE_NAMES, base_of_widths, describe_widths, encoder_names, shown_widths
from .files import check_can_write
from .initialization import START_STATES, StartStates, cross_initialize, cross_initialize_words
from .learning.inversion import StepReport, invert
from .learning.ranks import ProcessError
from .learning.settings import PRESETS, REGULARIZERS, SDXL_PRESETS, InversionSettings, presets_of
from .photos.folders import Photos, read_photos
from .precision import DTYPES, PRECISIONS, resolve_precision
from .prompts import load_prompts
from .text import quoted
from .tokens.description import described
from .tokens.layouts import FORMATS
from .tokens.learned_token import check_token_name, suggest_token_name
from .tokens.lineage import other_lineage
from .tokens.metadata import norms_by_encoder, started_from_names, started_from_words
from .tokens.report import by_encoder
from .tokens.saving import save_or_keep
from .tokens.token_files import SUFFIXES, keeps_metadata, load_learned_token, save_learned_token

if TYPE_CHECKING:
    from .diffusers_backbone import DiffusersBackbone

PROMPT = "a photo of a {} person"
RESUME_FOLDER = "crossinit-resume"

_LONGEST_LINE = 580
_MOST_SAMPLES = 4096
_MOST_STEPS = 1_000_000


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
            with processes(options):
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
    settings = _settings(options)
    device = chosen_device(options.device)
    name, out = _name_and_file(options)
    if not options.ranks.number:
        check_can_write(out, what="output file")
    if options.names:
        load_celebrity_names(options.names)
    photos = _photos(options, settings)
    # On a GPU a run learns on copies in its own precision: SDXL's UNet in float32 beside them would be 5 GB more.
    half = device.type == "cuda" and base_of_widths(_widths(options.model)) == "sdxl"
    unet_dtype = DTYPES[resolve_precision(settings.precision, device)] if half else None
    backbone = _backbone(options.model, device, unet_dtype=unet_dtype)
    for warning in backbone.warnings():
        Screen().say(warning)
    v0, facts = _start(options, backbone)
    Screen().say(_plan(settings.sized(backbone.resolution), backbone.base))
    resume_folder = options.resume_folder or out.parent / RESUME_FOLDER
    bar = tqdm(total=settings.steps, unit="step", dynamic_ncols=True, file=Screen())

    def show(report: StepReport) -> None:
        bar.set_postfix(loss=f"{report.loss:.4f}", moved=f"{report.regularization:.2f}", refresh=False)
        bar.update(report.step - bar.n)

    try:
        with logging_redirect_tqdm(), bar:
            result = invert(
                backbone,
                v0,
                settings,
                images=photos.images,
                masks=photos.masks,
                on_step=show,
                resume_folder=resume_folder,
                name=name,
                metadata=facts,
                ranks=options.ranks,
            )
    except (KeyboardInterrupt, ProcessError) as stop:
        if bar.n and notes_on(stop):  # nothing is promised if no resume file could be written
            Screen().say(f"After step {bar.n} of {settings.steps}: the same command continues from here.")
        raise
    if options.ranks.number:
        return  # the first process writes
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
    dtype = DTYPES[resolve_precision(options.precision, device)]
    widths = _widths(options.model)
    for token in tokens if widths else ():
        token.check_fits(widths)
    backbone = _backbone(options.model, device, dtype)
    for token in tokens:
        token.check_fits(backbone.widths)
        if warning := other_lineage(token.metadata, backbone.checkpoint):
            Screen().say(quoted(f"'{token.name}': {warning}", _LONGEST_LINE))
    for path in sample(backbone, tokens, placed, sampling, options.out, dtype):
        print(path, flush=True)


def convert(options: argparse.Namespace) -> None:
    """Write a token file in another format, for another tool."""
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
    token = load_learned_token(options.token, name=options.name)
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


def inspect(options: argparse.Namespace) -> None:
    """Print what token files hold."""
    facts = [_facts(path) for path in options.tokens]
    if options.json:
        print(json.dumps(facts if len(facts) > 1 else facts[0], ensure_ascii=False, indent=2))
        return
    for fact in facts:
        metadata = fact.pop("metadata")
        widths, norms = fact.pop("widths"), fact.pop("norms")
        for name, of_one in zip(encoder_names(widths), by_encoder(norms, widths), strict=True):
            fact[f"norms, {name}" if name else "norms"] = " ".join(map(str, of_one))
        fact["width"] = f"{shown_widths(widths)} ({describe_widths(widths)})"
        for key, value in (*fact.items(), *metadata.items()):
            print(f"{quoted(key, 60):<28} {quoted(value, 500)}")


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


def _settings(options: argparse.Namespace) -> InversionSettings:
    """The preset of the model's family with every option that was given in its place."""
    given = {field.name: getattr(options, field.name, None) for field in fields(InversionSettings)}
    presets = presets_of(base_of_widths(_widths(options.model)))
    settings = replace(presets[options.preset], **{key: value for key, value in given.items() if value is not None})
    settings.check()
    if settings.steps > _MOST_STEPS:
        raise ValueError(
            f"--steps is {quoted(settings.steps, 60)}, but at most {_MOST_STEPS} are possible. The published runs use 320, and 400 on "
            "SDXL."
        )
    if settings.batch_size > _MOST_SAMPLES:
        raise ValueError(
            f"--batch-size is {quoted(settings.batch_size, 60)}, but at most {_MOST_SAMPLES} are possible. 8 is usual, and 4 "
            "on SDXL."
        )
    return settings


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
    return read_photos(options.photos, resolution, Screen().say)


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


def _presets_help() -> str:
    steps = ", ".join(
        f"{name}: {preset.steps} steps ({SDXL_PRESETS[name].steps} on SDXL)" for name, preset in PRESETS.items()
    )
    return f"{steps}; default: %(default)s"


def _parser() -> argparse.ArgumentParser:
    name = "crossinit" if Path(sys.argv[0]).stem.startswith("crossinit") else "python -m crossinit_core"
    parser = Parser(prog=name, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        return command

    def add_model(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "model",
            type=Path,
            metavar="MODEL",
            help="SD 1.x, SD 2.x or SDXL: a folder in diffusers' layout, a checkpoint file (.safetensors, .ckpt), or "
            "miniature/weights",
        )
        command.add_argument("--device", help="default: cuda if there is one, else cpu")
        command.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: %(default)s")

    command = add(train)
    add_model(command)
    command.add_argument(
        "--resolution",
        type=int,
        metavar="PX",
        help="a multiple of 64 from 64 to 1024; default: the model's own, and 768 on SDXL, as published",
    )
    command.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="picture files, or folders of them")
    start = command.add_mutually_exclusive_group()
    start.add_argument("--names", type=Path, metavar="FILE", help="names to start from, one a line; default: bundled")
    start.add_argument("--words", metavar="TEXT", help='words to start from, such as "human face"')
    command.add_argument("--vectors", type=int, metavar="K", help="default: 2, or as many as the words have tokens")
    command.add_argument(
        "--states",
        choices=START_STATES,
        default="last",
        help="the output of SDXL's text encoders to start at: of the last layer, as published, or the context, which the UNet "
        "sees; default: %(default)s",
    )
    command.add_argument("--preset", choices=tuple(PRESETS), default="full", help=_presets_help())
    for name in ("steps", "seed", "batch-size", "micro-batch-size"):
        command.add_argument(f"--{name}", type=int, metavar="N", help="in place of the preset's")
    for name in ("learning-rate", "flip-probability"):
        command.add_argument(f"--{name}", type=float, metavar="X", help="in place of the preset's")
    command.add_argument(
        "--regularizer",
        choices=REGULARIZERS,
        help="what holds the vectors at their start: their distance from it, as published for SD, or its square, as for SDXL; "
        "default: the preset's",
    )
    command.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time, same result")
    command.add_argument("--name", help="of the token; default: that of the output file, or of the first photo")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: NAME.safetensors")
    command.add_argument("--resume-folder", type=Path, metavar="FOLDER", help=f"default: {RESUME_FOLDER} next to FILE")

    command = add(generate)
    add_model(command)
    sizes = f"of the pictures: any multiple of 8 from {SIZES[0]} to {SIZES[1]}; default: the model's own"
    command.add_argument("--resolution", type=int, metavar="PX", help=sizes)
    command.add_argument("tokens", type=Path, nargs="+", metavar="TOKEN", help="files of learned tokens")
    text = command.add_mutually_exclusive_group()
    text.add_argument("--prompt", action="append", metavar="TEXT", help=f"{{}} is the person; default: '{PROMPT}'")
    text.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, one a line, UTF-8")
    for name in ("steps", "seed", "count"):
        default = getattr(Sampling, name)
        command.add_argument(f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s")
    guidance = Sampling.guidance
    command.add_argument("--guidance", type=float, default=guidance, metavar="X", help="default: %(default)s")
    command.add_argument("--out", type=Path, default=Path("pictures"), metavar="FOLDER", help="default: %(default)s")

    command = add(convert)
    command.add_argument("token", type=Path, metavar="IN", help="a token file of any tool")
    command.add_argument("out", type=Path, metavar="OUT", help=f"ends in one of {', '.join(SUFFIXES)}")
    choices = "for another tool, one of those below; default: what most tools read of that ending"
    command.add_argument("--format", type=format_name, metavar="NAME", help=choices)
    command.epilog = formats_help()
    command.add_argument("--name", help="default: the one in the file")

    command = add(inspect)
    command.add_argument("tokens", type=Path, nargs="+", metavar="TOKEN", help="token files of any tool")
    command.add_argument("--json", action="store_true", help="for programs")
    train_many.add(commands)
    evaluate.add(commands)
    reproduce.add(commands)
    return parser
