"""Write docs/performance.md from what inversion_speed, speed.diffusers, attention, memory and modes measured.

python -m benchmarks.performance_page --speed build/speed --sdxl build/speed-sdxl --memory build/memory --modes build/modes
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .modes import outcome, wrong
from .speed.sections import PRESETS, attention_section, presets_section, table

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "measurements" / "performance"
TWICE, AFTER, MINIATURE = "picture before learning, twice", "picture after learning", "embedded miniature"
FIRST = ("first run ever", "fp32", "bf16")
"""Runs that compile kernels where none are on disk."""
TRIED = Path(__file__).with_name("speed") / "tried.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="performance_page", description=__doc__.splitlines()[0])
    parser.add_argument("--speed", type=Path, default=KEPT)
    parser.add_argument("--sdxl", type=Path, default=KEPT / "sdxl", help="of inversion_speed with --family sdxl")
    parser.add_argument("--presets", type=Path, default=KEPT / "presets", help="of inversion_speed, in sd2 and sdxl")
    parser.add_argument("--attention", type=Path, default=KEPT / "attention.json")
    parser.add_argument("--memory", type=Path, default=KEPT)
    parser.add_argument("--modes", type=Path, default=KEPT)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args(arguments)
    speed: dict[str, Any] = {}
    for part in ("published", "ours"):
        speed |= _read(options.speed / f"{part}.json") or {}
    repeats = _read(options.speed / "repeats.json") or {}
    memory = _read(options.memory / "memory.json") or []
    modes = _read(options.modes / "modes.json") or {}
    diffusers = _read(options.speed / "diffusers.json")
    sdxl: dict[str, Any] = {}
    for part in ("published", "ours"):
        sdxl |= _read(options.sdxl / f"{part}.json") or {}
    presets = {family: _read(options.presets / family / "ours.json") for family in PRESETS}
    text = page(
        speed,
        repeats,
        memory,
        modes,
        _read(TRIED),
        diffusers,
        sdxl,
        presets=presets if all(presets.values()) else None,
        attention=_read(options.attention),
    )
    options.out.write_text(text, encoding="utf-8")
    print(options.out)
    return 0


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def page(
    speed: dict[str, Any],
    repeats: dict[str, Any],
    memory: list[dict[str, Any]],
    modes: dict[str, Any],
    tried: dict[str, Any],
    diffusers: dict[str, Any] | None = None,
    sdxl: dict[str, Any] | None = None,
    *,
    presets: dict[str, Any] | None = None,
    attention: dict[str, Any] | None = None,
) -> str:
    """The page as Markdown."""
    parts = [
        "# Performance",
        "Written by `benchmarks/performance_page.py` from the output of `benchmarks/inversion_speed.py`, "
        "`benchmarks/speed/diffusers.py`, `benchmarks/attention.py`, `benchmarks/memory.py` and `benchmarks/modes.py`; do not edit "
        "by hand.",
        _where(speed),
        "## Speed",
        _speed(speed, repeats),
        *(["## The presets", presets_section(presets)] if presets else []),
        *(["## From Python, through diffusers", _diffusers(diffusers)] if diffusers else []),
        "## Where a step's time goes, and the floor",
        _floor(speed),
        *(["## SDXL", _sdxl(sdxl, _read(TRIED)["sdxl"])] if sdxl else []),
        *(["## Attention", attention_section(attention)] if attention else []),
        "## Memory",
        _memory(memory),
        "## ComfyUI's modes",
        _modes(modes),
        "## What was tried",
        _tried(tried),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _where(speed: dict[str, Any], family: str = "SD 2.1") -> str:
    where, size = speed["where"], speed["size"]
    memory = "dynamic video memory" if where["dynamic_vram"] else "no dynamic video memory"
    return (
        f"Measured on: {where.get('gpu', 'a CPU')}, torch {where['torch']}, Triton {where.get('triton')}, cuDNN "
        f"{where.get('cudnn')}, diffusers {where['diffusers']}, transformers {where['transformers']}, ComfyUI "
        f"{where['comfyui']} with {memory} and the allocator {where.get('allocator')}; {family} at full size with random "
        f"weights, batch {size['batch_size']}, {size['resolution']} px."
    )


def _speed(speed: dict[str, Any], repeats: dict[str, Any]) -> str:
    seconds = [
        f"{row['seconds']:.2f}" for name, row in speed["modes"].items() if name.startswith("fast") and "seconds" in row
    ]
    fast = f"The fast preset took {' and '.join(seconds)} s in this run. {_repeated(repeats)}" if seconds else ""
    return (
        _speeds(speed, lambda row: f"{row['seconds_25']:.1f} / {row['seconds_320']:.0f}")
        + "\n\nSeconds are from entering the node *Learn Face* to the token, encoding of the photo and loading of the weights "
        f"included (25 / 320 steps for the published recipe, without reading the photo). {fast}Cosine and distance compare the "
        f"vectors' movement with that of float32 on the same draws. {_compiled(speed['modes'])}Peaks are those of torch's "
        "allocator and of the recorded graph: with dynamic video memory ComfyUI's own copy of the model is not in them, and gives "
        f"way when memory is short.{_pictures(speed)}"
    )


def _speeds(speed: dict[str, Any], seconds: Callable[[dict[str, Any]], str]) -> str:
    """The table of the published recipe and of our modes."""
    rows = []
    for name in (name for name in speed if name.startswith("published")):
        row = speed[name]
        label = name.replace("published", "published recipe")
        rows.append([label, "", f"{row['ms_a_step']:.0f}", seconds(row), _gib(row), "", "", ""])
    for name, row in speed["modes"].items():
        if "error" in row:
            rows.append([name, "", "", row["error"][:60], "", "", "", ""])
            continue
        published = speed.get("published, 1024 px" if name.startswith("1024 px") else "published")
        ratio = f"{published['ms_a_step'] / row['ms_a_step']:.1f} x" if published and row["ms_a_step"] else ""
        cosine = f"{row['cosine_of_movement']:.5f}" if "cosine_of_movement" in row else ""
        distance = f"{row['ratio_of_distance']:.4f}" if "ratio_of_distance" in row else ""
        ms = f"{row['ms_a_step']:.1f}" if row["ms_a_step"] else ""
        rows.append([name, str(row["steps"]), ms, f"{row['seconds']:.2f}", _gib(row), ratio, cosine, distance])
    head = ["", "steps", "ms a step", "seconds", "peak GiB", "against published", "cosine", "distance"]
    return table(head, rows)


def _sdxl(sdxl: dict[str, Any], tried: dict[str, Any]) -> str:
    steps = [[name, str(before), str(after), note] for name, before, after, note in tried["rows"]]
    return "\n\n".join(
        [
            _where(sdxl, "SDXL")
            + " The recipe is that of kunheek/dti, whose script runs in bfloat16 under autocast: see benchmarks/speed/published_sdxl.py.",
            _speeds(sdxl, lambda row: f"{row['seconds_400']:.0f}"),
            "Seconds are from entering the node *Learn Face* to the token; of the published recipe they are 400 steps, without "
            "reading the photo. Rows without a size are at 768 px, as published; low memory takes as many samples at once as "
            f"fit into 7.5 GiB by the node's own estimate. {_compiled(sdxl['modes'])}{_pictures(sdxl).strip()}",
            _floor(sdxl),
            tried["text"],
            table(["", "before", "after", ""], steps),
        ]
    )


def _diffusers(diffusers: dict[str, Any]) -> str:
    size = diffusers["size"]
    rows = [
        [
            name,
            f"{row['ms_a_step']:.1f}",
            _gib(row),
            f"{row['cosine_of_movement']:.5f}",
            f"{row['ratio_of_distance']:.4f}",
        ]
        for name, row in diffusers["ways"].items()
    ]
    return (
        f"A step of `invert` on a `DiffusersBackbone`, in a run of its own on one {diffusers['gpu']}, torch "
        f"{diffusers['torch']}, batch {size['batch_size']}, {size['resolution']} px.\n\n"
        + table(["", "ms a step", "peak GiB", "cosine", "distance"], rows)
        + "\n\nThe last row of a precision is what a GPU does by itself. Peaks include the model as it was loaded, in float32; "
        "learning runs on copies. Fused blocks alone are slower than diffusers' own, since Python then launches many small "
        "kernels; recording a step takes Python out of it."
    )


def _compiled(modes: dict[str, Any]) -> str:
    """What the first run in a precision took longer."""
    seconds = [modes[name]["until_first_step"] for name in FIRST if "until_first_step" in modes.get(name, {})]
    if not seconds:
        return ""
    return (
        f"The first run ever in a precision (*{'*, *'.join(FIRST)}*) compiles its kernels, {min(seconds):.0f} to "
        f"{max(seconds):.0f} s until the first step here, and keeps them on disk. "
    )


def _pictures(speed: dict[str, Any]) -> str:
    if TWICE not in speed:
        return ""
    return f" A {TWICE}: {speed[TWICE]}; after all of these runs: {speed[AFTER]}."


def _repeated(repeats: dict[str, Any]) -> str:
    """What the fast preset took in runs that followed each other, perhaps on another day."""
    if not repeats:
        return ""
    seconds, first = sorted(repeats["seconds"]), repeats["until_first_step"]
    where = f" {repeats['machine']}" if "machine" in repeats else ""
    return (
        f"Learned {len(seconds)} times in a row{where} it took {seconds[0]:.2f} to {seconds[-1]:.2f} s, in the median "
        f"{median(seconds):.2f}, of which {min(first):.2f} to {max(first):.2f} s went by before the first step was reported: there "
        "the processor works, not the GPU, and its speed decides. "
    )


def _floor(speed: dict[str, Any]) -> str:
    operations, rates = speed.get("operations"), speed["rates"]
    if not operations:
        return ""
    parts, kinds = operations["parts"], operations["kinds"]
    total = sum(parts.values())
    floor = 1e3 * total / rates["tflops"]
    counted = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
    text = (
        f"A step is {total:.1f} TFLOP ({counted}; ComfyUI's own code, counted on the meta device). A float16 matrix product reaches "
        f"{rates['tflops']:.0f} TFLOP/s here and a copy {rates['copy_gb_s']:.0f} GB/s, both on random numbers in the same run: "
        f"the floor is {floor:.1f} ms."
    )
    profile = speed.get("profile")
    if not profile:
        return text
    rows = [[kind, f"{ms:.2f}", f"{100 * ms / profile['ms']:.0f} %"] for kind, ms in profile["ms_by_kind"].items()]
    largest = [[name, f"{ms:.2f}", str(count)] for name, ms, count in profile["largest"][:15]]
    step = speed["modes"].get("full preset", {}).get("ms_a_step") or profile["ms"]
    return "\n\n".join(
        [
            text,
            f"Of a step's {profile['ms']:.1f} ms in {profile['kernels']} kernels (torch.profiler, default mode):",
            table(["", "ms a step", ""], rows),
            f"What remains to the floor is {step - floor:.1f} ms. {_shares(kinds, profile['ms_by_kind'], rates['tflops'])} The rest "
            f"moves bytes, and between kernels {max(0.0, step - profile['ms']):.1f} ms of a step go by.",
            "The largest kernels:",
            table(["kernel", "ms a step", "launches"], largest),
        ]
    )


def _shares(kinds: dict[str, float], ms: dict[str, float], rate: float) -> str:
    """How near to the rate of a large matrix product the kinds of products come."""
    shares = [f"{kind} {100e3 * tflop / ms[kind] / rate:.0f} %" for kind, tflop in kinds.items() if ms.get(kind)]
    return f"Of that rate reach: {', '.join(shares)}." if shares else ""


def _memory(memory: list[dict[str, Any]]) -> str:
    if not memory:
        return ""
    rows = [
        [
            str(row["batch_size"]),
            str(row.get("micro_batch_size", "")),
            str(row.get("resolution", 512)),
            row.get("precision") or "",
            "low"
            if row.get("memory") == "low"
            else ("checkpointing" if row.get("gradient_checkpointing") else "normal"),
            f"{row['peak_gib']:.2f}" if "peak_gib" in row else row["error"][:40],
        ]
        for row in memory
    ]
    return (
        table(["batch", "micro-batch", "px", "precision", "mode", "peak GiB"], rows)
        + "\n\nThrough the node, on SD 2.1; peaks of torch's allocator and of the recorded graph, private copies of the weights included. Low: checkpointing, and "
        "as many samples at once as fit into 4 GiB by the node's own estimate, one at least: float32's weights alone take more. "
        "By itself the node takes the low-memory mode where ComfyUI cannot free what the normal one needs."
    )


def _modes(modes: dict[str, Any]) -> str:
    if not modes:
        return ""
    checks = ["again after a picture", "without the recorded graph", "low memory", "micro-batches"]
    checks += [
        "with sample pictures",
        "after a cancel",
        "bf16",
        "overflow in fp16",
        "out of memory",
        "memory full while recording",
    ]
    rows = [
        [
            name,
            outcome(row),
            row.get("precision", ""),
            f"{row['cosine_of_movement']:.5f}" if "cosine_of_movement" in row else "",
            f"{row['ratio_of_distance']:.4f}" if "ratio_of_distance" in row else "",
            *(_verdict(row.get(check)) for check in checks),
            row.get(TWICE, ""),
            row.get(AFTER, ""),
        ]
        for name, row in modes.items()
    ]
    head = ["mode", "", "precision", "cosine", "distance", *checks, TWICE, AFTER]
    real = "; the embedded miniature, whose weights are real, 128 px, batch 8, 25 steps" if MINIATURE in modes else ""
    parts = [
        "Each in a ComfyUI of its own: movement of the vectors against a plain float32 run on the same draws, at least "
        f"0.999 and within 2 % to be right; then the same run under other conditions. Full size, 512 px and on SDXL 768 px, batch 2, 6 steps{real}. "
        "An empty cell was not measured.",
        table(head, rows),
        *(f"*{name}* {_end(row)}" for name, row in modes.items() if "end" in row),
        *(
            f"*{name}* fell short, or differed, in: {', '.join(wrong(row))}."
            for name, row in modes.items()
            if "code" not in row and wrong(row)
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _end(row: dict[str, Any]) -> str:
    """How a mode ended that did not come to its end."""
    if row.get("refused"):
        return f"is one that ComfyUI refused to start in: {row['end']}"
    return f"ended with code {row['code']} before all checks were made: {row['end']}"


def _verdict(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['cosine_of_movement']:.5f}"
    return str(value or "")[:60]


def _tried(tried: dict[str, Any]) -> str:
    steps = [
        [name, "" if graph is None else f"{graph:.1f}", f"{eager:.0f}", f"{gib:.2f}", note]
        for name, graph, eager, gib, note in tried["steps"]
    ]
    attention = [
        [name, str(forward), str(backward), "yes" if same else "no"]
        for name, forward, backward, same in tried["attention"]
    ]
    later = tried["later"]
    return "\n\n".join(
        [
            tried["where"],
            table(["", "ms", "eager ms", "GiB beside weights", ""], steps),
            "Self-attention of the largest level (8 x 5 heads of 64, 4096 tokens, fp16), microseconds:",
            table(["", "forward", "backward", "repeats bit for bit"], attention),
            tried["recording"],
            later["where"],
            table(
                ["", "before", "after", ""],
                [[name, str(before), str(after), note] for name, before, after, note in later["rows"]],
            ),
            later["text"],
            "Not tried further: compiling blocks with torch.compile takes longer than it saves in a run (about 100 s for 5 ms "
            "a step); convolutions that keep no input came later and save about half a gigabyte at no cost.",
        ]
    )


def _gib(row: dict[str, Any]) -> str:
    return f"{row['peak_gib']:.2f}"


if __name__ == "__main__":
    sys.exit(main())
