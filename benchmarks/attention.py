"""Attention of a learning step, forward and backward: this pack's kernels beside each of PyTorch's.

    python -m benchmarks.attention --out build/attention.json

The shapes are those of a step on SD 2.1 (512 px, batch 8) and on SDXL (768 and 1024 px, batch 4), in float16. A kernel that adds
in an order that varies gives other bits the second time, and is told as such: runs here repeat bit for bit. Without a GPU the
shapes are small, and the table shows only that it works.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from crossinit_core.files import write_atomically
from crossinit_core.gpu.kernels import PLAIN, triton_kernels
from crossinit_core.gpu.modes import Determinism

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
CALLS = 10
"""In a recording on the GPU."""


class Shape(NamedTuple):
    """One kind of attention, and how often a step has it."""

    name: str
    batch: int
    heads: int
    queries: int
    keys: int
    times: int
    width: int = 64


SHAPES = (
    Shape("SD 2.1, 64 x 64 latents", 8, 5, 4096, 4096, 5),
    Shape("SD 2.1, 32 x 32", 8, 10, 1024, 1024, 5),
    Shape("SDXL at 768 px, 48 x 48", 4, 10, 2304, 2304, 10),
    Shape("SDXL at 768 px, 24 x 24", 4, 20, 576, 576, 60),
    Shape("SDXL at 768 px, 48 x 48, the prompt", 4, 10, 2304, 77, 10),
    Shape("SDXL at 768 px, 24 x 24, the prompt", 4, 20, 576, 77, 60),
    Shape("SDXL at 1024 px, 64 x 64", 4, 10, 4096, 4096, 10),
    Shape("SDXL at 1024 px, 32 x 32", 4, 20, 1024, 1024, 60),
)
SMALL = (Shape("small", 1, 2, 64, 64, 1, 16), Shape("small, the prompt", 1, 2, 64, 7, 1, 16))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every kernel on every shape, print a table and write the numbers; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="file for the numbers")
    parser.add_argument("--repeats", type=int, default=30, help="of which the median counts")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        print(f"attention: --repeats is {options.repeats}, but must be at least 1.", file=sys.stderr)
        return 2
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.float16 if cuda else torch.float32
    found = [row for shape in (SHAPES if cuda else SMALL) for row in measure(shape, device, dtype, options.repeats)]
    for row in found:
        print(
            f"{row['shape']:<38} {row['kernel']:<10} {row['forward_ms']:8.3f} {row['both_ms']:8.3f} ms, {row['step_ms']:7.2f} ms a step, "
            f"{'repeats' if row['repeats'] else 'VARIES'}, error {row['error']:.1e}",
            flush=True,
        )
    if options.out:
        device_name = torch.cuda.get_device_name(device) if cuda else "CPU"
        report = {"device": device_name, "torch": torch.__version__, "rows": found}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, (json.dumps(report, indent=1) + "\n").encode())
    return 0


def measure(shape: Shape, device: torch.device, dtype: torch.dtype, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each kernel that can compute a shape: milliseconds, and the gradients' largest relative difference to float32's."""
    generator = torch.Generator(device).manual_seed(0)

    def random(rows: int) -> Tensor:
        full = (shape.batch, rows, shape.heads * shape.width)
        return torch.randn(full, generator=generator, device=device, dtype=dtype)

    q, k, v, dout = random(shape.queries), random(shape.keys), random(shape.keys), random(shape.queries)
    true = _gradients(PLAIN.attention, [t.float() for t in (q, k, v)], dout.float(), shape.heads)
    for name, attend, exact in kernels(device):
        forward = functools.partial(attend, q, k, v, shape.heads)
        both = functools.partial(_gradients, attend, [q, k, v], dout, shape.heads)
        try:
            with Determinism() if exact else nullcontext():
                first, again = both(), both()
                with torch.no_grad():
                    forward_ms = _milliseconds(forward, device, repeats)
                both_ms = _milliseconds(both, device, repeats)
        except RuntimeError as error:  # a backend that does not take this shape, or cannot repeat bit for bit
            print(f"{shape.name}: {name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        errors = [(a.float() - b).norm() / b.norm() for a, b in zip(first, true, strict=True)]
        yield {
            "shape": shape.name,
            "kernel": name,
            "forward_ms": round(forward_ms, 4),
            "both_ms": round(both_ms, 4),
            "step_ms": round(both_ms * shape.times, 3),
            "repeats": all(torch.equal(a, b) for a, b in zip(first, again, strict=True)),
            "error": float(max(errors)),
        }


def kernels(device: torch.device) -> Iterator[tuple[str, Attention, bool]]:
    """Every attention: its name, itself, and whether torch is told to repeat bit for bit, as while learning."""
    if device.type != "cuda":
        yield "torch", PLAIN.attention, False
        return
    yield "this pack", triton_kernels(attention=True).attention_of_any_length, True
    for name, backend in BACKENDS.items():
        attend = functools.partial(_by, backend)
        yield name, attend, False
        yield f"{name}, exact", attend, True


def _by(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    split = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _gradients(attend: Attention, inputs: Sequence[Tensor], dout: Tensor, heads: int) -> tuple[Tensor, ...]:
    q, k, v = leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(attend(q, k, v, heads), leaves, dout)


def _milliseconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median of one call: on a GPU out of a recording, as a step is, so that Python's own time does not count."""
    if device.type != "cuda":
        work()
        return sorted(timeit.repeat(work, number=1, repeat=repeats))[repeats // 2] * 1000
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            work()
    graph.replay()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in marks)[repeats // 2] / CALLS


if __name__ == "__main__":
    sys.exit(main())
