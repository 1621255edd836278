"""The option `--world NAME=FOLDER` of programs that measure in several drawn worlds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from miniature.training import pack


def add_world_option(parser: argparse.ArgumentParser) -> None:
    """`--world`, which may be given several times."""
    parser.add_argument(
        "--world", type=world_of, action="append", metavar="NAME=FOLDER", help="a miniature; several times"
    )


def world_of(text: str) -> tuple[str, Path]:
    """`drawn=FOLDER` as a pair. Raises ArgumentTypeError for anything else."""
    name, equals, folder = text.partition("=")
    if not (name.isidentifier() and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER, such as drawn=miniature/weights.")
    return name, Path(folder)


def worlds(given: Sequence[tuple[str, Path]] | None) -> dict[str, Path]:
    """The folders by their names; the shipped world, *drawn*, if none is given."""
    return dict(given or [("drawn", pack.WEIGHTS)])


def check_worlds(found: Mapping[str, Path]) -> None:
    """Raises ValueError for a folder that holds no miniature."""
    for name, weights in found.items():
        if not (weights / "config.json").is_file():
            raise ValueError(f"--world {name}={weights} has no config.json. Give the folder of a miniature.")
