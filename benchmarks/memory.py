"""Peak video memory of learning by batch, micro-batch, precision and mode.

    python -m benchmarks.memory --comfyui ComfyUI --out build/memory              (also: run.py bench memory)

Through the pack's node, full SD 2.1 size, random weights, 512 px. Peaks are those of torch's allocator and of the recorded
graph, from entering the node to the token: private copies of the weights included, ComfyUI's own copies not. Writes memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .inversion_speed import ROOT, SMALL, _has_gpu

STEPS = 3


def rows(small: bool) -> list[dict[str, Any]]:
    """The node's inputs of each measurement."""
    if small:
        return [{"batch_size": 1}, {"batch_size": 2, "micro_batch_size": 1, "memory": "low"}]
    normal = [{"batch_size": batch, "memory": "normal"} for batch in (1, 2, 4, 8, 16)]
    low = [{"batch_size": batch, "memory": "low"} for batch in (1, 2, 4, 8, 16)]
    micro = [
        {"batch_size": 8, "micro_batch_size": size, "gradient_checkpointing": checkpointing, "memory": "normal"}
        for size in (4, 2, 1)
        for checkpointing in (False, True)
    ]
    precision = [
        {"batch_size": 8, "precision": name, "memory": mode} for name in ("bf16", "fp32") for mode in ("normal", "low")
    ]
    larger = [{"batch_size": 8, "resolution": 768, "memory": mode} for mode in ("normal", "low")]
    return [normal[3], low[3], *normal[:3], *low[:3], *micro, normal[4], low[4], *larger, *precision]


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="memory", description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", ROOT / ".host/ComfyUI")))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "memory")
    options = parser.parse_args(words[:cut])
    options.out.mkdir(parents=True, exist_ok=True)
    small = not _has_gpu()

    from .speed import host

    pack = host.start(options.comfyui, [*words[cut + 1 :], *(["--cpu"] if small else [])])
    folder = Path(tempfile.gettempdir()) / "crossinit-benchmark"
    folder.mkdir(exist_ok=True)
    checkpoint = folder / f"sd21-random{'-small' if small else ''}.safetensors"
    host.make_checkpoint(checkpoint, small)
    host.output_folder(folder / "output-memory")
    graph = host.Graph(pack, checkpoint, SMALL["resolution"] if small else 512)
    graph.picture()
    results = []
    for inputs in rows(small):
        try:
            _, measured = graph.learn(STEPS, **inputs)
        except Exception as error:
            measured = {"error": f"{type(error).__name__}: {error}"}
        results.append({**inputs, **measured})
        print(json.dumps(results[-1]), flush=True)
        (options.out / "memory.json").write_text(json.dumps(results), encoding="utf-8")
    return 0 if all("error" not in row for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
