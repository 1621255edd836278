"""How near gradients come to those of float32 in ComfyUI's memory and attention modes.

    python -m benchmarks.modes --comfyui ComfyUI --out build/modes                (also: run.py bench modes)

Every mode is a ComfyUI of its own with full-size SD 2.1 or SDXL and random weights; see `speed.sdxl.make_uneven` for the last
one. In each one float32 and the default precision
learn from the same batches, and the runs are then repeated: after a picture, without the recorded graph, in low-memory
mode, after a cancel, in bf16, with an overflow, and twice with too little memory. One more part is the embedded miniature
with its real weights. Writes modes.json, which docs/performance.md shows; `outcome` says what that page calls right. A mode
that ComfyUI does not start in, because a library of it is missing, is refused. `tests/gpu/test_modes.py` proves what is
only measured here, on the same runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .inversion_speed import ROOT, SMALL, _has_gpu, compare, pictures

MODES: dict[str, list[str]] = {
    "default": [],
    "disable-dynamic-vram": ["--disable-dynamic-vram"],
    "disable-cuda-malloc": ["--disable-cuda-malloc"],
    "lowvram": ["--lowvram"],
    "novram": ["--novram"],
    "fp32-text-enc": ["--fp32-text-enc"],
    "force-fp32": ["--force-fp32"],
    "use-split-cross-attention": ["--use-split-cross-attention"],
    "use-quad-cross-attention": ["--use-quad-cross-attention"],
    "use-sage-attention": ["--use-sage-attention"],
    "embedded miniature": [],
    "sdxl": [],
    "sdxl-disable-dynamic-vram": ["--disable-dynamic-vram"],
    "sdxl-lowvram": ["--lowvram"],
    "sdxl-uneven": [],
}
CPU_MODES = ("default", "use-split-cross-attention", "use-quad-cross-attention", "embedded miniature")
SAME_BITS = ("again after a picture", "without the recorded graph", "with sample pictures", "after a cancel")
"""Checks that must not change a bit of the vectors."""
NEAR = ("low memory", "micro-batches", "bf16", "overflow in fp16", "memory full while recording", "out of memory")
"""Checks that change how a step is rounded."""
COSINE, RATIO = 0.999, 0.02
"""A movement is right if its cosine with float32's is at least the one, and its length within the other of it."""
BEFORE, AFTER = "picture before learning, twice", "picture after learning"
STEPS, BATCH = 6, 2
REAL_STEPS, REAL_BATCH = 25, 8
"""Of the embedded miniature, whose weights are real."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="modes", description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", ROOT / ".host/ComfyUI")))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "modes")
    parser.add_argument("--only", nargs="*", choices=list(MODES))
    parser.add_argument(
        "--at-once", type=int, default=1, help="modes that run at the same time; more than one leaves a full GPU out"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        return _part(options)
    names = options.only or (list(MODES) if _has_gpu() else CPU_MODES)
    _prepare(options)
    with ThreadPoolExecutor(options.at_once) as pool:
        results = dict(zip(names, pool.map(lambda name: _run(options, name), names), strict=True))
    (options.out / "modes.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    for name, result in results.items():
        print(f"{name:<26}{outcome(result):<9}{json.dumps(result)}", flush=True)
    return 1 if any(outcome(result) == "WRONG" for result in results.values()) else 0


def outcome(result: Mapping[str, Any]) -> str:
    """What came of a mode, in one word: right, refused or WRONG."""
    if result.get("refused"):
        return "refused"
    return "WRONG" if "code" in result or wrong(result) else "right"


def wrong(result: Mapping[str, Any]) -> list[str]:
    """The checks of a mode that failed, or whose numbers are too far from float32's or from the first run's."""
    found = [] if is_near(result) else ["the movement"]
    for name in (*SAME_BITS, *NEAR):
        value = result.get(name, "same bits")
        if value != "same bits" and (name in SAME_BITS or isinstance(value, str) or not is_near(value)):
            found.append(name)
    if result.get(BEFORE) == "same bits" and result.get(AFTER) != "same bits":
        found.append(AFTER)
    return found


def is_near(numbers: Mapping[str, Any]) -> bool:
    """Whether a movement is float32's, by what `compare` found; False if that is missing."""
    cosine, ratio = numbers.get("cosine_of_movement", -1.0), numbers.get("ratio_of_distance", 0.0)
    return bool(cosine >= COSINE and abs(ratio - 1) <= RATIO)


