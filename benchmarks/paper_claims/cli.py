"""The paper's claims, measured on the embedded miniature: see docs/paper-claims.md for what comes of it.

    python -m benchmarks.paper_claims --devices cuda:0 cuda:1 --workers 24 --out build/claims --docs docs/paper-claims.md

Every learning goes through `crossinit_core.invert`. What is done is not done again: stop at any time (`--time-limit`
does it in time) and call again with the same --out. A smaller experiment: fewer --identities, or --only NAME. Under
NVIDIA's MPS (`nvidia-cuda-mps-control -d`) 24 workers do three times as much on one GPU as without it.
`--alone` measures seconds with nothing beside it and ends; `--docs-only` writes the page from what is there.

    python -m benchmarks.paper_claims --docs docs/paper-claims.md --page-only --beside contrast=build/contrast

`--page-only` writes the page from the numbers that lie beside it, without results. `--beside` adds a second world: the --out of
a measurement with that world's --weights. Its numbers come to docs/paper-claims-contrast.json, and are found there next time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from crossinit_core.models.compact_folder import read_config
from miniature.training import pack

from .both_worlds import second_world
from .page import write_docs, write_page
from .plan import Job, Plan, jobs
from .results import Results, read_summary, write_json
from .workers import Order, Outcome, perform

ROOM = 20.0
"""Seconds before --time-limit at which running jobs are stopped, to write their resume files and the page."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code: 0, 1 if a job failed, 2 for a wrong input, 3 if the time limit came."""
    began = time.time()
    options = _parser().parse_args(arguments)
    try:
        _check_pages(options)
        beside = second_world(options.docs, options.beside) if options.docs else None
        if options.page_only:
            write_page(options.docs, read_summary(options.docs.with_suffix(".json")), beside)
            return 0
        plan, results = _checked(options)
        work = [job for job in jobs(plan, options.only) if results.missing(job)]
    except (ValueError, OSError) as error:
        print(f"paper_claims: {error}", file=sys.stderr)
        return 2
    outcome = Outcome()
    if options.alone:
        from .studio import Studio

        studio = Studio(options.weights, plan, results, options.devices[0])
        write_json(results.folder / "alone.json", studio.alone((plan.fast, plan.full)))
    elif not options.docs_only:
        outcome = _measure(options, plan, results, work, began)
    if options.docs and not options.alone:
        write_docs(options.docs, results, plan, beside)
    for name, trace in outcome.failed:
        print(f"{name} failed:\n{trace}", file=sys.stderr)
    if outcome.left:
        print(f"{outcome.left} of {len(work)} jobs are left. Call again with the same --out to go on.")
    return 1 if outcome.failed else 3 if outcome.left else 0


def _measure(options: argparse.Namespace, plan: Plan, results: Results, work: Sequence[Job], began: float) -> Outcome:
    deadline = began + options.time_limit - ROOM if options.time_limit else None
    orders = [
        Order(options.weights, results.folder, plan, options.devices[i % len(options.devices)], options.workers, deadline)
        for i in range(options.workers)
    ]  # fmt: skip

    started, done = datetime.now(UTC), 0

    def on_job(job: Job, seconds: float, left: int) -> None:
        nonlocal done
        done += 1
        # After each job, because a session may be ended from outside; and two may run side by side.
        results.write_session(f"{started:%Y%m%d-%H%M%S}-{os.getpid()}", _session(options, started, done))
        print(f"{time.time() - began:7.0f} s: {job.trajectory} in {seconds:.1f} s, {left} waiting", flush=True)

    print(f"{len(work)} jobs, {len(orders)} workers on {' '.join(options.devices)}.", flush=True)
    return perform(work, orders, on_job)


def _session(options: argparse.Namespace, started: datetime, done: int) -> dict[str, object]:
    from .studio import device_name

    names = sorted({device_name(torch.device(device)) for device in options.devices})
    return {
        "when": started.isoformat(timespec="minutes"),
        "devices": f"{len(options.devices)} x {', '.join(names)}",
        "workers": options.workers,
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "jobs": done,
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("torch", "diffusers", "transformers")),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _check_pages(options: argparse.Namespace) -> None:
    """Raises ValueError where options on the page and its numbers lack another one or contradict each other."""
    for name, given in (("--page-only", options.page_only), ("--beside", options.beside is not None)):
        if given and not options.docs:
            raise ValueError(f"{name} is about the page, so give it with --docs FILE.")
    if options.page_only and (options.docs_only or options.alone):
        raise ValueError(
            f"--page-only measures nothing, so leave out --{'docs-only' if options.docs_only else 'alone'}."
        )
    if not options.out and not options.page_only:
        raise ValueError("--out is missing. Give a folder for the results; only --page-only does without.")


def _checked(options: argparse.Namespace) -> tuple[Plan, Results]:
    """Everything that can be wrong is found here, before any long work."""
    plan = Plan(
        options.identities,
        options.seeds,
        tuple(options.steps),
        options.long,
        options.sampling_steps,
        options.guidance,
        options.examination,
    )
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}, but must be at least 1.")
    if options.time_limit is not None and options.time_limit <= ROOM:
        raise ValueError(f"--time-limit is {options.time_limit:g}, but must be more than {ROOM:g} seconds.")
    check_devices(options.devices)
    if options.docs and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--docs draws a plot, but matplotlib is not installed: pip install matplotlib")
    if options.docs:
        options.docs.parent.mkdir(parents=True, exist_ok=True)
    read_config(options.weights)
    results = Results(options.out)
    results.bind(plan, fingerprint(options.weights))
    return plan, results


def fingerprint(weights: Path) -> str:
    """Changes when the model or a judge changes."""
    digest = hashlib.sha256()
    for path in sorted(weights.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_devices(names: Sequence[str]) -> None:
    """Raises ValueError for a device that this machine does not have."""
    for name in names:
        _check_device(name)


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--devices has '{name}', but must be cpu, cuda:0, cuda:1, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--devices has '{name}', but this machine has {torch.cuda.device_count()} CUDA devices.")


def _parser() -> argparse.ArgumentParser:
    default = Plan()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the results; an earlier one is continued")
    parser.add_argument("--weights", type=Path, default=pack.WEIGHTS, help="folder of the shipped miniature")
    parser.add_argument("--devices", nargs="+", default=["cuda:0" if torch.cuda.is_available() else "cpu"])
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="processes in all")
    parser.add_argument("--identities", type=int, default=default.identities, help="people to learn")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="pictures of each prompt")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs such as cross-names or plain-5000")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop in time; call again to go on")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the page, its numbers and its pictures")
    parser.add_argument("--docs-only", action="store_true", help="measure nothing, write --docs from what is there")
    parser.add_argument(
        "--page-only", action="store_true", help="write --docs from the numbers beside it, without --out"
    )
    parser.add_argument("--beside", metavar="NAME=FOLDER", help="the results of a second world: contrast=FOLDER")
    parser.add_argument("--alone", action="store_true", help="measure seconds on the first device, nothing else")
    parser.add_argument("--steps", type=int, nargs="+", default=list(default.steps), help="fast, middle, full")
    parser.add_argument("--long", type=int, default=default.long, help="steps of the long plain textual inversion")
    parser.add_argument("--sampling-steps", type=int, default=default.sampling_steps)
    parser.add_argument("--guidance", type=float, default=default.guidance)
    parser.add_argument("--examination", type=int, default=default.examination, help="paintings to examine judges on")
    return parser
