"""Worker processes, each with a model of its own on one device, and who gets which job when."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from .plan import Job, Plan
from .results import Results

MOST_FAILURES = 5
"""After so many failed jobs something is wrong with all of them."""


@dataclass(frozen=True)
class Order:
    """What a worker must know. `deadline` is in `time.time()`."""

    weights: Path
    folder: Path
    plan: Plan
    device: str
    workers: int
    deadline: float | None


@dataclass
class Outcome:
    """How a session went: jobs done, what failed with its traceback, and the number of jobs that are left."""

    done: list[Job] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    left: int = 0


def perform(
    work: Sequence[Job], orders: Sequence[Order], on_job: Callable[[Job, float, int], None] = lambda *_: None
) -> Outcome:
    """Do the jobs in their order, one worker process for each of `orders`; without any, nothing is done.

    Jobs of one trajectory never run at once. A job that fails is told and left out; after `MOST_FAILURES`, and if
    every worker is dead, no further job is begun. on_job(job, seconds, left) is called after each job.
    """
    outcome, waiting = Outcome(), list(work)
    workers = [_Worker(order) for order in orders[: len(waiting)]]
    try:
        while workers:
            ready = {worker.connection: worker for worker in workers}
            for connection in wait(list(ready)):
                worker = ready[connection]  # type: ignore[index]
                if not worker.listen(outcome, lambda job, seconds: on_job(job, seconds, len(waiting))):
                    workers.remove(worker)
            late = orders[0].deadline is not None and time.time() > orders[0].deadline
            if late or len(outcome.failed) >= MOST_FAILURES:
                outcome.left += len(waiting)
                waiting.clear()
            for worker in [worker for worker in workers if worker.idle]:
                busy = {other.job.trajectory for other in workers if other.job}
                job = next((job for job in waiting if job.trajectory not in busy), None)
                if job:
                    waiting.remove(job)
                    worker.give(job)
                elif not waiting:
                    worker.dismiss()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.terminate()
    outcome.left += len(waiting)
    return outcome


class _Worker:
    """The driver's end of a worker process."""

    def __init__(self, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(order, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.idle, self._began = False, 0.0

    def give(self, job: Job) -> None:
        self.job, self.idle, self._began = job, False, time.perf_counter()
        self.connection.send(job)

    def dismiss(self) -> None:
        self.connection.send(None)
        self.process.join(timeout=30)

    def listen(self, outcome: Outcome, on_job: Callable[[Job, float], None]) -> bool:
        """Take in what the worker says; False if it is dead."""
        job, self.job = self.job, None
        try:
            said, text = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(timeout=10)
            reason = f"The worker process died with exit code {self.process.exitcode}."
            outcome.failed.append((job.trajectory if job else "start", reason))
            return False
        if said == "broken":
            outcome.failed.append((job.trajectory if job else "start", text))
            return False
        self.idle = True
        if job is not None:
            if said == "done":
                outcome.done.append(job)
                on_job(job, time.perf_counter() - self._began)
            elif said == "out of time":
                outcome.left += 1
            else:
                outcome.failed.append((job.trajectory, text))
        return True


def _work(order: Order, connection: Connection) -> None:
    """A worker process: says (what, text) and takes jobs until it gets None."""
    from .studio import Clock, OutOfTimeError, Studio

    try:
        clock = Clock(order.deadline, order.workers)
        studio = Studio(order.weights, order.plan, Results(order.folder), order.device, clock)
    except Exception:
        connection.send(("broken", traceback.format_exc()))
        return
    with contextlib.suppress(EOFError, ConnectionError):  # The driver is gone.
        connection.send(("ready", ""))
        while (job := connection.recv()) is not None:
            try:
                studio.do(job)
                answer = ("done", "")
            except OutOfTimeError:
                answer = ("out of time", "")
            except Exception:
                answer = ("failed", traceback.format_exc())
            connection.send(answer)
