"""The command line: train, generate, convert and inspect, over a Stable Diffusion model in diffusers' layout.

    python -m crossinit_core train MODEL_FOLDER photo.jpg
    python -m crossinit_core generate MODEL_FOLDER photo.safetensors --prompt "a {} person on the beach"

Nothing is downloaded. Wrong inputs end with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from .families import describe_width
from .files import check_can_write, write_atomically
from .initialization import cross_initialize, cross_initialize_words
from .learning.inversion import StepReport, invert
from .learning.settings import PRESETS, InversionSettings
from .photos.folders import Photos, read_photos
from .precision import DTYPES, PRECISIONS, resolve_precision
from .prompt_chunks import encode_prompt
from .prompts import PLACE, fill_places, load_prompts
from .text import check_text, quoted
from .tokens.learned_token import check_token_name, suggest_token_name
from .tokens.metadata import started_from_names, started_from_words
from .tokens.saving import save_or_keep
from .tokens.token_files import SUFFIXES, load_learned_token, save_learned_token

if TYPE_CHECKING:
    from .diffusers_backbone import DiffusersBackbone

PROMPT = "a photo of a {} person"
RESUME_FOLDER = "crossinit-resume"

_LONGEST_LINE = 580
_MOST_SAMPLES = 4096
_SIZES = (64, 4096)
_PUBLISHED_FLAGS = {
    "--pretrained_model_name_or_path": "the model folder comes first, without a flag",
    "--train_data_dir": "the photos come after the model folder, without a flag",
    "--output_dir": "--out FILE",
    "--max_train_steps": "--steps N",
    "--train_batch_size": "--batch-size N",
    "--learning_rate": "--learning-rate X",
    "--placeholder_token": "--name NAME",
    "--initializer_token": "--words TEXT",
    "--num_vectors": "--vectors K",
    "--n_persudo_tokens": "--vectors K",
    "--celeb_path": "--names FILE",
    "--mixed_precision": "--precision fp16",
    "--gradient_checkpointing": "--gradient-checkpointing",
    "--num_inference_steps": "--steps N",
    "--guidance_scale": "--guidance X",
    "--learned_embedding_path": "the token files come after the model folder, without a flag",
    "--prompt_filepath": "--prompts FILE",
    "--save_dir": "--out FOLDER",
}
"""Flags of the published script (Pang et al., train_cross_init.py and test_cross_init.py) and of diffusers'
textual_inversion.py, and what they are here."""


class _Terminated(KeyboardInterrupt):
    """A signal that ends the program: what was learned is kept, as for Ctrl-C. `args[0]` is its number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a wrong input, 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, and
    141 if the reader of the output went away."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    logging.basicConfig(format="%(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _signals_stop():
            _refuse_published_flags(given)
            options = _parser().parse_args(given)
            options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print("Stopped.", file=sys.stderr)
        return 128 + stop.args[0] if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:
        # Python would write what is left once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"crossinit: {quoted(line, _LONGEST_LINE)}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _signals_stop() -> Iterator[None]:
    """SIGTERM, SIGHUP and Windows' Ctrl-Break stop as Ctrl-C does; a second signal ends the program at once."""
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, _: object) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        raise _Terminated(number)

    try:
        for number in (signal.Signals[name] for name in names if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread: another program's server calls us
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_published_flags(arguments: Sequence[str]) -> None:
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in _PUBLISHED_FLAGS:
            raise ValueError(f"{flag} is a flag of the published script. Here it is: {_PUBLISHED_FLAGS[flag]}.")


def train(options: argparse.Namespace) -> None:
    """Learn a face from photos and save it."""
    settings = _settings(options)
    device = _device(options.device)
    name, out = _name_and_file(options)
    check_can_write(out, what="output file")
    if options.names:
        load_celebrity_names(options.names)
    photos = _photos(options, settings)
    backbone = _backbone(options.model, device)
    v0, facts = _start(options, backbone)
    resume_folder = options.resume_folder or out.parent / RESUME_FOLDER
    bar = tqdm(total=settings.steps, unit="step", dynamic_ncols=True)

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
            )
    except KeyboardInterrupt as stop:
        if bar.n and getattr(stop, "__notes__", None):  # nothing is promised if no resume file could be written
            print(f"After step {bar.n} of {settings.steps}: the same command continues from here.", file=sys.stderr)
        raise
    home = os.path.expanduser("~")  # noqa: PTH111 - unlike Path.home, it never raises
    save_or_keep(result.token, out, [resume_folder.absolute(), Path(home), Path(tempfile.gettempdir())])
    if result.resumed_from:
        print(f"{result.resumed_from} of {settings.steps} steps came from an earlier run in {resume_folder}")
    print(f"{out}: {len(v0)} vectors, {settings.steps} steps, last loss {result.losses[-1]:.4f}")


