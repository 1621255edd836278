"""Arguments as people write them: parsed and checked, each wrong one said in a line."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..text import quoted

if TYPE_CHECKING:
    import torch

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_LONGEST_WORD = 80
_LONGEST_ERROR = 420


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line of less than 600 characters, whatever was given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        words = re.compile(rf"\S{{{_LONGEST_WORD},}}")
        short = words.sub(lambda match: quoted(match[0], _LONGEST_WORD), message)
        self.exit(2, f"{self.prog}: {quoted(short, _LONGEST_ERROR)} (--help lists what is possible)\n")


def add_model_option(command: argparse.ArgumentParser) -> None:
    """`--model`, for commands whose first argument is something else."""
    command.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="MODEL",
        help="a folder in diffusers' layout, a checkpoint file, or miniature/weights",
    )


def local_path(text: str) -> Path:
    """A path of this machine; nothing is downloaded."""
    shown = quoted(text, 100)
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, but a path was expected")
    if match := _ADDRESS.match(text):
        if match[0].lower() == "file://":
            raise argparse.ArgumentTypeError(f"'{shown}' is an address. Give the path itself, without file://")
        raise argparse.ArgumentTypeError(
            f"'{shown}' is an address, and nothing is downloaded here. Download it first, then give the path of what you have"
        )
    return Path(text)


def format_name(text: str) -> str:
    """The name of a format in `layouts.FORMATS`, from the same in any case and with dashes."""
    from ..tokens.layouts import FORMATS

    plain = " ".join(text.replace("-", " ").split()).casefold()
    found = next((name for name in FORMATS if name.casefold() == plain), None)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{quoted(text, 60)}' is none of {', '.join(FORMATS)}")
    return found


def formats_help() -> str:
    """The formats and who reads them, for the end of a help text."""
    from ..tokens.layouts import FORMATS

    lines = [f"  {name.replace(' ', '-'):<30} {', '.join(known.readers)}" for name, known in FORMATS.items()]
    of_sdxl = {name: ", ".join(known.sdxl_readers) for name, known in FORMATS.items() if known.sdxl_readers}
    lines.append(f"of SDXL, in {', '.join(of_sdxl)} alone: {of_sdxl['safetensors']}")
    return "\n".join(["formats, and who reads all vectors of them:", *lines])


def chosen_device(name: str | None) -> torch.device:
    """The device of a name; the GPU, if there is one, for None. Raises ValueError if there is none of that name."""
    import torch  # not above: whoever asks for --help should not wait for it

    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    shown = quoted(wanted, 60)
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise ValueError(
            f"--device is '{shown}', but cpu, cuda, cuda:N, mps or xpu is expected. Leave it out to use the GPU if there is "
            "one."
        )
    module = getattr(torch, device.type)
    if device.type != "cpu" and not module.is_available():
        raise ValueError(f"--device is '{shown}', but torch finds no such GPU here. Use --device cpu.")
    count = module.device_count()
    if device.index is not None and device.index >= count:
        raise ValueError(
            f"--device is '{shown}', but torch finds {count} of them here, counted from 0. Use --device {device.type}."
        )
    return device
