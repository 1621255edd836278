"""Who does which job of the experiment on the paper's claims, and what happens when one fails or time is up."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.paper_claims import studio as studio_module
from benchmarks.paper_claims import workers as workers_module
from benchmarks.paper_claims.plan import Job, Plan
from benchmarks.paper_claims.studio import OutOfTimeError
from benchmarks.paper_claims.workers import MOST_FAILURES, Order, Outcome, perform

PLAN = Plan()


class _Thread(workers_module._Worker):
    """A worker without a process: the same conversation, in a thread."""

    def __init__(self, order: Order) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.job, self.idle, self._began = None, False, 0.0
        thread = threading.Thread(target=self._talk, args=(order, theirs), daemon=True)
        self.process: Any = SimpleNamespace(exitcode=-9, terminate=lambda: None, join=thread.join)
        thread.start()

    @staticmethod
    def _talk(order: Order, connection: Connection) -> None:
        with connection, contextlib.suppress(SystemExit):
            workers_module._work(order, connection)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Outcome, list[str]]]:
    """perform(jobs, workers, deadline) with studios that call `act(job)`; also gives when jobs began and ended."""

    def run(work: list[Job], act: Callable[[Job], None], workers: int = 2, deadline: float | None = None) -> Any:
        events: list[str] = []

        class Pretended:
            def __init__(self, *_: object) -> None:
                pass

            def do(self, job: Job) -> None:
                events.append(f"+{job.trajectory}")
                act(job)
                events.append(f"-{job.trajectory}")

        monkeypatch.setattr(workers_module, "_Worker", _Thread)
        monkeypatch.setattr(studio_module, "Studio", Pretended)
        orders = [Order(tmp_path, tmp_path, PLAN, "cpu", workers, deadline) for _ in range(workers)]
        return perform(work, orders), events

    return run


def test_one_trajectory_runs_one_job(session: Callable[..., Any]) -> None:
    """Two jobs of one trajectory never run at once."""
    short, long = (run for run in PLAN.runs() if run.name == "plain")
    work = [Job("learn", 0, short), Job("learn", 0, long), Job("learn", 1, short), Job("learn", 1, long)]
    both = threading.Barrier(2)

    def act(job: Job) -> None:
        if job.run is short:
            both.wait(60)  # passes when two people are learned at once, and fails the job where they never are
        time.sleep(0.05)

    outcome, events = session(work, act, workers=3)
    assert len(outcome.done) == 4 and not outcome.failed and not outcome.left
    for who in ("0000", "0001"):
        own = [event[0] for event in events if event.endswith(who)]
        assert own == ["+", "-", "+", "-"]


def test_others_go_on_after_a_failure(session: Callable[..., Any]) -> None:
    """The failed job is reported."""

    def act(job: Job) -> None:
        if job.identity == 1:
            raise ArithmeticError("no numbers")

    outcome, _ = session([Job("reference", i) for i in range(6)], act)
    assert [name for name, _ in outcome.failed] == ["reference-0001"] and "no numbers" in outcome.failed[0][1]
    assert len(outcome.done) == 5

    def always(job: Job) -> None:
        raise ArithmeticError("no numbers")

    outcome, _ = session([Job("reference", i) for i in range(50)], always)
    assert len(outcome.failed) <= MOST_FAILURES + 1 and outcome.left >= 44, "a fault of all jobs ends the session"


def test_a_dead_worker_loses_its_job_only(session: Callable[..., Any]) -> None:
    def act(job: Job) -> None:
        time.sleep(0.02)
        if job.identity == 0:
            raise SystemExit  # leaves the thread, as a killed process would end

    outcome, _ = session([Job("reference", i) for i in range(5)], act)
    assert [name for name, _ in outcome.failed] == ["reference-0000"] and "exit code -9" in outcome.failed[0][1]
    assert len(outcome.done) == 4 and outcome.left == 0
    outcome, _ = session([Job("reference", i) for i in range(5)], act, workers=1)
    assert not outcome.done and outcome.left == 4, "nobody is left to do them"


def test_the_time_limit_begins_nothing_new(session: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now, late = [0.0], threading.Event()
    monkeypatch.setattr(workers_module, "time", SimpleNamespace(time=lambda: now[0], perf_counter=time.perf_counter))

    def until_the_fourth(job: Job) -> None:
        if job.identity == 3:
            now[0] = 2.0
            late.set()
        elif job.identity > 3:
            late.wait(60)

    outcome, events = session([Job("reference", i) for i in range(100)], until_the_fourth, 2, deadline=1.0)
    done = sorted(job.identity for job in outcome.done)
    assert done in ([0, 1, 2, 3], [0, 1, 2, 3, 4]), "the fifth may have begun already"
    assert len(done) + outcome.left == 100
    assert len(events) == 2 * len(outcome.done), "what had begun was finished"

    def act(job: Job) -> None:
        raise OutOfTimeError

    outcome, _ = session([Job("reference", 0)], act)
    assert outcome.left == 1 and not outcome.failed


def test_a_worker_that_cannot_start_is_told(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    workers_module._work(Order(tmp_path / "nowhere", tmp_path, PLAN, "cpu", 1, None), theirs)
    said, trace = ours.recv()
    assert said == "broken" and str(tmp_path / "nowhere") in trace
