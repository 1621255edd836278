"""Train the miniature from nothing but the painter and a seed.

    python -m miniature.training.train --minutes 22 --out FOLDER --device cuda

Phases share the minutes: the first judge (`features`), the VAE, both judges, and the text encoder with the UNet
(`diffusion`); then the weights are written to FOLDER/model and judged. Meanwhile other processes paint the pictures.
`--world contrast` trains the text encoder before, in a phase of its own, by contrast with pictures alone (`contrast`), and the
UNet on top of it.

`--resume` continues from FOLDER/checkpoint.pt; minutes already used count. Where one command may not last so long, call it
with `--time-limit` several times: it ends in time (exit code 3), keeps the painted pictures, and goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from . import phases
from .data import HELD_OUT_SHARDS, Painters, Painting
from .model import parameter_count, table
from .recipes import RECIPES
from .trainer import OutOfTimeError, Trainer

PHASES = list(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe.phases if name != "end"))
JUDGING = 60.0
"""Seconds that must be left to a command when it begins to write and judge."""


def train(trainer: Trainer) -> None:
    """The phases that are left, one after the other; then the weights are written and judged."""
    settings, names = trainer.settings, [name for name in trainer.recipe.phases if name != "end"]
    shards = HELD_OUT_SHARDS + math.ceil(trainer.pool.capacity / trainer.mixture.shard_size)
    counts = {name: parameter_count(part) for name, part in trainer.parts.modules().items()}
    counts["token table"] = table(trainer.parts.text_encoder).numel()
    counts |= {f"judge {i}": parameter_count(judge) for i, judge in enumerate(trainer.judges)}
    trainer.log(parameters=counts)
    if settings.compile:
        torch._dynamo.config.suppress_errors = True
        for module in (trainer.parts.unet, trainer.parts.vae.encoder, trainer.parts.vae.decoder):
            module.compile()
    learn: dict[str, Callable[[], None]] = {
        "features": lambda: phases.train_judges(trainer, trainer.judges[:1]),
        "vae": lambda: phases.train_vae(trainer),
        "judges": lambda: phases.train_judges(trainer, trainer.judges),
        "contrast": lambda: phases.train_contrast(trainer),
        "diffusion": lambda: phases.train_diffusion(trainer),
    }
    order = Painting(trainer.out / "shards", settings.workers, shards, trainer.mixture, trainer.keeps_pictures)
    with Painters(order) as painters:
        trainer.painters = painters
        phases.wait_for_pictures(trainer)
        first = len(names) if trainer.phase == "end" else names.index(trainer.phase)
        for name, following in zip(names[first:], [*names[first + 1 :], "end"], strict=False):
            learn[name]()
            trainer.go_on_to(following)
            if following == "diffusion":
                phases.keep_so_far(trainer)
            if name == settings.stop_after:
                return
    trainer.check_time(0.0 if settings.toy else JUDGING)
    phases.write_and_judge(trainer)
    shutil.rmtree(order.folder)


def budget(text: str) -> tuple[str, float]:
    """`vae=5` as ("vae", 5.0). Raises ArgumentTypeError for an unknown phase or no minutes."""
    name, _, minutes = text.partition("=")
    try:
        value = float(minutes)
    except ValueError:
        value = math.nan
    if name not in (*PHASES, "end") or not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PHASE=MINUTES with a phase of {', '.join(PHASES)}, end and minutes above 0, such as vae=5."
        )
    return name, value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=22.0, help="wall-clock time of the whole run")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=list(RECIPES), default="joint", help="how the text encoder is trained")
    parser.add_argument(
        "--budget",
        nargs="+",
        type=budget,
        default=[],
        metavar="PHASE=MINUTES",
        help="other minutes for some phases; shares, if all together do not make --minutes",
    )
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop in time; call again to go on")
    parser.add_argument("--start", help="begin behind the judges, with the VAE and judges of a shipped folder")
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="painting processes")
    parser.add_argument("--pool", type=int, default=500_000, help="pictures to paint")
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--virtual", type=float, help="share of people known by a map alone")
    parser.add_argument("--made-up", type=int, help="names beside the bundled ones")
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--contrast-batch", type=int, default=1024)
    parser.add_argument("--contrast-lr", type=float, default=1e-3)
    parser.add_argument(
        "--contrast-decay", type=float, default=0.2, help="weight decay, of token rows too; CLIP's is 0.2"
    )
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--judge-batch", type=int, default=512)
    parser.add_argument("--max-steps", type=int, default=0, help="end every phase after so many steps")
    parser.add_argument("--stop-after", choices=PHASES, help="end the run after this phase")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    parser.add_argument("--log-seconds", type=float, default=3.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the VAE and the UNet")
    parser.add_argument("--nchw", action="store_true", help="keep PyTorch's usual layout of pictures in memory")
    parser.add_argument("--toy", action="store_true", help="tiny networks, for tests")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code: 0, or 3 if the time limit came."""
    started = time.time()
    settings = parse(arguments)
    settings.started = started
    torch.manual_seed(settings.seed)
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(settings)
    if settings.resume or (settings.time_limit is not None and (trainer.out / "checkpoint.pt").is_file()):
        trainer.resume()
    elif settings.start:
        trainer.start_from(Path(settings.start))
    try:
        train(trainer)
    except OutOfTimeError:
        print("The time of this command is over. Call it again to go on.", flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
