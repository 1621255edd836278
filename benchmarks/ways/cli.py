"""The ways to learn a person, compared in the drawn worlds.

    python -m benchmarks.ways choose --world drawn=miniature/weights --world contrast=RUN/model --out build/ways
    python -m benchmarks.ways report --world ... --out build/ways --docs docs/ways.md

`choose` learns people in every way of `plan.WAYS`; `report` learns other people, with other prompts, in the ways that were
chosen, beside plain textual inversion and the published one, and writes the page. What is done is not done again: stop at any
time (`--time-limit` does it in time) and call again. `--keep WORLD` adds to what the page has. Under NVIDIA's MPS many workers share a GPU better.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from .. import drawn_worlds
from ..paper_claims.cli import ROOM, check_devices, fingerprint
from ..paper_claims.plan import Job, jobs
from ..paper_claims.results import Results, Summary, summarize
from ..paper_claims.statistics import Numbers
from ..paper_claims.workers import Order, Outcome, perform
from .choice import chosen
from .kept import check, read_numbers, together
from .page import write_page
from .plan import CHOOSERS, Search, Stage, reported


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code: 0, 1 if a job failed, 2 for a wrong input, 3 if the time limit came."""
    began = time.time()
    options = _parser().parse_args(arguments)
    worlds = drawn_worlds.worlds(options.world)
    stage: Stage = options.stage
    folders = {name: options.out / name / stage for name in worlds}
    try:
        if options.keep and not options.docs:
            raise ValueError("--keep is for --docs, whose page it adds to. Give that as well.")
        kept = read_numbers(options.docs.with_suffix(".json"), options.keep) if options.keep else {}
        plan = _plan(options, worlds)
        if not options.page_only:
            _check(options, plan, worlds, folders)
            for name in set(worlds) & set(kept):
                if stage in kept[name]:
                    check(name, kept[name][stage], asdict(plan), fingerprint(worlds[name]))
    except (ValueError, OSError) as error:
        print(f"ways: {error}", file=sys.stderr)
        return 2
    outcome = Outcome()
    for name, weights in worlds.items():
        if not options.page_only:
            _add(outcome, _measure(options, plan, weights, Results(folders[name]), began))
    if options.docs:
        try:
            write_page(options.docs, together(kept, _summaries(options.out, worlds)))
        except ValueError as error:
            print(f"ways: {error}", file=sys.stderr)
            return 2
    for name, trace in outcome.failed:
        print(f"{name} failed:\n{trace}", file=sys.stderr)
    if outcome.left:
        print(f"{outcome.left} jobs are left. Call again with the same --out to go on.")
    return 1 if outcome.failed else 3 if outcome.left else 0


def _check(options: argparse.Namespace, plan: Search, worlds: Mapping[str, Path], folders: Mapping[str, Path]) -> None:
    """Raises ValueError for what cannot be measured, and binds the folders of results to what is."""
    check_devices(options.devices)
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}, but must be at least 1.")
    drawn_worlds.check_worlds(worlds)
    for name, weights in worlds.items():
        Results(folders[name]).bind(plan, fingerprint(weights), free=("ways", "steps", "long"))


def _steps(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(options.steps)


def _plan(options: argparse.Namespace, worlds: Mapping[str, Path]) -> Search:
    people = options.people or (CHOOSERS if options.stage == "choose" else 40)
    plan = Search(
        people,
        options.seeds,
        _steps(options),
        options.long,
        options.sampling_steps,
        examination=options.examination,
        stage=options.stage,
        ways=tuple(options.ways),
    )
    if options.stage == "choose" or options.ways:
        return plan
    found = _summaries(options.out, worlds)
    for name, each in found.items():
        if "choose" not in each:
            raise ValueError(
                f"No way was measured in '{options.out / name}'. Run `choose` first, or say which with --ways."
            )
    numbers = {name: Numbers(each["choose"]) for name, each in found.items()}
    best = [chosen(numbers, steps) for steps in plan.steps]
    return replace(plan, ways=reported(best))


def _summaries(out: Path, worlds: Mapping[str, Path]) -> dict[str, dict[Stage, Summary]]:
    """For each world what both stages came to, as far as they were measured."""
    found: dict[str, dict[Stage, Summary]] = {}
    stages: tuple[Stage, ...] = ("choose", "report")
    for name in worlds:
        found[name] = {}
        for stage in stages:
            results = Results(out / name / stage)
            plan = results.plan()
            if plan:
                summary = summarize(results, Search(**{**plan, "ways": ()}))
                found[name][stage] = {**summary, "weights": results.weights()}
    return found


def _measure(options: argparse.Namespace, plan: Search, weights: Path, results: Results, began: float) -> Outcome:
    work = [job for job in jobs(plan) if results.missing(job)]
    deadline = began + options.time_limit - ROOM if options.time_limit else None
    devices = [options.devices[i % len(options.devices)] for i in range(options.workers)]
    orders = [Order(weights, results.folder, plan, device, options.workers, deadline) for device in devices]

    def on_job(job: Job, seconds: float, left: int) -> None:
        if left % 20 == 0:
            print(f"{time.time() - began:7.0f} s: {job.trajectory} in {seconds:.1f} s, {left} waiting", flush=True)

    print(f"{len(work)} jobs in {results.folder}, {len(orders)} workers on {' '.join(options.devices)}.", flush=True)
    return perform(work, orders, on_job)


def _add(outcome: Outcome, other: Outcome) -> None:
    outcome.done += other.done
    outcome.failed += other.failed
    outcome.left += other.left


def _parser() -> argparse.ArgumentParser:
    default = Search()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ways", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["choose", "report"])
    drawn_worlds.add_world_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; an earlier one is continued")
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--workers", type=int, default=2, help="processes in all")
    parser.add_argument("--people", type=int, help=f"people to learn: {CHOOSERS} to choose, 40 to report")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="pictures of each prompt")
    parser.add_argument("--steps", type=int, nargs="+", default=list(default.steps))
    parser.add_argument(
        "--long", type=int, default=default.long, help="steps of plain textual inversion while reporting"
    )
    parser.add_argument("--sampling-steps", type=int, default=default.sampling_steps)
    parser.add_argument("--examination", type=int, default=default.examination, help="paintings to examine judges on")
    parser.add_argument("--ways", nargs="+", default=[], help="only these; of report: instead of the chosen ones")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop in time; call again to go on")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the page and its numbers")
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="WORLD", help="keep what the page of --docs has of these"
    )
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write --docs from what is there")
    return parser
