"""One person on several GPUs: milliseconds a step on one and on all, side by side, and how far the vectors are apart.

    python -m benchmarks.ranks --gpus 2 --out build/ranks                    (also: run.py bench ranks)
    torchrun --nproc-per-node 2 -m benchmarks.ranks --out build/ranks        the same

Full size of SD 2.1 (512 px, batch 8) and SDXL (768 px, batch 4) with random weights, which are made on the GPUs. Needs torch,
transformers and diffusers, not ComfyUI. Without GPUs everything is small, and shows only that it works. Writes ranks.json
after each row, and prints what it holds. `stops` kills the last process in the middle of a run: what the first one still
does is in stops.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossinit_core import InversionSettings, StepReport, TrainingBatch, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.ranks import ALONE, Ranks, Together, number_on_this_machine, together
from crossinit_core.models.compact_folder import EOS, load_tokenizer

from .inversion_speed import ROOT, SIZES
from .speed.diffusers import make_batches, standin
from .speed.published_sdxl import SdxlRecipe

COMPARED, STEPS = 8, 24
"""Steps after which vectors are compared, and those that are timed, of which the first 8 do not count."""
SMALL = {"resolution": 64, "batch_size": 4}
"""Without GPUs."""


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="ranks", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "ranks")
    parser.add_argument("--gpus", type=int, default=2, help="without torchrun: processes to start")
    parser.add_argument("--family", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--precision", nargs="*", default=["fp16", "fp32"], help="the first one is timed")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--stops", action="store_true", help="kill a process, and see what becomes of the run")
    options = parser.parse_args(words)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return _start(options.gpus, words)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", number_on_this_machine()) if cuda else torch.device("cpu")
    with together(device) as ranks:
        (_stop if options.stops else _measure)(options, ranks, device)
    return 0


def _start(count: int, words: Sequence[str]) -> int:
    """What torchrun does, which may not be on the path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(count),
        "--master-port",
        str(port),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [*torchrun, "-m", "benchmarks.ranks", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _measure(options: argparse.Namespace, ranks: Together, device: torch.device) -> None:
    cuda = device.type == "cuda"
    data: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "torch": torch.__version__,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "processes": ranks.count,
        "steps": options.steps,
        "families": {},
    }

    def save() -> None:
        if ranks.number == 0:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "ranks.json").write_text(json.dumps(data, indent=1), encoding="utf-8")

    for family in options.family:
        size = SIZES[family] if cuda else SMALL
        began = time.perf_counter()
        backbone = model(family, device)
        found = data["families"].setdefault(family, {**size})
        run = _Run(backbone, ranks, make(backbone, options.steps, size), found, save)
        found["us_to_add_up"] = _microseconds_to_add_up(ranks, device, run.start.shape)
        one, every = "one GPU", f"{ranks.count} GPUs"
        samples = ranks.part_of(size["batch_size"])
        timed, *others = options.precision if cuda else ["fp32"]
        run.row(f"{one}, {timed}, first", 2, timed, ALONE)  # compiles
        run.row(f"{every}, {timed}, first", 2, timed, ranks)
        # One GPU is measured before and after: a machine's speed drifts.
        run.row(f"{one}, {timed}", options.steps, timed, ALONE)
        run.row(f"{every}, {timed}", options.steps, timed, ranks)
        run.row(f"{every}, {timed}, again", options.steps, timed, ranks)
        run.row(f"{one}, {timed}, again", options.steps, timed, ALONE)
        for precision in (timed, *others):
            if precision != timed:
                run.row(f"{one}, {precision}", COMPARED, precision, ALONE)
                run.row(f"{every}, {precision}", COMPARED, precision, ranks)
            run.row(f"{one} in pieces of {samples}, {precision}", COMPARED, precision, ALONE, micro_batch_size=samples)
            run.compare(f"{every}, {precision}", f"{one}, {precision}")
            run.compare(f"{every}, {precision}", f"{one} in pieces of {samples}, {precision}")
        found["seconds_in_all"] = round(time.perf_counter() - began, 1)
        save()
        del backbone, run
        if cuda:
            torch.cuda.empty_cache()


