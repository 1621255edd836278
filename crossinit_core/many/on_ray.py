"""A crew of Ray actors, one for each GPU or share of one, on the cluster that RAY_ADDRESS names or on this computer.

All computers need this package, the model, the photos and the output folder under the same paths. Ray hands work to no actor by
itself here: the driver does, so that a person who brings workers down again and again is given up, which Ray's own
`max_task_retries=-1` never does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..text import quoted
from .crew import Learner, Make, Order, Report, cannot_start, say_nothing
from .people import Person

GPU = "GPU"


class RayCrew:
    """`workers` in all; None: `per_gpu` for each GPU that the cluster has by now, or one if it works on CPUs.

    `order.device` is `cuda` or `cpu`, or empty: then GPUs are used if the cluster has any by now.

    Raises ImportError if Ray is not installed, and RuntimeError if the cluster cannot be reached.
    """

    def __init__(self, order: Order, make: Make, *, workers: int | None, per_gpu: int) -> None:
        self._ray = _start_ray()
        device = order.device or ("cuda" if self._gpus() else "cpu")
        self._order, self._make, self._cpu = replace(order, device=device), make, device == "cpu"
        self._workers, self._per_gpu = workers, per_gpu
        self._actors: dict[int, Any] = {}
        self._tasks: dict[Any, int] = {}
        self._hired = 0

    def wanted(self) -> int:
        if self._workers is not None:
            return self._workers
        return 1 if self._cpu else max(1, round(self._gpus() * self._per_gpu))

    def _gpus(self) -> float:
        return float(self._ray.cluster_resources().get(GPU, 0))

    def hire(self) -> int:
        share = {"num_cpus": 1, "num_gpus": 0 if self._cpu else 1 / self._per_gpu}
        actor = self._ray.remote(Worker).options(max_restarts=0, **share).remote(self._make, self._order)
        number = self._hired
        self._hired += 1
        self._actors[number] = actor
        self._tasks[actor.start.remote()] = number
        return number

    def give(self, worker: int, person: Person) -> None:
        self._tasks[self._actors[worker].learn.remote(person)] = worker

    def news(self, seconds: float) -> Sequence[tuple[int, Report]]:
        if not self._tasks:
            time.sleep(min(seconds, 0.1))
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        return [(self._tasks.pop(task), self._result(task)) for task in ready]

    def dismiss(self, worker: int) -> None:
        actor = self._actors.pop(worker)
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor)
        for task in [task for task, number in self._tasks.items() if number == worker]:
            del self._tasks[task]

    def close(self) -> None:
        for worker in list(self._actors):
            self.dismiss(worker)
        self._ray.shutdown()

    def _result(self, task: Any) -> Report:
        try:
            report: Report = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return Report("dead", f"Ray lost the worker: {quoted(' '.join(str(error).split()), 300)}")
        return report


class Worker:
    """The actor."""

    def __init__(self, make: Make, order: Order) -> None:
        self._make, self._order = make, order
        self._learner: Learner | None = None

    def start(self) -> Report:
        say_nothing()
        try:
            self._learner = self._make(self._order)
        except Exception as error:
            return cannot_start(error)
        return Report("ready")

    def learn(self, person: Person) -> Report:
        if self._learner is None:
            raise RuntimeError("The worker was not started.")
        return self._learner.learn(person)


def _start_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent to anybody
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f'--ray needs Ray ({error}). Install it: pip install "crossinit[ray]", or leave --ray out: the GPUs of one computer '
            "need no Ray."
        ) from error
    if not ray.is_initialized():
        here: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise RuntimeError(f"Ray could not be reached: {quoted(' '.join(str(error).split()), 400)}") from error
    return ray
