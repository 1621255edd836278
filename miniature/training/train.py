"""Train the miniature from nothing but the painter and a seed.

    python -m miniature.training.train --minutes 22 --out FOLDER --device cuda

Four phases share the minutes: the first judge (`features`), the VAE, both judges, and the text encoder with the UNet
(`diffusion`); then the weights are written to FOLDER/model and judged. Meanwhile other processes paint the pictures.
`--resume` continues from FOLDER/checkpoint.pt; minutes already used count.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from . import phases
from .data import HELD_OUT_SHARDS, Mixture, Painters
from .model import parameter_count, table
from .trainer import UNTIL, Trainer


def train(trainer: Trainer) -> None:
    """The phases that are left, one after the other; then the weights are written and judged."""
    settings, names = trainer.settings, list(UNTIL)
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
        "diffusion": lambda: phases.train_diffusion(trainer),
    }
    with Painters(trainer.out / "shards", settings.workers, shards, trainer.mixture) as painters:
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
    phases.write_and_judge(trainer)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=22.0, help="wall-clock time of the whole run")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument("--start", help="begin with the diffusion phase from the weights of a shipped folder")
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="painting processes")
    parser.add_argument("--pool", type=int, default=500_000, help="pictures to paint")
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--virtual", type=float, default=Mixture.virtual, help="share of people known by a map alone")
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--judge-batch", type=int, default=512)
    parser.add_argument("--max-steps", type=int, default=0, help="end every phase after so many steps")
    parser.add_argument("--stop-after", choices=list(UNTIL), help="end the run after this phase")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    parser.add_argument("--log-seconds", type=float, default=3.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the VAE and the UNet")
    parser.add_argument("--nchw", action="store_true", help="keep PyTorch's usual layout of pictures in memory")
    parser.add_argument("--toy", action="store_true", help="tiny networks, for tests")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    started = time.time()
    settings = parse(arguments)
    settings.started = started
    torch.manual_seed(settings.seed)
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(settings)
    if settings.resume:
        trainer.resume()
    elif settings.start:
        trainer.start_from(Path(settings.start))
    train(trainer)


if __name__ == "__main__":
    main(sys.argv[1:])
