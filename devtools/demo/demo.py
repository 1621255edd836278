"""The main job through a live ComfyUI server: learn a face from one picture, save it, make pictures with it.

Without a checkpoint it learns a drawn person on the miniature model that comes with the pack, and leaves a contact sheet.
With a checkpoint it learns a photo.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crossinit_core.files import check_can_write

from ..comfyui.answers import Interrupted, PromptError
from ..comfyui.links import PACK, prepare_base
from ..comfyui.server import ServerError
from . import miniature as demo_miniature
from . import photo as demo_photo

NEED = 50 * 2**20
"""Bytes that should be free in each place that the demo writes to."""


def main() -> int:
    """Run the demo; the exit code is 0 if everything was made."""
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="the server's own folder for models and pictures")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where the results go")
    parser.add_argument("--person", type=int, help="which drawn person to learn: a number from 0")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint of SDXL, SD 2.x or SD 1.x, to learn a photo")
    parser.add_argument("--photo", type=Path, help="a photo of a person, with --checkpoint")
    parser.add_argument(
        "--preset",
        choices=("swift", "best", "fast", "full"),
        help="of Learn Face; default: swift, and fast with --checkpoint",
    )
    parser.add_argument("--prompt", help="{} is the person, with --checkpoint")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (PromptError, ServerError, ValueError) as error:
        print(f"\nThe demo stopped: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename2 or error.filename or arguments.out
        print(
            f"\nThe demo stopped: {place}: {error.strerror or error}. What was learned is kept: free some space, or give "
            "another --out, and run it again.",
            file=sys.stderr,
        )
        return 1
    except (KeyboardInterrupt, Interrupted):
        print("\nCancelled. What was learned is kept: the next demo goes on from there.", file=sys.stderr)
        return 130
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Set the stage, and run the demo that the options ask for."""
    if arguments.checkpoint is None:
        for name in ("photo", "prompt"):
            if getattr(arguments, name) is not None:
                raise ValueError(
                    f"--{name} needs --checkpoint FILE: the miniature model knows drawn people only. Without both, the "
                    "demo learns one of these."
                )
    elif arguments.person is not None:
        raise ValueError("--person is for the miniature model; with --checkpoint, give --photo FILE.")
    # Before anything is learned. Everything that is made takes a few MB; ComfyUI's own copies lie below the base.
    for place, what in ((arguments.out, "demo's output"), (arguments.base / "output", "ComfyUI's output")):
        check_can_write(place / "picture.png", NEED, what)
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.comfyui, arguments.base = arguments.comfyui.resolve(), arguments.base.resolve()
    prepare_base(arguments.base, PACK)
    (demo_photo if arguments.checkpoint else demo_miniature).run(arguments)


if __name__ == "__main__":
    sys.exit(main())
