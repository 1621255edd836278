"""Crashes, full disks, damaged and hostile files: how often each was tried, and how often something went wrong.

    python -m benchmarks.torture --out build/torture                              (also: run.py bench torture)
    python -m benchmarks.torture --part kill --tries 200
    python -m benchmarks.torture --part fuzz --seconds 3600
    python -m benchmarks.torture --page                    docs/reliability.md from docs/measurements/reliability

Each part writes PART.json, and a table is printed. The parts fork, so they need Linux or macOS; a full disk is real on Linux.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import ROOT
from .page import KEPT, page, table
from .record import Record

PARTS: dict[str, tuple[str, int]] = {
    "kill": ("kill -9 at random moments", 200),
    "together": ("two processes on one folder", 50),
    "places": ("full, read-only and vanishing disks", 100),
    "repeats": ("learnings in one process", 200),
    "server": ("learnings in one ComfyUI", 200),
    "server-kill": ("kill -9 of a ComfyUI that learns", 10),
    "bombs": ("files that claim or unpack to far more than they are", 0),
    "fuzz": ("random and broken files and texts", 0),
}
"""Each part with the number of tries that is reported; bombs are all tried once, fuzzing goes by seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="default: all; may be repeated")
    parser.add_argument("--tries", type=int, help="of each part that counts them; default: that of the report")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of fuzzing, all kinds together; default: %(default)s"
    )
    parser.add_argument("--kind", action="append", help="how the kinds of fuzzing or of bombs begin; default: all")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".host" / "ComfyUI", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "torture")
    parser.add_argument("--page", action="store_true", help="only write docs/reliability.md from what was kept")
    options = parser.parse_args(arguments)
    if options.page:
        (ROOT / "docs" / "reliability.md").write_text(page(KEPT), encoding="utf-8")
        return 0
    if not hasattr(sys.modules["os"], "fork"):
        print("The torture forks processes, which Windows cannot. Run it on Linux or macOS.", file=sys.stderr)
        return 2
    logging.disable(logging.WARNING)  # notes are looked at where they are returned
    options.out.mkdir(parents=True, exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory(prefix="crossinit-torture-") as folder:
        for part in options.part or PARTS:
            found = _run(part, options, Path(folder))
            content = {"where": _where(), "seed": options.seed, "records": [record.as_json() for record in found]}
            (options.out / f"{part}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            records += content["records"]
    print(table(records))
    for record in records:
        for problem in record["failed"]:
            print(f"{record['part']}: {problem}")
    return 1 if any(record["failures"] for record in records) else 0


def _run(part: str, options: argparse.Namespace, folder: Path) -> list[Record]:
    """A part's records; its imports are its own, so that the page needs none."""
    tries = options.tries or PARTS[part][1]
    if part == "fuzz":
        from .fuzz import KINDS, fuzz

        kinds = [kind for kind in KINDS if kind.startswith(tuple(options.kind or [""]))]
        return [fuzz(kind, options.seconds / len(kinds), folder, options.seed, options.out) for kind in kinds]
    if part == "bombs":
        from .bombs import bombs

        return [bombs(folder, options.kind or ("",))]
    if part in ("server", "server-kill"):
        from .servers import kills, learnings

        if part == "server":
            return [learnings(options.comfyui.resolve(), tries, folder)]
        return [kills(options.comfyui.resolve(), tries, folder, options.seed)]
    from .crashes import kill, together
    from .learner import Learner
    from .places import places
    from .repeats import repeats

    learner = Learner.load()
    work: dict[str, Callable[[], Record]] = {
        "kill": lambda: kill(learner, tries, folder, options.seed),
        "together": lambda: together(learner, tries, folder, options.seed),
        "places": lambda: places(learner, tries, folder, options.seed),
        "repeats": lambda: repeats(learner, tries, folder),
    }
    return [work[part]()]


def _where() -> dict[str, Any]:
    return {"system": platform.system(), "python": platform.python_version(), "torch": torch.__version__}


if __name__ == "__main__":
    sys.exit(main())