def generate(options: argparse.Namespace) -> None:
    """Sample pictures of learned people: 50 steps of DPM-Solver++ at guidance 7.5, as published.

    Each picture has a random generator of its own, so it does not depend on the other pictures.
    """
    _check_sampling(options)
    device = _device(options.device)
    tokens = [load_learned_token(path) for path in options.tokens]
    prompts = load_prompts(options.prompts) if options.prompts else tuple(options.prompt or [PROMPT])
    placed = [_pieces(prompt, [token.name for token in tokens]) for prompt in prompts]
    _say_absent_people([token.name for token in tokens], placed)
    check_can_write(options.out / "picture.png", what="picture")
    dtype = DTYPES[resolve_precision(options.precision, device)]
    backbone = _backbone(options.model, device, dtype)
    for token in tokens:
        token.check_fits(backbone.widths[0])
    pipeline = _pipeline(backbone)
    nothing = encode_prompt(backbone, [])
    for number, (prompt, pieces) in enumerate(zip(prompts, placed, strict=True), start=1):
        context = encode_prompt(
            backbone, [piece if isinstance(piece, str) else tokens[piece].vectors for piece in pieces]
        )
        # Attention over the same tokens again gives the same as once: ComfyUI makes both as long in this way, too.
        negative = nothing.repeat(1, context.shape[1] // nothing.shape[1], 1)
        for seed in range(options.seed, options.seed + options.count):
            picture = pipeline(
                prompt_embeds=context.to(device, dtype),
                negative_prompt_embeds=negative.to(device, dtype),
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                generator=torch.Generator().manual_seed(seed),
                height=options.resolution,
                width=options.resolution,
            ).images[0]
            path = _free(options.out / f"{number:03d}-{suggest_token_name(PLACE.sub('', prompt))[:80]}-{seed}.png")
            content = io.BytesIO()
            picture.save(content, format="PNG")
            write_atomically(path, content.getvalue())
            print(path, flush=True)


def convert(options: argparse.Namespace) -> None:
    """Write a token file in the format of another suffix."""
    if options.out.suffix not in SUFFIXES:
        raise ValueError(
            f"OUT is '{quoted(options.out, 200)}', but the file name must end in one of {', '.join(SUFFIXES)}."
        )
    check_can_write(options.out, what="output file")
    token = load_learned_token(options.token, name=options.name)
    lost = " (.bin keeps nothing of their origin)" if options.out.suffix == ".bin" and token.metadata else ""
    print(f"{save_learned_token(token, options.out)}: '{token.name}', {len(token.vectors)} vectors{lost}")


def inspect(options: argparse.Namespace) -> None:
    """Print what token files hold."""
    facts = [_facts(path) for path in options.tokens]
    if options.json:
        print(json.dumps(facts if len(facts) > 1 else facts[0], ensure_ascii=False, indent=2))
        return
    for fact in facts:
        shown = {**fact, **fact["metadata"], "norms": " ".join(map(str, fact["norms"]))}
        shown["width"] = f"{fact['width']} ({describe_width(fact['width'])})"
        del shown["metadata"]
        for key, value in shown.items():
            print(f"{quoted(key, 60):<28} {quoted(value, 500)}")


def _facts(path: Path) -> dict[str, Any]:
    """What a token file holds."""
    token = load_learned_token(path)
    return {
        "file": str(path),
        "name": token.name,
        "vectors": len(token.vectors),
        "width": token.width,
        "base": token.base,
        "norms": [round(norm, 4) for norm in token.vectors.norm(dim=1).tolist()],
        "metadata": dict(sorted(token.metadata.items())),
    }


def _settings(options: argparse.Namespace) -> InversionSettings:
    """The preset with every option that was given in its place."""
    given = {field.name: getattr(options, field.name, None) for field in fields(InversionSettings)}
    settings = replace(PRESETS[options.preset], **{key: value for key, value in given.items() if value is not None})
    settings.check()
    if settings.batch_size > _MOST_SAMPLES:
        raise ValueError(
            f"--batch-size is {settings.batch_size}, but at most {_MOST_SAMPLES} are possible. 8 is usual."
        )
    return settings


def _name_and_file(options: argparse.Namespace) -> tuple[str, Path]:
    """The token's name and the file to write: each follows from the other, both from the first photo.

    Raises ValueError for a name or a suffix that a token cannot have.
    """
    named_after = options.out.stem if options.out else options.photos[0].resolve().stem
    name = options.name or suggest_token_name(named_after)
    out = options.out or Path(f"{check_token_name(name)}.safetensors")
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out is '{out}', but the file name must end in one of {', '.join(SUFFIXES)}.")
    return name, out


def _start(options: argparse.Namespace, backbone: Backbone) -> tuple[Tensor, dict[str, str]]:
    """v0 (K, d), and what the token's file says about it."""
    if options.words is not None:
        v0 = cross_initialize_words(backbone, options.words, options.vectors)
        return v0, started_from_words("cross initialization", options.words)
    names = load_celebrity_names(options.names)
    v0 = cross_initialize(backbone, names.names, 2 if options.vectors is None else options.vectors)
    return v0, started_from_names("cross initialization", names)


def _photos(options: argparse.Namespace, settings: InversionSettings) -> Photos:
    """All photos and masks among files and folders; a line on stderr for every file that is not used."""
    from .diffusers_backbone import resolution_of

    resolution = settings.resolution or resolution_of(options.model)
    return read_photos(options.photos, resolution, lambda line: print(line, file=sys.stderr))


def _check_sampling(options: argparse.Namespace) -> None:
    """Raises ValueError for a number that no picture can be made with."""
    if min(options.steps, options.count) < 1 or not 0 <= options.seed < 2**63:
        raise ValueError("--steps and --count must be at least 1, and --seed from 0 to 2^63 - 1.")
    if options.steps > 1000:
        raise ValueError(f"--steps is {options.steps}, but the noise schedule has 1000 steps. 50 is usual.")
    if not (math.isfinite(options.guidance) and 0 <= options.guidance <= 1000):
        raise ValueError(f"--guidance is {options.guidance}, but a number from 0 to 1000 is expected. 7.5 is usual.")
    size, (low, high) = options.resolution, _SIZES
    if size is not None and (not low <= size <= high or size % 8):
        raise ValueError(
            f"--resolution is {size}, but a multiple of 8 from {low} to {high} is expected, in pixels. Use 512 or 768."
        )


def _pieces(prompt: str, names: Sequence[str]) -> list[str | int]:
    """A prompt as texts and numbers of people, in its order. Raises as `fill_places` does."""
    check_text(prompt, "The prompt")
    people: list[int] = []

    def write(index: int, _: object) -> str:
        people.append(index)
        return "\0"

    texts: list[str | int] = [*fill_places(prompt, names, write).split("\0")]
    for position, person in enumerate(people):
        texts.insert(2 * position + 1, person)
    return texts


def _say_absent_people(names: Sequence[str], placed: Sequence[list[str | int]]) -> None:
    """A line for each prompt that does not place every person. Raises ValueError for a person whom no prompt places."""
    for index, name in enumerate(names):
        if not any(index in pieces for pieces in placed):
            raise ValueError(
                f"No prompt places '{quoted(name)}'. Write {{{quoted(name)}}} or {{{index + 1}}} where the person goes, or "
                "leave the token out."
            )
    for number, pieces in enumerate(placed, start=1):
        absent = [quoted(name, 60) for index, name in enumerate(names) if index not in pieces]
        if absent:
            print(quoted(f"Prompt {number} does not place: {', '.join(absent)}.", _LONGEST_LINE), file=sys.stderr)


def _free(path: Path) -> Path:
    """The path, or with a number at its end if there is a file already: pictures of earlier runs stay."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _backbone(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> DiffusersBackbone:
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ImportError(f"This command needs diffusers ({error}). Install it: pip install diffusers") from error
    from .diffusers_backbone import DiffusersBackbone

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return DiffusersBackbone.from_pretrained(folder, device=device, dtype=dtype)


def _pipeline(backbone: DiffusersBackbone) -> Any:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the age of the model's own files
        return StableDiffusionPipeline(
            vae=backbone.vae,
            text_encoder=backbone.text_encoder,
            tokenizer=backbone.tokenizer,
            unet=backbone.unet,
            scheduler=DPMSolverMultistepScheduler.from_config(backbone.scheduler_config),  # pyright: ignore[reportArgumentType]
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )


def _device(name: str | None) -> torch.device:
    gpu = torch.cuda.is_available()
    wanted = name or ("cuda" if gpu else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise ValueError(
            f"--device is '{quoted(wanted, 60)}', but cpu, cuda, cuda:N, mps or xpu is expected. Leave it out to use the GPU "
            "if there is one."
        )
    module = getattr(torch, device.type)
    if device.type != "cpu" and not module.is_available():
        raise ValueError(f"--device is '{wanted}', but torch finds no such GPU here. Use --device cpu.")
    count = module.device_count()
    if device.index is not None and device.index >= count:
        raise ValueError(
            f"--device is '{wanted}', but torch finds {count} of them here, counted from 0. Use --device {device.type}."
        )
    return device


def _parser() -> argparse.ArgumentParser:
    shape: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m crossinit_core", description=__doc__, **shape)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(run.__name__, help=text, description=text, **shape)
        command.set_defaults(run=run)
        return command

    def add_model(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "model",
            type=Path,
            metavar="MODEL_FOLDER",
            help="Stable Diffusion 1.x or 2.x in diffusers' layout, or miniature/weights",
        )
        command.add_argument("--device", help="default: cuda if there is one, else cpu")
        command.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: %(default)s")
        command.add_argument("--resolution", type=int, metavar="PX", help="default: the model's own")

    command = add(train)
    add_model(command)
    command.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="picture files, or folders of them")
    start = command.add_mutually_exclusive_group()
    start.add_argument("--names", type=Path, metavar="FILE", help="names to start from, one a line; default: bundled")
    start.add_argument("--words", metavar="TEXT", help='words to start from, such as "human face"')
    command.add_argument("--vectors", type=int, metavar="K", help="default: 2, or as many as the words have tokens")
    command.add_argument("--preset", choices=tuple(PRESETS), default="full", help="320 steps or 25 of them")
    for name in ("steps", "seed", "batch-size", "micro-batch-size"):
        command.add_argument(f"--{name}", type=int, metavar="N", help="in place of the preset's")
    command.add_argument("--learning-rate", type=float, metavar="X", help="in place of the preset's")
    command.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time, same result")
    command.add_argument("--name", help="of the token; default: that of the output file, or of the first photo")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: NAME.safetensors")
    command.add_argument("--resume-folder", type=Path, metavar="FOLDER", help=f"default: {RESUME_FOLDER} next to FILE")

    command = add(generate)
    add_model(command)
    command.add_argument("tokens", type=Path, nargs="+", metavar="TOKEN", help="files of learned tokens")
    text = command.add_mutually_exclusive_group()
    text.add_argument("--prompt", action="append", metavar="TEXT", help=f"{{}} is the person; default: '{PROMPT}'")
    text.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, one a line, UTF-8")
    for name, default in (("steps", 50), ("seed", 0), ("count", 1)):
        command.add_argument(f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s")
    command.add_argument("--guidance", type=float, default=7.5, metavar="X", help="default: %(default)s")
    command.add_argument("--out", type=Path, default=Path("pictures"), metavar="FOLDER", help="default: %(default)s")

    command = add(convert)
    command.add_argument("token", type=Path, metavar="IN", help="a token file of any tool")
    command.add_argument("out", type=Path, metavar="OUT", help=f"ends in one of {', '.join(SUFFIXES)}")
    command.add_argument("--name", help="default: the one in the file")

    command = add(inspect)
    command.add_argument("tokens", type=Path, nargs="+", metavar="TOKEN", help="token files of any tool")
    command.add_argument("--json", action="store_true", help="for programs")
    return parser
