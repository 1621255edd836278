"""A step through DiffusersBackbone, with fused blocks and recorded, beside diffusers' own code, in one process.

    python -m benchmarks.speed.diffusers --out build/speed

Full SD 2.1 size with random weights, which are made on the spot. Needs torch, transformers and diffusers, not ComfyUI.
Without a GPU everything is small, and shows only that it works. Prints a line for each way, and writes diffusers.json:
milliseconds a step, seconds until the first report, peak GiB (the loaded model included), and how the vectors after a few
steps compare with those of diffusers' own code in the same precision and in float32 (`inversion_speed.compare`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from crossinit_core import InversionSettings, StepReport, TrainingBatch, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.models.compact_folder import load_tokenizer

from ..inversion_speed import ROOT, SMALL, compare
from .published import Recipe

COMPARED = 6
"""Steps after which vectors are compared; so short a run has not left the model's own numbers behind."""
WAYS = {
    "diffusers' own code": (False, False),
    "recorded": (False, True),
    "fused": (True, False),
    "fused and recorded": (True, True),
}
"""Whether blocks are fused, and whether steps are recorded as a CUDA graph."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="diffusers", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "speed")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--precision", nargs="*", default=["fp16", "bf16"])
    options = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    size = {"resolution": options.resolution, "batch_size": options.batch_size} if cuda else SMALL
    steps, precisions = (options.steps, options.precision) if cuda else (2, ["fp32"])
    backbone = standin(device, small=not cuda)
    start = cross_initialize_words(backbone, "human face")
    batches = make_batches(backbone, steps, **size)
    data: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "torch": torch.__version__,
        "size": size,
        "ways": {},
    }
    _, truth = measure(backbone, start, batches, min(COMPARED, steps), "fp32", False, False)
    for precision in precisions:
        own = None
        for name, (fused, recorded) in WAYS.items():
            measured, vectors = measure(backbone, start, batches, steps, precision, fused, recorded)
            own = vectors if own is None else own
            measured["difference_from_own"] = float((vectors - own).norm() / (own - start).norm())
            measured |= compare(vectors, truth, start)
            data["ways"][f"{name}, {precision}"] = measured
            print(f"{name}, {precision}: {json.dumps(measured)}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "diffusers.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    return 0


def standin(device: torch.device, small: bool) -> DiffusersBackbone:
    """SD 2.1 with random weights, in float32 as folders are loaded by default."""
    parts = Recipe(device, resolution=64, batch_size=1, small=small)
    return DiffusersBackbone(
        tokenizer=load_tokenizer(),
        text_encoder=parts.text_encoder,
        unet=parts.unet,
        vae=parts.vae,
        scheduler_config=dict(parts.scheduler.config),
        device=device,
    )


def make_batches(backbone: DiffusersBackbone, steps: int, resolution: int, batch_size: int) -> list[TrainingBatch]:
    """Random latents, noise, timesteps and prompts with two placeholders, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 4, resolution // 8, resolution // 8)

    def batch() -> TrainingBatch:
        ids = torch.randint(0, backbone.bos, (batch_size, 77), generator=generator)
        ids[:, 0], ids[:, 9:] = backbone.bos, backbone.eos
        ids[:, 3], ids[:, 4] = backbone.vocabulary_size, backbone.vocabulary_size + 1
        latents, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        return TrainingBatch(latents, noise, torch.randint(0, 1000, (batch_size,), generator=generator), ids)

    return [batch() for _ in range(steps)]


def measure(
    backbone: DiffusersBackbone,
    start: torch.Tensor,
    batches: Sequence[TrainingBatch],
    steps: int,
    precision: Any,
    fused: bool,
    recorded: bool,
) -> tuple[dict[str, Any], torch.Tensor]:
    """A run in one way: what it takes, and its vectors after COMPARED steps or, if there are fewer, the last."""
    backbone.fused = fused
    times: list[float] = []
    vectors: list[torch.Tensor] = []

    def on_step(report: StepReport) -> None:
        times.append(time.perf_counter())
        if report.step <= COMPARED:
            vectors.append(report.vectors)

    settings = InversionSettings(
        steps=steps, batch_size=len(batches[0]), precision=precision, memory="normal", cuda_graph=recorded
    )
    began = time.perf_counter()
    result = invert(backbone, start, settings, batches=batches, on_step=on_step)
    # The first steps compile, record and warm up.
    gaps = sorted(after - before for before, after in pairwise(times[min(COMPARED, len(times) - 2) :]))
    return {
        "ms_a_step": round(1e3 * gaps[len(gaps) // 2], 2),
        "until_first_step": round(times[0] - began, 3),
        "peak_gib": round(result.peak_memory / 2**30, 2),
        "loss": round(result.losses[0], 5),
    }, vectors[-1]


if __name__ == "__main__":
    sys.exit(main())
