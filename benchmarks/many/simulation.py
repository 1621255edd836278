"""Ten thousand people whom a stub learns in milliseconds: what the driver itself takes.

    python -m benchmarks.many.simulation --people 10000 --workers 2 --out build/many

The command is `train-many`, whole: list, work list, hand-out, failures, pages; only the learner is a stub, which writes a token
and a picture of the usual size. Every twentieth person fails. Writes simulation.json: seconds of each part, and at each tenth of the
way the driver's memory, open files and threads. Then the same command again, when all is finished.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from crossinit_core import LearnedToken, save_learned_token
from crossinit_core.commands import many_people
from crossinit_core.commands.train_many import add_options
from crossinit_core.files import write_atomically
from crossinit_core.many.crew import Order, Report
from crossinit_core.many.people import Person
from crossinit_core.many.work_list import picture_path, state_of, token_path
from crossinit_core.tokens import metadata

from ..inversion_speed import ROOT

FAILS = 20
MODEL = ROOT / "miniature" / "weights"


class Stub:
    """Learns nobody: it writes what a learner writes."""

    def __init__(self, order: Order) -> None:
        self._out = order.out
        picture = io.BytesIO()
        Image.effect_noise((192, 192), 60).save(picture, format="JPEG", quality=88)
        self._picture = picture.getvalue()

    def learn(self, person: Person) -> Report:
        if int(person.name.removeprefix("p")) % FAILS == 0:
            return Report("failed", "2 faces were found, but one was expected.")
        if state_of(person, self._out) != "":
            write_atomically(picture_path(self._out, person.name), self._picture)
            facts = {metadata.JOB: person.job, metadata.STEPS: "320", metadata.DISTANCE: "1.2 1.3"}
            save_learned_token(
                LearnedToken(torch.ones(2, 1024), person.name, "sd2", facts), token_path(self._out, person.name)
            )
        return Report("done", "learned", 0.003)


class Watch:
    """Looks at this process whenever another tenth of the people has a token."""

    def __init__(self, out: Path, people: int) -> None:
        self._out, self._people = out, people
        self.rows: list[dict[str, Any]] = []
        self._tenth = -1
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        me, began = psutil.Process(), time.perf_counter()
        while not self._end.wait(0.5):
            tokens = sum(1 for _ in self._out.glob("*.safetensors")) if self._out.is_dir() else 0
            if (tenth := tokens * 10 // self._people) > self._tenth:
                self._tenth = tenth
                self.rows.append(
                    {
                        "people": tokens,
                        "seconds": round(time.perf_counter() - began, 1),
                        "megabytes": round(me.memory_info().rss / 2**20, 1),
                        "open_files": me.num_fds(),
                        "threads": me.num_threads(),
                        "cpu_seconds": round(sum(me.cpu_times()[:2]), 1),
                    }
                )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "many")
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args(arguments)
    command = argparse.ArgumentParser()
    add_options(command)
    options.out.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"people": options.people, "workers": options.workers, "ray": options.ray}
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder), Path(folder) / "out"
        photo = home / "photo.png"
        Image.new("RGB", (64, 64)).save(photo)
        lines = ["name,photos", *(f"p{number},photo.png" for number in range(1, options.people + 1))]
        (home / "people.csv").write_text("\n".join(lines), encoding="utf-8")
        words = [str(home / "people.csv"), "--model", str(MODEL), "--out", str(out), "--device", "cpu"]
        words += ["--workers", str(options.workers), *(["--ray"] if options.ray else [])]
        for name in ("first", "again"):
            began = time.perf_counter()
            with Watch(out, options.people) as watch:
                many_people.run(command.parse_args(words), Stub)
            data[name] = {"seconds": round(time.perf_counter() - began, 1), "course": watch.rows}
            print(json.dumps(data[name]), flush=True)
        pages = sorted((out / "summary").glob("*.html"))
        data["output"] = {
            "tokens": sum(1 for _ in out.glob("*.safetensors")),
            "failures": len((out / "failures.jsonl").read_text(encoding="utf-8").splitlines()),
            "pages": len(pages),
            "largest_page_kb": round(max(page.stat().st_size for page in pages) / 1024, 1),
            "resume_folders": sum(1 for _ in (out / ".resume").glob("*")) if (out / ".resume").is_dir() else 0,
            "other_files": sorted(path.name for path in out.iterdir() if path.suffix != ".safetensors"),
        }
    name = "simulation-ray" if options.ray else "simulation"
    (options.out / f"{name}.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    print(json.dumps(data["output"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
