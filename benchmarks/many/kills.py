"""kill -9 at random while people are learned: everybody ends with the bits that they have if they are learned alone.

    python -m benchmarks.many.kills --what worker --times 10 --out build/many
    python -m benchmarks.many.kills --what node --ray --times 10 --out build/many

`worker`: a worker process. `driver`: the command itself; it is given again. `node`: without Ray the command with all its workers
at the same moment; with Ray a node of a cluster, its raylet and all its workers, after which another node joins. On the
miniature, on a CPU with one thread. Writes kills-WHAT.json: how many kills, how many runs went on from a resume file, and how many
people have other bits. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from PIL import Image

from crossinit_core import load_learned_token
from crossinit_core.many.work_list import RESUME, token_path
from miniature.world.people import named_identity, portrait

from ..inversion_speed import ROOT

MODEL = ROOT / "miniature" / "weights"
LEARN = ("--device", "cpu", "--batch-size", "1")
CORES = 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kills", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "many")
    parser.add_argument("--what", choices=("worker", "driver", "node"), required=True)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", type=Path, help="a folder in which people who were learned alone are kept")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photos = home / "people"
        names = [f"p{number}" for number in range(options.people)]
        for number, name in enumerate(names):
            (photos / name).mkdir(parents=True)
            Image.fromarray(portrait(named_identity(name), number)).save(photos / name / "1.png")
        alone = options.alone or home / "alone"
        for name in names:
            _alone(photos / name, token_path(alone, name), options.steps)
        trial = Trial(home, photos, names, options)
        began = time.perf_counter()
        getattr(trial, f"kill_{options.what}{'_of_ray' if options.ray and options.what == 'node' else 's'}")()
        other = [name for name in names if not _same(token_path(alone, name), token_path(trial.out, name))]
        data = {
            "what": options.what,
            "engine": "ray" if options.ray else "processes",
            "people": len(names),
            "steps": options.steps,
            "kills": trial.kills,
            "while_learning": trial.while_learning,
            "commands": trial.commands,
            "seconds": round(time.perf_counter() - began),
            "people_with_other_bits": other,
            "left_behind": sorted(path.name for path in (trial.out / RESUME).glob("*")),
            "orphans": trial.orphans(),
            "ray": trial.version(),
        }
    name = f"kills-{options.what}{'-ray' if options.ray else ''}"
    (options.out / f"{name}.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    print(json.dumps(data), flush=True)
    return 1 if other or trial.kills < options.times else 0


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def _alone(photos: Path, token: Path, steps: int) -> None:
    if token.is_file():
        return
    command = [sys.executable, "-m", "crossinit_core", "train", str(MODEL), str(photos), "--out", str(token)]
    subprocess.run(
        [*command, *LEARN, "--steps", str(steps)], env=_environment(), check=True, capture_output=True, cwd=ROOT
    )
    shutil.rmtree(token.parent / "crossinit-resume", ignore_errors=True)


def _same(one: Path, other: Path) -> bool:
    return torch.equal(load_learned_token(one).vectors, load_learned_token(other).vectors)


class Trial:
    """The command, given again as long as somebody is not finished, and what is killed meanwhile."""

    def __init__(self, home: Path, photos: Path, names: Sequence[str], options: argparse.Namespace) -> None:
        self.home, self.out, self._names, self._options = home, home / "out", names, options
        self._photos, self._random = photos, random.Random(options.seed)
        self.kills = self.while_learning = self.commands = 0
        self._seen: set[psutil.Process] = set()
        self._address = ""

    def kill_workers(self) -> None:
        self._until_all_are_finished(self._kill_a_worker)

    def kill_drivers(self) -> None:
        self._until_all_are_finished(lambda driver: self._kill([driver]))

    def kill_nodes(self) -> None:
        self._until_all_are_finished(lambda driver: self._kill([driver, *driver.children(recursive=True)]))

    def kill_node_of_ray(self) -> None:
        """A head without CPUs of its own, and two nodes with one each."""
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._address = cluster.address
        nodes = [cluster.add_node(num_cpus=1) for _ in range(CORES)]

        def kill(_: psutil.Process) -> None:
            node = nodes.pop(self._random.randrange(len(nodes)))
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            self._kill([raylet, *raylet.children(recursive=True)])
            nodes.append(cluster.add_node(num_cpus=1))

        try:
            self._until_all_are_finished(kill)
        finally:
            cluster.shutdown()

    def _kill_a_worker(self, driver: psutil.Process) -> None:
        if workers := self._workers(driver):
            self._kill([self._random.choice(workers)])

    def _workers(self, driver: psutil.Process) -> list[psutil.Process]:
        found = []
        for process in driver.children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if ("spawn_main" in line) if not self._options.ray else line.startswith("ray::Worker"):
                found.append(process)
        return found

    def _kill(self, processes: Sequence[psutil.Process]) -> None:
        learning = any((self.out / RESUME).glob("*/*"))
        for process in processes:
            try:
                process.kill()
            except psutil.Error:
                continue
        self.kills += 1
        self.while_learning += learning
        print(f"kill {self.kills}: {self._finished()} finished", file=sys.stderr, flush=True)

    def _finished(self) -> int:
        return sum(token_path(self.out, name).is_file() for name in self._names)

    def _until_all_are_finished(self, kill: Callable[[psutil.Process], None]) -> None:
        """Kill at random moments; a moment before anything is begun is a part of it. The last kills come to nobody if all are
        finished, so people are learned anew until there were enough."""
        while self.kills < self._options.times or self._finished() < len(self._names):
            if self._finished() == len(self._names):
                for name in self._random.sample(list(self._names), 2):
                    token_path(self.out, name).unlink()
            driver = psutil.Process(self._start().pid)
            while self._is_running(driver):
                if self.kills < self._options.times:
                    self._seen.update(self._workers(driver))
                    kill(driver)

    def _is_running(self, driver: psutil.Process) -> bool:
        """Wait until a random moment; mostly one at which somebody is begun. False if the command has ended."""
        begun = self._random.random() < 0.8
        end = time.monotonic() + self._random.uniform(0, 9)
        while self.kills >= self._options.times or time.monotonic() < end or begun:
            if begun and any((self.out / RESUME).glob("*/*")):
                begun, end = False, time.monotonic() + self._random.uniform(0, 9)
            with contextlib.suppress(psutil.TimeoutExpired):
                driver.wait(0.2)
                return False
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "crossinit_core", "train-many", str(self._photos), "--model", str(MODEL)]
        command += ["--out", str(self.out), *LEARN, "--steps", str(self._options.steps), "--workers", str(CORES)]
        more = {"RAY_ADDRESS": self._address} if self._address else {}
        self.commands += 1
        with (self.home / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*command, *(["--ray"] if self._options.ray else [])],
                env=_environment(**more),
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def orphans(self) -> int:
        """Workers that are still there after all is finished."""
        time.sleep(2)
        return sum(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self._seen)

    def version(self) -> str | None:
        if not self._options.ray:
            return None
        import ray

        return str(ray.__version__)


if __name__ == "__main__":
    sys.exit(main())
