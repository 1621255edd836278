"""What `evaluate` and `reproduce` take: their arguments and options, with their help. Nothing here imports PyTorch."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from .arguments import add_model_option
from .evaluate import CHART, FACTS, PAGE
from .reproduction_plan import METHODS, PLAIN_STEPS, PUBLISHED


def of_evaluate(command: ArgumentParser) -> None:
    command.add_argument(
        "pictures",
        type=Path,
        metavar="PICTURES",
        help="the generated pictures of a person, or a folder with a folder of them for each person",
    )
    command.add_argument(
        "--photos",
        type=Path,
        required=True,
        metavar="PATH",
        help="the person's photos: a file or a folder; of several people a folder with a file or a folder for each, called as "
        "those in PICTURES",
    )
    _add_judges(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"writes {PAGE}, {FACTS} and {CHART} there; default: nothing is written",
    )
    command.add_argument("--json", action="store_true", help="for programs")


def of_reproduce(command: ArgumentParser) -> None:
    command.add_argument(
        "--photos",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a photo of each person, or a folder of them for each",
    )
    add_model_option(command)
    command.add_argument(
        "--out", type=Path, default=Path("reproduction"), metavar="FOLDER", help="default: %(default)s"
    )
    command.add_argument(
        "--methods", default=",".join(PUBLISHED), metavar="LIST", help=f"of {', '.join(METHODS)}; default: %(default)s"
    )
    command.add_argument(
        "--words", default="human face", help="where words, plain and direction start; default: %(default)s"
    )
    command.add_argument(
        "--preset", default="full", choices=("full", "fast", "fast-published"), help="default: %(default)s"
    )
    command.add_argument("--steps", type=int, metavar="N", help="of learning; default: those of the preset")
    command.add_argument(
        "--plain-steps",
        type=int,
        default=PLAIN_STEPS,
        metavar="N",
        help="of plain textual inversion; default: %(default)s",
    )
    command.add_argument(
        "--count", type=int, default=1, metavar="N", help="pictures of each prompt; default: %(default)s"
    )
    command.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="pictures that are made at once; default: %(default)s"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    command.add_argument(
        "--sampling-steps", type=int, default=50, metavar="N", help="of a picture; default: %(default)s"
    )
    command.add_argument("--guidance", type=float, default=7.5, metavar="X", help="default: %(default)s")
    command.add_argument("--device", help="default: cuda if there is one, else cpu")
    command.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16; default: %(default)s")
    _add_judges(command)


def _add_judges(command: ArgumentParser) -> None:
    """Who measures, and by which prompts."""
    command.add_argument(
        "--recognizer",
        default="dlib",
        metavar="NAME",
        help="dlib, an .onnx file of ArcFace or AdaFace, or MODULE:FUNCTION of your own; default: %(default)s",
    )
    command.add_argument(
        "--clip",
        metavar="FOLDER",
        help="CLIP for the prompt similarity, in the layout of transformers: a copy of openai/clip-vit-base-patch32; or "
        "MODULE:FUNCTION of your own; default: no prompt similarity",
    )
    command.add_argument("--clip-device", metavar="DEVICE", help="default: cuda if there is one, else cpu")
    command.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts, one a line, UTF-8; default: the publication's 20"
    )