def run_mode(name: str, comfyui: Path, out: Path) -> dict[str, Any]:
    """What a mode gives, in a process of its own; its log is `NAME.log` in `out`."""
    options = argparse.Namespace(comfyui=comfyui, out=out, at_once=1)
    _prepare(options)
    return _run(options, name)


def _prepare(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)


def _checkpoint(mode: str) -> Path:
    """The one of random weights that a mode learns on; made if it is not there. Needs ComfyUI started."""
    from .speed import host

    family = "sd2" if not mode.startswith("sdxl") else "sdxl-uneven" if "uneven" in mode else "sdxl"
    small = not _has_gpu()
    path = host.checkpoint_file(small, family)
    own = path.with_name(f"{os.getpid()}-{path.name}")  # another mode may be making it too
    if not path.exists():
        host.make_checkpoint(own, small, family)
        own.replace(path)
    return path


def _run(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """One mode in a process of its own; `code` and `end` are there if the process did not come to its end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    found, log = (options.out / f"{name}{suffix}" for suffix in (".json", ".log"))
    found.unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            _command(options, name), cwd=ROOT, env=environment, check=False, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    result = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}
    if code == 0 and result:
        return result
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    # ComfyUI itself refuses to start if an attention is not installed.
    refused = not result and any("to use the `--use-" in line.lower() for line in lines)
    return {**result, "refused": refused, "code": code, "end": (lines or ["It said nothing."])[-1]}


def _command(options: argparse.Namespace, name: str) -> list[str]:
    part = ["--part", name, "--out", str(options.out), "--comfyui", str(options.comfyui)]
    part += ["--at-once", str(options.at_once)]
    return [sys.executable, "-m", "benchmarks.modes", *part]


def _part(options: argparse.Namespace) -> int:
    from .speed import host

    small, real, large = not _has_gpu(), options.part == "embedded miniature", options.part.startswith("sdxl")
    pack = host.start(options.comfyui, [*MODES[options.part], *(["--cpu"] if small else [])])
    import torch

    from .paper_claims.results import write_json

    host.output_folder(Path(tempfile.gettempdir()) / "crossinit-benchmark" / f"output-{options.part}")
    resolution = SMALL["resolution"] if small else 768 if large else 512
    graph = host.Graph(pack, None if real else _checkpoint(options.part), resolution)
    size = {"batch_size": REAL_BATCH if real else 1 if small else BATCH}
    steps = REAL_STEPS if real else 2 if small else STEPS
    kept: dict[str, float] = {}
    result: dict[str, Any] = {"dynamic_vram": pack.dynamic, "kept_mib": kept}
    file = options.out / f"{options.part}.json"
    graph.picture()  # the first one may run while weights are still on their way
    before, repeated = graph.picture(), graph.picture()

    left = 0.0

    def learn(**inputs: Any) -> Any:
        nonlocal left
        token, measured = graph.learn(steps, **{**size, **inputs})
        left = measured["kept_mib"]
        return token

    truth = learn(precision="fp32", settings={"cuda_graph": False}).vectors
    token = learn()
    result |= {"precision": token.metadata["crossinit.precision"], **_compared(token.vectors, truth, graph)}
    expected = token.vectors

    def check(name: str, vectors: Callable[[], Any]) -> None:
        write_json(file, result)  # this process may die in the middle of the check
        try:
            found = vectors()
        except Exception as error:
            result[name] = f"{type(error).__name__}: {error}"
        else:
            result[name] = "same bits" if torch.equal(found, expected) else _compared(found, truth, graph)
            kept[name] = left

    result[BEFORE] = pictures(before, repeated)
    result[AFTER] = pictures(repeated, graph.picture())
    check("again after a picture", lambda: learn().vectors)
    check("without the recorded graph", lambda: learn(settings={"cuda_graph": False}).vectors)
    check("low memory", lambda: learn(memory="low").vectors)
    check("micro-batches", lambda: learn(micro_batch_size=1).vectors)
    check("with sample pictures", lambda: learn(sample_every=2).vectors)
    check("after a cancel", lambda: _cancelled(learn, options.part).vectors)
    if not small or real:  # on few random weights in two steps its rounding is larger than what is asked for
        check("bf16", lambda: learn(precision="bf16").vectors)
    check("overflow in fp16", lambda: _overflowing(pack, learn))
    if not small and not real:
        if options.at_once == 1:  # it would be full for all of them
            check("memory full while recording", lambda: _full(pack, learn, _room(result["precision"], large)))
        check("out of memory", lambda: _crowded(pack, learn, _room(result["precision"], large)))
    write_json(file, result)
    return 0


def _compared(vectors: Any, truth: Any, graph: Any) -> dict[str, float]:
    return compare(vectors, truth, graph.start.vectors)


def _cancelled(learn: Any, mode: str) -> Any:
    """Cancel at the third report, and run again."""

    def cancel(report: Any) -> None:
        if report.step == max(1, min(3, report.steps - 1)):
            raise KeyboardInterrupt

    shutil.rmtree(Path(tempfile.gettempdir()) / "crossinit-benchmark" / f"output-{mode}")
    try:
        learn(on_step=cancel, resume=True)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the cancel was swallowed")
    return learn(resume=True)


def _overflowing(pack: Any, learn: Any) -> Any:
    """A UNet whose float16 answers overflow."""
    import torch

    unet = sys.modules[f"{pack.__name__}.nodes.host.copies"].UNet
    own = unet.__call__

    def overflow(self: Any, *inputs: Any) -> Any:
        out = own(self, *inputs)
        return out * torch.inf if self._dtype == torch.float16 else out

    unet.__call__ = overflow
    try:
        token = learn()
    finally:
        unet.__call__ = own
    if token.metadata["crossinit.precision"] == "float16":
        raise AssertionError("the overflow was not seen")
    return token.vectors


def _crowded(pack: Any, learn: Any, room: float) -> Any:
    """Allow torch little more than the weights; nothing was recorded before."""
    import torch

    sys.modules[f"{pack.__name__}.crossinit_core.gpu.self_tests"]._passed.clear()
    _give_way()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
    try:
        with _runs_out(pack):
            return learn().vectors
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _full(pack: Any, learn: Any, room: float) -> Any:
    """Fill the GPU but for little more than the weights; the same work was recorded before."""
    import torch

    learn()
    _give_way()
    ballast = torch.empty(int(torch.cuda.mem_get_info()[0] - room), dtype=torch.uint8, device="cuda")
    try:
        with _runs_out(pack):
            return learn().vectors
    finally:
        del ballast
        torch.cuda.empty_cache()


def _room(precision: str, sdxl: bool) -> float:
    """Bytes for the weights and for a part of a step."""
    single, half = (15.5, 7.8) if sdxl else (6.1, 2.95)
    return (single if precision == "float32" else half) * 1024**3


def _give_way() -> None:
    """Nothing of ComfyUI's is on the GPU, which could make room later."""
    import comfy.model_management as mm
    import torch

    with torch.inference_mode():  # as in a graph
        mm.unload_all_models()
    mm.soft_empty_cache()
    torch.cuda.empty_cache()


@contextmanager
def _runs_out(pack: Any) -> Iterator[None]:
    """The host reports much memory, so that the node finds out late that there is little. Raises AssertionError if it never does."""
    import comfy.model_management as mm

    own, much = mm.get_free_memory, 64 * 1024**3
    mm.get_free_memory = lambda dev=None, torch_free_too=False: (much, much) if torch_free_too else much
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger(f"{pack.__name__}.crossinit_core")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        mm.get_free_memory = own
    if not any(line.startswith("Out of memory") for line in lines):
        raise AssertionError("there was enough memory")


if __name__ == "__main__":
    sys.exit(main())
