"""Seconds a step, a run and peak memory: the published recipe beside this pack's node, in one call.

    python -m benchmarks.inversion_speed --comfyui ComfyUI --out build/speed        (also: run.py bench inversion_speed)

Full size of SD 2.1 or, with `--family sdxl`, of SDXL, with random weights, which are made on the spot. Needs torch, transformers, diffusers and a ComfyUI
checkout. Without a GPU everything is small, and shows only that it works. Arguments after `--` go to ComfyUI.
Writes published.json, ours.json and repeats.json, from which benchmarks.performance_page makes docs/performance.md, and for a look
at once speed.json (both together) and speed.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:cut])
    if options.part:
        return _part(options, words[cut + 1 :])
    options.out.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {}
    # Each part in a process of its own: ComfyUI wants its allocator chosen before torch is imported.
    for part in ("published", "ours"):
        file = options.out / f"{part}.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.inversion_speed", "--part", part, *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if file.is_file():
            data |= json.loads(file.read_text(encoding="utf-8"))
        if code:
            print(f"The part '{part}' ended with code {code}.", file=sys.stderr)
    (options.out / "speed.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    print(table(data))
    plot(data, options.out / "speed.png")
    return 0 if "published" in data and data.get("modes") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inversion_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", ROOT / ".host/ComfyUI")))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "speed")
    parser.add_argument("--checkpoint", type=Path, help="an SD 2.1 checkpoint in place of random weights")
    parser.add_argument("--family", choices=list(SIZES), default="sd2")
    parser.add_argument("--batch-size", type=int, help="8, and 4 on SDXL, as published")
    parser.add_argument("--resolution", type=int, help="512, and 768 on SDXL, as published")
    parser.add_argument("--only", nargs="*", help="names of modes")
    parser.add_argument("--part", choices=["published", "ours"], help=argparse.SUPPRESS)
    return parser


SIZES = {"sd2": {"resolution": 512, "batch_size": 8}, "sdxl": {"resolution": 768, "batch_size": 4}}
"""Of the published recipes."""


def _size(options: argparse.Namespace) -> dict[str, int]:
    asked = {"resolution": options.resolution, "batch_size": options.batch_size}
    return SIZES[options.family] | {key: value for key, value in asked.items() if value}


def _part(options: argparse.Namespace, comfyui_arguments: list[str]) -> int:
    """One part, in its own process."""
    if options.part == "published":
        import torch

        from .speed.published import Recipe, measure
        from .speed.published_sdxl import SdxlRecipe

        cuda = torch.cuda.is_available()
        device = torch.device("cuda" if cuda else "cpu")
        size = _size(options) if cuda else SMALL
        data: dict[str, Any] = {}
        ways: dict[str, dict[str, Any]] = {"published": {}, "published, TF32": {"tf32": True}}
        recipe: Any = Recipe
        if options.family == "sdxl":
            recipe = SdxlRecipe
            ways = {"published": {}, "published, 1024 px": {"resolution": 1024} if cuda else {}}
        for name, more in ways.items():
            data[name] = measure(device, **{**size, **more}, small=not cuda, steps=8 if cuda else 1, recipe_of=recipe)
            print(name, json.dumps(data[name]), flush=True)
            _save(options, data)
            if cuda:
                torch.cuda.empty_cache()
        return 0
    return _ours(options, comfyui_arguments)


SMALL = {"resolution": 64, "batch_size": 1}
"""Without a GPU."""


def _ours(options: argparse.Namespace, comfyui_arguments: list[str]) -> int:
    from .speed import host

    small = not _has_gpu()
    pack = host.start(options.comfyui, [*comfyui_arguments, *(["--cpu"] if small else [])])
    import torch

    from .speed import breakdown

    folder = Path(tempfile.gettempdir()) / "crossinit-benchmark"
    folder.mkdir(exist_ok=True)
    checkpoint = options.checkpoint or host.checkpoint_file(small, options.family)
    host.make_checkpoint(checkpoint, small, options.family)
    host.output_folder(folder / "output")
    size = SMALL if small else _size(options)
    graph = host.Graph(pack, checkpoint, size["resolution"])
    graph.picture()  # the first one may run while weights are still on their way
    before, repeated = graph.picture(), graph.picture()
    data: dict[str, Any] = {"where": _where(pack, comfyui_arguments), "size": size, "modes": {}}
    data["rates"] = breakdown.rates(torch.device("cpu" if small else "cuda"))
    data["operations"] = _tried(lambda: breakdown.operations(graph, size["batch_size"]))
    truth = None
    for name, steps, inputs, settings in modes(small, options.family):
        if options.only and name not in options.only:
            continue
        if name == "bf16" and not options.only:  # its kernels are compiled first, which may take a while
            data["profile"] = _tried(lambda: breakdown.profile(graph, batch_size=size["batch_size"]))
            print("profile:", json.dumps(data["profile"])[:600], flush=True)
        try:
            token, measured = graph.learn(steps, settings=settings, **{"batch_size": size["batch_size"], **inputs})
        except Exception as error:
            measured = {"error": f"{type(error).__name__}: {error}"}
        else:
            if name == "fp32":
                truth = token.vectors
            if truth is not None and steps == STEPS_TO_COMPARE and not {"batch_size", "resolution"} & inputs.keys():
                measured |= compare(token.vectors, truth, graph.start.vectors)
        data["modes"][name] = measured
        print(f"{name}: {json.dumps(measured)}", flush=True)
        _save(options, data)
    if not small and not options.only and options.family == "sd2":
        again = [graph.learn(FAST_STEPS, batch_size=size["batch_size"])[1] for _ in range(REPEATS)]
        repeats = {key: [row[key] for row in again] for key in ("seconds", "until_first_step")}
        text = json.dumps({"where": data["where"], "steps": FAST_STEPS, **repeats})
        (options.out / "repeats.json").write_text(text, encoding="utf-8")
    data["picture before learning, twice"] = pictures(before, repeated)
    data["picture after learning"] = pictures(repeated, graph.picture())
    _save(options, data)
    return 0


def _tried(work: Callable[[], Any]) -> Any:
    """What is good to know must not stop what is to be measured."""
    try:
        return work()
    except Exception as error:
        print(f"Left out: {type(error).__name__}: {error}", flush=True)
        return None


STEPS_TO_COMPARE, FAST_STEPS = 10, 25
REPEATS = 16
"""Times that the fast preset runs for repeats.json: so short a run varies from one to the next."""


def modes(small: bool, family: str = "sd2") -> list[tuple[str, int, dict[str, Any], dict[str, Any]]]:
    """Name, steps, inputs of the node, settings that the node does not show. The first one compiles and warms up."""
    if small:
        return [
            ("warm-up", 1, {}, {}),
            ("fp32", 2, {"precision": "fp32"}, {}),
            ("default", 2, {}, {}),
            ("without Triton", 2, {"triton": False}, {}),
        ]
    n = STEPS_TO_COMPARE
    low = {"memory": "low"}
    if family == "sdxl":
        large = {"resolution": 1024}
        return [
            ("first run ever", n, {}, {}),
            ("fp32", n, {"precision": "fp32"}, {}),
            ("default, 10 steps", n, {}, {}),
            ("swift preset", 25, {"preset": "swift"}, {}),
            ("best preset", 100, {"preset": "best"}, {}),
            ("full preset", 400, {"preset": "full"}, {}),
            ("1024 px", n, large, {}),
            ("1024 px again", n, large, {}),
            ("low memory", n, low, {}),
            ("1024 px, low memory", n, {**large, **low}, {}),
            ("without graph", n, {}, {"cuda_graph": False}),
            ("without Triton", n, {"triton": False}, {}),
            ("bf16", n, {"precision": "bf16"}, {}),
        ]
    return [
        ("first run ever", n, {}, {}),
        ("fp32", n, {"precision": "fp32"}, {}),
        ("default, 10 steps", n, {}, {}),
        ("fast preset", FAST_STEPS, {}, {}),
        ("fast preset again", FAST_STEPS, {}, {}),
        ("swift preset", 25, {"preset": "swift"}, {}),
        ("best preset", 100, {"preset": "best"}, {}),
        ("full preset", 320, {}, {}),
        ("low memory", n, low, {}),
        ("low memory, fast preset", FAST_STEPS, low, {}),
        ("without graph", n, {}, {"cuda_graph": False}),
        ("without Triton", n, {"triton": False}, {}),
        ("without Triton, fast preset", FAST_STEPS, {"triton": False}, {}),
        ("without Triton and graph", n, {"triton": False}, {"cuda_graph": False}),
        ("micro-batches of 2", n, {"micro_batch_size": 2}, {}),
        ("batch 4", n, {"batch_size": 4}, {}),
        ("batch 16", n, {"batch_size": 16}, {}),
        ("8 photos, fast preset", FAST_STEPS, {"photos": 8}, {}),
        ("bf16", n, {"precision": "bf16"}, {}),
    ]


def pictures(one: Any, other: Any) -> str:
    """How far apart two pictures of the same prompt and seed are."""
    import torch

    return "same bits" if torch.equal(one, other) else f"differ by {float((one - other).norm() / one.norm()):.1e}"


def compare(vectors: Any, truth: Any, start: Any) -> dict[str, float]:
    """How a run's vectors compare with those of float32 on the same draws."""
    import torch

    moved, expected = (vectors - start).flatten(), (truth - start).flatten()
    return {
        "cosine_of_movement": round(float(torch.cosine_similarity(moved, expected, dim=0)), 6),
        "ratio_of_distance": round(float(moved.norm() / expected.norm()), 5),
        "cosine_of_vectors": round(float(torch.cosine_similarity(vectors.flatten(), truth.flatten(), dim=0)), 7),
    }


