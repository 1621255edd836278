"""People an hour on one and on several GPUs, and with several people side by side on one GPU.

    python -m benchmarks.many.throughput --gpus 1 2 --people-per-gpu 1 2 3 --out build/many

SD 2.1 at full size with random weights, which every worker makes for itself; a person is a photo, 320 steps, batch 8, 512 px.
All workers are started once, and each number is measured with a part of them: the driver, the processes and the learner are
those of `train-many`. Without a GPU everything is small, and shows only that it works. Writes many-people.json after each
number: people an hour, the seconds of each person, and whether all vectors have the same bits, since all people are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from crossinit_core import InversionSettings, load_learned_token
from crossinit_core.many.crew import Crew, Order, Report
from crossinit_core.many.driver import hand_out
from crossinit_core.many.learner import FaceLearner
from crossinit_core.many.people import Person, Start
from crossinit_core.many.processes import ProcessCrew
from crossinit_core.many.work_list import token_path

from ..inversion_speed import ROOT
from ..speed.diffusers import standin

PEOPLE_EACH = {1: 2}
"""How many people a worker learns for a number: more where a small difference counts, and it takes less time."""


def make_learner(order: Order) -> FaceLearner:
    """A learner on SD 2.1 with random weights; a small one without a GPU."""
    device = torch.device(order.device)
    return FaceLearner(order, standin(device, small=device.type == "cpu"))


class Part:
    """Some workers of a crew that are ready already, as a crew of their own."""

    def __init__(self, crew: Crew, workers: Sequence[int]) -> None:
        self._crew, self._workers = crew, list(workers)
        self._ready = deque(workers)
        self._told: list[tuple[int, Report]] = []

    def wanted(self) -> int:
        return len(self._workers)

    def hire(self) -> int:
        worker = self._ready.popleft()
        self._told.append((worker, Report("ready")))
        return worker

    def give(self, worker: int, person: Person) -> None:
        self._crew.give(worker, person)

    def news(self, seconds: float) -> Sequence[tuple[int, Report]]:
        told, self._told = self._told, []
        return told or self._crew.news(seconds)

    def dismiss(self, worker: int) -> None:
        raise RuntimeError(f"Worker {worker} died, and the numbers would be wrong.")

    def close(self) -> None:
        """The workers stay for the next number."""


class Ends:
    """Keeps the reports of those who ended."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def ended(self, person: Person, report: Report) -> None:
        self.reports.append(report)

    def ready(self) -> None: ...

    def waiting(self) -> None: ...

    def place_of(self, person: Person) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "many")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--people-per-gpu", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--people", type=int, help="that each worker learns for a number")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float, default=285, help="after which no further number is begun")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    count = torch.cuda.device_count()
    cuda = count > 0
    gpus = [number for number in options.gpus if not cuda or number <= count]
    steps = options.steps or (320 if cuda else 2)
    size: dict[str, Any] = {"resolution": 512, "batch_size": 8} if cuda else {"resolution": 64, "batch_size": 2}
    settings = InversionSettings(steps=steps, **size)
    data: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpus": count,
        "torch": torch.__version__,
        "settings": {"steps": steps, **size},
        "numbers": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        photo = out / "photo.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)).save(photo)
        places = [(gpu, slot) for gpu in range(max(gpus)) for slot in range(max(options.people_per_gpu))]
        order = Order(out / "model", out, "cuda" if cuda else "cpu", threads=0 if cuda else 1)
        crew = ProcessCrew(order, make_learner, [str(gpu) if cuda else "" for gpu, _ in places])
        try:
            workers = [crew.hire() for _ in places]
            ready: set[int] = set()
            while len(ready) < len(workers):
                for worker, report in crew.news(5):
                    if report.kind != "ready":
                        raise RuntimeError(f"A worker did not start: {report.text}")
                    ready.add(worker)
            data["seconds_to_load"] = round(time.perf_counter() - began, 1)
            warm = replace(settings, steps=min(steps, 12))
            measure(Part(crew, workers), people("warm", len(workers), photo, warm), out)
            data["seconds_to_warm_up"] = round(time.perf_counter() - began - data["seconds_to_load"], 1)
            print(json.dumps(data), flush=True)
            for number, (per, on) in enumerate((per, on) for per in options.people_per_gpu for on in gpus):
                each = options.people or PEOPLE_EACH.get(per, 1)
                if late(data["numbers"], per * each, time.perf_counter() - began, options.seconds):
                    print(f"no time for {on} GPUs with {per} people on each", flush=True)
                    continue
                chosen = [
                    worker for worker, place in zip(workers, places, strict=True) if place[0] < on and place[1] < per
                ]
                group = people(f"n{number}", len(chosen) * each, photo, settings)
                row = {"gpus": on, "people_per_gpu": per, **measure(Part(crew, chosen), group, out)}
                data["numbers"].append(row)
                print(json.dumps(row), flush=True)
                (options.out / "many-people.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
            for worker in workers:
                crew.dismiss(worker)
        finally:
            crew.close()
    print(table(data), flush=True)
    return 0


def people(name: str, count: int, photo: Path, settings: InversionSettings) -> list[Person]:
    """So many people of one photo, all the same but for their names."""
    start = Start(words="human face")
    return [Person(f"{name}-{number}", (photo,), settings, start, None, "{}") for number in range(count)]


def measure(crew: Crew, group: Sequence[Person], out: Path) -> dict[str, Any]:
    """Learn a group: from handing out the first person until the last is saved."""
    watch = Ends()
    began = time.perf_counter()
    hand_out(group, crew, watch)
    seconds, reports = time.perf_counter() - began, watch.reports
    if failed := [report.text for report in reports if report.kind != "done"]:
        raise RuntimeError(failed[0])
    vectors = [load_learned_token(token_path(out, person.name)).vectors for person in group]
    return {
        "people": len(group),
        "seconds": round(seconds, 2),
        "people_an_hour": round(3600 * len(group) / seconds, 1),
        "seconds_each": [round(report.seconds, 2) for report in reports],
        "same_bits": all(torch.equal(one, vectors[0]) for one in vectors),
        "digest": float(vectors[0].double().sum()),
        "said": reports[0].text,
    }


def late(rows: Sequence[dict[str, Any]], units: int, now: float, most: float) -> bool:
    """Whether a number would end too late, if people side by side share a GPU's speed."""
    one = next((row["seconds"] / row["people"] for row in rows if row["people_per_gpu"] == row["gpus"] == 1), 0.0)
    return now + one * units > most


def table(data: dict[str, Any]) -> str:
    """The numbers as text, and how many times as many people an hour as with the first row's workers."""
    lines = [f"{'GPUs':>5}{'people a GPU':>14}{'people an hour':>16}{'times':>7}  same bits"]
    for row in data["numbers"]:
        times = row["people_an_hour"] / data["numbers"][0]["people_an_hour"]
        lines.append(
            f"{row['gpus']:>5}{row['people_per_gpu']:>14}{row['people_an_hour']:>16.1f}{times:>7.2f}  {row['same_bits']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
