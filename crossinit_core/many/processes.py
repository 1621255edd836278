"""A crew of processes on this computer, each with a model of its own, and with one GPU if there are any."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from .crew import Make, Order, Report, cannot_start, say_nothing
from .people import Person

STOP_SECONDS = 20.0
"""How long a worker may take to write its resume file when it is told to stop."""
GPUS = "CUDA_VISIBLE_DEVICES"


class ProcessCrew:
    """Workers are processes that are started anew, not copies of this one: a GPU cannot be shared by copies.

    `gpus` names the GPU of each place, as CUDA_VISIBLE_DEVICES does, several times for several workers on one; an empty text
    is for a worker without one. A worker ends itself as soon as this process is gone, however that ended.
    """

    def __init__(self, order: Order, make: Make, gpus: Sequence[str]) -> None:
        self._order, self._make = order, make
        self._places: list[tuple[str, int | None]] = [(gpu, None) for gpu in gpus]
        self._workers: dict[int, _Worker] = {}
        self._hired = 0

    def wanted(self) -> int:
        return len(self._places)

    def hire(self) -> int:
        place = next(index for index, (_, worker) in enumerate(self._places) if worker not in self._workers)
        gpu, number = self._places[place][0], self._hired
        self._workers[number] = _Worker(self._order, self._make, gpu)
        self._places[place] = (gpu, number)
        self._hired += 1
        return number

    def give(self, worker: int, person: Person) -> None:
        self._workers[worker].give(person)

    def news(self, seconds: float) -> Sequence[tuple[int, Report]]:
        of = {worker.connection: number for number, worker in self._workers.items() if not worker.told_dead}
        ready: list[Any] = wait(list(of), seconds)
        return [(of[connection], self._workers[of[connection]].hear()) for connection in ready]

    def dismiss(self, worker: int) -> None:
        self._workers.pop(worker).end()

    def close(self) -> None:
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.end()


class _Worker:
    """The driver's end of a process."""

    def __init__(self, order: Order, make: Make, gpu: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(order, make, theirs), daemon=True)
        with _only_gpu(gpu):
            self.process.start()
        theirs.close()
        self.told_dead, self._busy = False, True

    def give(self, person: Person) -> None:
        self._busy = True
        with contextlib.suppress(OSError):  # it is dead; `hear` finds out
            self.connection.send_bytes(pickle.dumps(person))

    def hear(self) -> Report:
        self._busy = False
        try:
            report: Report = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError, pickle.UnpicklingError):
            self.told_dead = True
            self.process.join(timeout=10)
            return Report("dead", _how_it_ended(self.process.exitcode))
        return report

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            if self._busy:
                self.process.terminate()
            else:
                self.connection.send_bytes(pickle.dumps(None))

    def end(self) -> None:
        self.ask_to_stop()
        self.process.join(STOP_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.connection.close()
        self.process.close()


@contextlib.contextmanager
def _only_gpu(gpu: str) -> Iterator[None]:
    """A process that is started in this block sees one GPU, from its first line on: CUDA looks only once."""
    before = os.environ.copy()
    try:
        if gpu:
            os.environ[GPUS] = gpu
        yield
    finally:
        if GPUS in before:
            os.environ[GPUS] = before[GPUS]
        else:
            os.environ.pop(GPUS, None)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            hint = " Perhaps memory ran out." if name == "SIGKILL" else ""
            return f"the worker process was ended by {name}.{hint}"
    return f"the worker process ended with exit code {code}."


def _work(order: Order, make: Make, connection: Connection) -> None:
    """A worker process: says that it is ready, then answers each person with a report, until the driver is gone."""
    say_nothing()
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which tells the workers
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        try:
            learner = make(order)
        except Exception as error:
            connection.send_bytes(pickle.dumps(cannot_start(error)))
            return
        connection.send_bytes(pickle.dumps(Report("ready")))
        while (person := pickle.loads(connection.recv_bytes())) is not None:
            connection.send_bytes(pickle.dumps(learner.learn(person)))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A driver that is killed cannot tell anybody. A worker that went on would learn beside the next driver's."""
    parent = parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)  # resume files and tokens are whole at any moment

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
