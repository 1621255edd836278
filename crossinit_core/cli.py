"""The command line: learn people on a Stable Diffusion model (SD 1.x, SD 2.x, SDXL), make pictures, convert and mix tokens.

    crossinit train MODEL photo.jpg
    crossinit generate MODEL photo.safetensors --prompt "a {} person on the beach"

`python -m crossinit_core` is the same. MODEL is a folder in diffusers' layout or a checkpoint file. Nothing is downloaded.
Wrong inputs end with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError

from .commands import evaluation_options as judged
from .commands import options as takes
from .commands import train_many
from .commands.arguments import Parser
from .commands.published_flags import refuse_published_flags
from .commands.signals import Screen, Terminated, leave_closed_output, signals_stop
from .learning.settings import PRESETS
from .text import quoted
from .version import __version__

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
            options = _parser(given).parse_args(given)
            _run(options)
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


def _run(options: argparse.Namespace) -> None:
    """Alone, or as one of the processes that torchrun started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        options.run(options)
        return
    from .commands.processes import processes

    with processes(options):
        options.run(options)


# What a command does is imported when it runs: PyTorch takes a second, which nobody who asks for --help should wait.


def train(options: argparse.Namespace) -> None:
    from .commands.train import train

    train(options)


def generate(options: argparse.Namespace) -> None:
    from .commands.generate import generate

    generate(options)


def convert(options: argparse.Namespace) -> None:
    from .commands.tokens import convert

    convert(options)


def blend(options: argparse.Namespace) -> None:
    from .commands.tokens import blend

    blend(options)


def rescale(options: argparse.Namespace) -> None:
    from .commands.tokens import rescale

    rescale(options)


def report(options: argparse.Namespace) -> None:
    from .commands.show import report

    report(options)


def inspect(options: argparse.Namespace) -> None:
    from .commands.show import inspect

    inspect(options)


def evaluate(options: argparse.Namespace) -> None:
    from .commands.evaluate import evaluate

    evaluate(options)


def reproduce(options: argparse.Namespace) -> None:
    from .commands.reproduce import reproduce

    reproduce(options)


_Run = Callable[[argparse.Namespace], None]
_AddOptions = Callable[[argparse.ArgumentParser], None]
_COMMANDS: dict[str, tuple[str, _AddOptions, _Run]] = {
    "train": (
        "Learn a face from photos and save it. The preset is that of the model's family, and given options replace its values.",
        takes.of_train,
        train,
    ),
    "train-many": (train_many.TEXT, train_many.add_options, train_many.train_many),
    "generate": (
        "Sample pictures of learned people: 50 steps of DPM-Solver++ at guidance 7.5, as published.",
        takes.of_generate,
        generate,
    ),
    "convert": ("Write a token file in another format, for another tool.", takes.of_convert, convert),
    "blend": ("Mix two tokens into one, somebody between two people.", takes.of_blend, blend),
    "rescale": (
        "Give a token's vectors the length of their start, so that they leave more room for the rest of a prompt.",
        takes.of_rescale,
        rescale,
    ),
    "report": (
        "Print how tokens were learned, as far as their files say it, and draw their charts.",
        takes.of_report,
        report,
    ),
    "inspect": ("Print what token files hold.", takes.of_inspect, inspect),
    "evaluate": (
        "Measure how alike generated pictures are to photos, and how well they obey their prompts.",
        judged.of_evaluate,
        evaluate,
    ),
    "reproduce": (
        "Learn everybody of a folder by several methods, draw them, and write the publication's table.",
        judged.of_reproduce,
        reproduce,
    ),
}


def _parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the commands; of all but the one that is given, only the name and what it is for."""
    name = "crossinit" if Path(sys.argv[0]).stem.startswith("crossinit") else "python -m crossinit_core"
    parser = Parser(prog=name, description=__doc__)
    parser.add_argument("--version", action="version", version=f"crossinit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    chosen = next((argument for argument in given if not argument.startswith("-")), None)
    for command_name, (text, add_options, run) in _COMMANDS.items():
        command = commands.add_parser(command_name, help=text, description=text)
        command.set_defaults(run=run)
        if command_name == chosen:
            add_options(command)
    return parser