def _has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _where(pack: Any, comfyui_arguments: list[str]) -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    import comfyui_version
    import torch

    where: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "transformers": version("transformers"),
        "comfyui": comfyui_version.__version__,
        "comfyui_arguments": comfyui_arguments,
        "dynamic_vram": pack.dynamic,
    }
    if torch.cuda.is_available():
        where |= {
            "gpu": torch.cuda.get_device_name(),
            "allocator": torch.cuda.get_allocator_backend(),
            "cudnn": torch.backends.cudnn.version(),
        }
        try:
            where["triton"] = version("triton")
        except ImportError:
            where["triton"] = None
    return where


def _save(options: argparse.Namespace, data: dict[str, Any]) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.part}.json").write_text(json.dumps(data), encoding="utf-8")


def table(data: dict[str, Any]) -> str:
    """The numbers as text."""
    lines = [f"{'':<26}{'steps':>6}{'ms/step':>9}{'seconds':>9}{'peak GiB':>10}{'cosine':>10}{'distance':>10}"]
    for name in (name for name in data if name.startswith("published")):
        row = data[name]
        lines.append(f"{name:<26}{320:>6}{row['ms_a_step']:>9.1f}{row['seconds_320']:>9.1f}{row['peak_gib']:>10.2f}")
    for name, row in data.get("modes", {}).items():
        if "error" in row:
            lines.append(f"{name:<26} {row['error'][:80]}")
            continue
        more = (
            f"{row['cosine_of_movement']:>10.5f}{row['ratio_of_distance']:>10.4f}"
            if "cosine_of_movement" in row
            else ""
        )
        ms = f"{row['ms_a_step']:>9.1f}" if row["ms_a_step"] else " " * 9
        lines.append(f"{name:<26}{row['steps']:>6}{ms}{row['seconds']:>9.2f}{row['peak_gib']:>10.2f}{more}")
    return "\n".join(lines)


def plot(data: dict[str, Any], path: Path) -> None:
    """Milliseconds a step and peak memory as bars; skipped without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return
    rows = [(name, data[name]) for name in data if name.startswith("published")]
    rows += [(name, row) for name, row in data.get("modes", {}).items() if row.get("ms_a_step")]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.35 * len(rows) + 1.2), sharey=True)
    names = [name for name, _ in rows]
    left.barh(names, [row["ms_a_step"] for _, row in rows], color="tab:blue")
    left.set_xlabel("ms a step")
    right.barh(names, [row["peak_gib"] for _, row in rows], color="tab:orange")
    right.set_xlabel("peak GiB")
    left.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
