"""The command line: train, generate, convert and inspect, over a Stable Diffusion model in diffusers' layout.

    python -m crossinit_core train MODEL_FOLDER photo.jpg
    python -m crossinit_core generate MODEL_FOLDER photo.safetensors --prompt "a {} person on the beach"

Nothing is downloaded. Wrong inputs end with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
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
from .families import describe_width
from .initialization import cross_initialize, cross_initialize_words
from .learning.inversion import StepReport, invert
from .learning.settings import PRESETS, InversionSettings
from .photos.folders import Photos, read_photos
from .precision import DTYPES, PRECISIONS, resolve_precision
from .prompts import PLACE, fill_places, load_prompts
from .tokens.learned_token import check_token_name, suggest_token_name
from .tokens.metadata import started_from_names, started_from_words
from .tokens.token_files import SUFFIXES, load_learned_token, save_learned_token

if TYPE_CHECKING:
    from .diffusers_backbone import DiffusersBackbone

PROMPT = "a photo of a {} person"
RESUME_FOLDER = "crossinit-resume"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a wrong input, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    logging.basicConfig(format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, ArithmeticError, RuntimeError, SafetensorError) as error:
        print(f"crossinit: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def train(options: argparse.Namespace) -> None:
    """Learn a face from photos and save it."""
    settings = _settings(options)
    photos = _photos(options, settings)
    name, out = _name_and_file(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    backbone = _backbone(options.model, _device(options.device))
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
    save_learned_token(result.token, out)
    if result.resumed_from:
        print(f"{result.resumed_from} of {settings.steps} steps came from an earlier run in {resume_folder}")
    print(f"{out}: {len(v0)} vectors, {settings.steps} steps, last loss {result.losses[-1]:.4f}")


def generate(options: argparse.Namespace) -> None:
    """Sample pictures of learned people: 50 steps of DPM-Solver++ at guidance 7.5, as published.

    Each picture has a random generator of its own, so it does not depend on the other pictures.
    """
    if min(options.steps, options.count) < 1 or not 0 <= options.seed < 2**63:
        raise ValueError("--steps and --count must be at least 1, and --seed from 0 to 2^63 - 1.")
    tokens = [load_learned_token(path) for path in options.tokens]
    prompts = load_prompts(options.prompts) if options.prompts else tuple(options.prompt or [PROMPT])
    names = [token.name for token in tokens]
    filled = [fill_places(prompt, names, lambda index, _: _placeholder(index)) for prompt in prompts]
    device = _device(options.device)
    pipeline = _pipeline(options.model, device, DTYPES[resolve_precision(options.precision, device)])
    for number, token in enumerate(tokens):
        token.check_fits(pipeline.text_encoder.config.hidden_size)
        pipeline.load_textual_inversion({_placeholder(number): token.vectors})
    options.out.mkdir(parents=True, exist_ok=True)
    for number, (prompt, text) in enumerate(zip(prompts, filled, strict=True), start=1):
        for seed in range(options.seed, options.seed + options.count):
            picture = pipeline(
                text,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                generator=torch.Generator().manual_seed(seed),
                height=options.resolution,
                width=options.resolution,
            ).images[0]
            path = options.out / f"{number:03d}-{suggest_token_name(PLACE.sub('', prompt))[:80]}-{seed}.png"
            picture.save(path)
            print(path)


def convert(options: argparse.Namespace) -> None:
    """Write a token file in the format of another suffix."""
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
            print(f"{key:<28} {value}")


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


def _placeholder(number: int) -> str:
    # Not the token's name: tokenizers fold case, and a name may be a word of the prompt.
    return f"<crossinit-{number + 1}>"


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


def _pipeline(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    backbone = _backbone(folder, device, dtype)
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the age of the model's own files
        return StableDiffusionPipeline(
            vae=backbone.vae,
            text_encoder=backbone.text_encoder,
            tokenizer=backbone.tokenizer,
            unet=backbone.unet,
            scheduler=DPMSolverMultistepScheduler.from_config(backbone.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _device(name: str | None) -> torch.device:
    gpu = torch.cuda.is_available()
    device = torch.device(name or ("cuda" if gpu else "cpu"))
    if device.type == "cuda" and not gpu:
        raise ValueError(f"--device is '{name}', but torch finds no such GPU here. Use --device cpu.")
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
