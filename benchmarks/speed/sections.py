"""Sections of docs/performance.md whose numbers have files of their own: the presets, and attention by every kernel."""

from __future__ import annotations

from typing import Any

PRESETS = {"sd2": "SD 2.1", "sdxl": "SDXL"}


def presets_section(presets: dict[str, Any]) -> str:
    """Seconds of each preset, for each family."""
    rows = []
    for family, name in PRESETS.items():
        where, size = presets[family]["where"], presets[family]["size"]
        for mode, row in presets[family]["modes"].items():
            if mode.endswith(" preset"):
                cells = [
                    str(row["steps"]),
                    f"{row['ms_a_step']:.1f}",
                    f"{row['until_first_step']:.1f}",
                    f"{row['seconds']:.1f}",
                ]
                label = f"{name}, batch {size['batch_size']}, {size['resolution']} px"
                rows.append([label, mode.removesuffix(" preset"), *cells])
    return (
        f"Measured on: {where['gpu']}, torch {where['torch']}, one preset after the other in one process for each family, with the node "
        "*Learn Face*; not in the same run as the other tables.\n\n"
        + table(["", "preset", "steps", "ms a step", "seconds until the first step", "seconds in all"], rows)
    )


def attention_section(attention: dict[str, Any]) -> str:
    """All attention of one kind in a step, forward and backward, with each kernel."""
    found = {(row["shape"], row["kernel"]): row for row in attention["rows"]}
    kernels = list(dict.fromkeys(kernel for _, kernel in found))
    rows = []
    for shape in dict.fromkeys(shape for shape, _ in found):
        each = [found.get((shape, kernel)) for kernel in kernels]
        cells = ["" if row is None else f"{row['step_ms']:.2f}{'' if row['repeats'] else ' *'}" for row in each]
        rows.append([shape, *cells])
    return "\n\n".join(
        [
            f"Measured on: {attention['device']}, torch {attention['torch']}, float16. All attention of one kind in a step, forward and "
            "backward, in milliseconds. *Exact* is what torch gives when told to repeat bit for bit, as while learning. A star: the same "
            "call gave other bits the second time.",
            table(["", *kernels], rows),
            "Of the kernels that repeat, this pack's are the fastest everywhere. cuDNN's take a tenth less at most, and up to two and a "
            "half times as long for short rows; they do not repeat for pixels among themselves, and torch refuses them where bits must "
            "repeat.",
        ]
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; a bar in a cell becomes a slash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
