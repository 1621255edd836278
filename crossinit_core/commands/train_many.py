"""`train-many` on the command line: its options. Nothing heavy is imported before the command is chosen."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_model_option

TEXT = "Learn many people: a folder or a list of them. The same command goes on after a stop."


def train_many(options: argparse.Namespace) -> None:
    """See `many_people.run`."""
    from . import many_people

    many_people.run(options)


def add_options(command: argparse.ArgumentParser) -> None:
    """All arguments and options of the command."""
    from ..choices import PRECISIONS, START_STATES
    from ..learning.settings import METHODS, PRESETS, REGULARIZERS, SCHEDULES
    from ..many.people import OPTIONS

    command.add_argument(
        "people",
        type=Path,
        metavar="PEOPLE",
        help="a folder with a folder of photos for each person, or a list (.csv, .jsonl) with the columns name and photos; "
        f"others are options of a person: {', '.join(sorted(OPTIONS))}",
    )
    add_model_option(command)
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for tokens, failures and the summary page"
    )
    command.add_argument("--shard", metavar="I/N", help="only part I of N, such as 1/8")
    command.add_argument("--workers", type=int, metavar="N", help="processes; default: one for each GPU, or one")
    command.add_argument(
        "--people-per-gpu", type=int, default=1, metavar="N", help="side by side on one GPU; default: %(default)s"
    )
    command.add_argument(
        "--ray", action="store_true", help="work on Ray: on the cluster that RAY_ADDRESS names, or on this computer"
    )
    command.add_argument("--replace", action="store_true", help="learn people anew whose token has other settings")
    command.add_argument("--device", help="default: cuda if there is one, else cpu")
    command.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: %(default)s")
    command.add_argument(
        "--face",
        nargs="?",
        type=int,
        const=0,
        metavar="N",
        help="frame each photo around its face, which must be the only one, or around the N-th largest",
    )
    start = command.add_mutually_exclusive_group()
    start.add_argument("--names", type=Path, metavar="FILE", help="names to start from, one a line; default: bundled")
    start.add_argument("--words", metavar="TEXT", help='words to start from, such as "human face"')
    command.add_argument("--vectors", type=int, metavar="K", help="default: 2, or as many as the words have tokens")
    command.add_argument("--states", choices=START_STATES, help="as for train")
    command.add_argument("--preset", choices=tuple(PRESETS), help="default: full")
    for name in ("steps", "seed", "batch-size", "micro-batch-size", "resolution"):
        command.add_argument(f"--{name}", type=int, metavar="N", help="in place of the preset's")
    for name in ("learning-rate", "regularization", "weight-decay", "flip-probability", "prior"):
        command.add_argument(f"--{name}", type=float, metavar="X", help="in place of the preset's")
    command.add_argument("--regularizer", choices=REGULARIZERS, help="as for train")
    command.add_argument("--method", choices=METHODS, help="as for train")
    command.add_argument("--schedule", choices=SCHEDULES, help="as for train")