class _Run:
    """Runs of one model. What comes out goes into `found`, and `save` is called."""

    def __init__(
        self,
        backbone: DiffusersBackbone,
        ranks: Together,
        batches: list[TrainingBatch],
        found: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        self._found, self._save = found, save
        self.start = ranks.of_first(cross_initialize_words(backbone, "human face"))
        self._backbone, self._ranks, self._batches = backbone, ranks, batches
        self._vectors: dict[str, Tensor] = {}

    def row(self, name: str, steps: int, precision: Any, ranks: Ranks, **more: Any) -> None:
        """One GPU: the first process alone learns, and the others wait."""
        self._ranks.gather(f"before {name} of {self._backbone.base}")
        if ranks is ALONE and self._ranks.number:
            return
        times: list[float] = []

        def on_step(report: StepReport) -> None:
            times.append(time.perf_counter())
            if report.step == min(COMPARED, steps):
                self._vectors[name] = report.vectors

        settings = InversionSettings(
            steps=steps, batch_size=len(self._batches[0]), precision=precision, memory="normal", **more
        )
        began = time.perf_counter()
        batches = self._batches[:steps]
        result = invert(self._backbone, self.start, settings, batches=batches, on_step=on_step, ranks=ranks)
        gaps = sorted(after - before for before, after in pairwise(times[min(COMPARED, len(times) - 2) :]))
        rows = self._found.setdefault("rows", {})
        rows[name] = {
            "ms_a_step": round(1e3 * gaps[len(gaps) // 2], 2),
            "ms_mean": round(1e3 * sum(gaps) / len(gaps), 2),
            "seconds": round(time.perf_counter() - began, 2),
            "until_first_step": round(times[0] - began, 2),
            "peak_gib": round(result.peak_memory / 2**30, 2),
            "loss": result.losses[min(COMPARED, steps) - 1],
        }
        if self._ranks.number == 0:
            print(f"{self._backbone.base}: {name}: {json.dumps(rows[name])}", flush=True)
        self._save()

    def compare(self, name: str, other: str) -> None:
        """Of the vectors after `COMPARED` steps: the largest difference, and that of the whole, relative to the movement."""
        if self._ranks.number:
            return
        ours, theirs = self._vectors[name], self._vectors[other]
        difference = {
            "largest": float((ours - theirs).abs().max()),
            "of_movement": float((ours - theirs).norm() / (theirs - self.start).norm()),
            "same_bits": torch.equal(ours, theirs),
        }
        self._found.setdefault("differences", {})[f"{name} and {other}"] = difference
        print(f"{self._backbone.base}: {name} and {other}: {json.dumps(difference)}", flush=True)
        self._save()


def _microseconds_to_add_up(ranks: Together, device: torch.device, shape: torch.Size, times: int = 50) -> float:
    """What a step waits for the others if all are there."""
    numbers = torch.ones(shape, device=device)
    loss = torch.ones((), device=device)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(5):
        ranks.add_up(numbers, loss)
    ranks.gather(f"adding up {tuple(shape)}")
    synchronize()
    began = time.perf_counter()
    for _ in range(times):
        ranks.add_up(numbers, loss)
    synchronize()
    return round(1e6 * (time.perf_counter() - began) / times, 1)


def _stop(options: argparse.Namespace, ranks: Together, device: torch.device) -> None:
    """The last process kills itself after some steps: the first must end by itself, and keep what it has."""
    backbone = model(options.family[0], device)
    size = SIZES[options.family[0]] if device.type == "cuda" else SMALL
    batches, start = make(backbone, 200, size), ranks.of_first(cross_initialize_words(backbone, "human face"))
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.out / "resume"
    last = 0

    def on_step(report: StepReport) -> None:
        nonlocal last
        last = report.step
        if report.step == 33 and ranks.number == ranks.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stopped)
    settings = InversionSettings(steps=200, batch_size=size["batch_size"], memory="normal")
    try:
        invert(backbone, start, settings, batches=batches, on_step=on_step, ranks=ranks, resume_folder=folder)
    except BaseException as error:
        if ranks.number == 0:
            notes: tuple[str, ...] = getattr(error, "__notes__", ())
            said = {"steps": last, "error": type(error).__name__, "text": str(error)[:300], "notes": notes}
            print(json.dumps(said), flush=True)
            (options.out / "stops.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
        raise


def model(family: str, device: torch.device) -> DiffusersBackbone:
    """With random weights, the same in every process."""
    small = device.type != "cuda"
    if family == "sd2":
        return standin(device, small)
    recipe = SdxlRecipe(device, resolution=64, batch_size=1, small=small)
    for encoder in recipe.encoders:
        encoder.set_input_embeddings(encoder.get_input_embeddings().table)
    if small:  # on a GPU a run learns on copies in its own precision
        for part in (*recipe.encoders, recipe.unet, recipe.vae):
            part.float()
    return DiffusersBackbone(
        tokenizer=load_tokenizer(EOS),
        tokenizer_2=load_tokenizer(),
        text_encoder=recipe.encoders[0],
        text_encoder_2=recipe.encoders[1],
        unet=recipe.unet,
        vae=recipe.vae,
        scheduler_config=dict(recipe.scheduler.config),
        device=device,
    )


def make(backbone: DiffusersBackbone, steps: int, size: dict[str, int]) -> list[TrainingBatch]:
    """Batches as in `speed.diffusers`, with SDXL's sizes if the model takes them."""
    batches = make_batches(backbone, steps, **size)
    if len(backbone.widths) == 1:
        return batches
    px = float(size["resolution"])
    sizes = torch.tensor([[px, px, 0.0, 0.0, px, px]]).repeat(size["batch_size"], 1)
    return [TrainingBatch(*batch.tensors()[:4], sizes=sizes) for batch in batches]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
