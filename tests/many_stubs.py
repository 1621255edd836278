"""Learners for workers that need no model: they do what a person's name says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from crossinit_core import InversionSettings, LearnedToken, save_learned_token
from crossinit_core.many.crew import Order, Report
from crossinit_core.many.people import Person, Start
from crossinit_core.many.work_list import token_path


def somebody(name: str, photos: Iterable[Path] = (), job: str = "{}") -> Person:
    return Person(name, tuple(photos), InversionSettings(steps=2), Start(), None, job)


class ByName:
    """`fails` fails, `dies-once` kills its worker unless a file says that it did so before, `dies` always kills it."""

    def __init__(self, order: Order) -> None:
        self._out = order.out

    def learn(self, person: Person) -> Report:
        before = self._out / f"{person.name}.before"
        if person.name.startswith("dies") and not (person.name.startswith("dies-once") and before.exists()):
            before.touch()
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if person.name == "fails":
            return Report("failed", "no face")
        facts = {"crossinit.job": person.job}
        save_learned_token(
            LearnedToken(torch.ones(2, 32), person.name, "sd2", facts), token_path(self._out, person.name)
        )
        return Report("done", "learned", notes=("a note",))


def without_a_model(order: Order) -> ByName:
    raise ValueError(f"There is no model at '{order.model}'.")


class Seen:
    """Watches a driver."""

    def __init__(self, place_of: Callable[[Person], object] = lambda person: None) -> None:
        self.reports: dict[str, Report] = {}
        self.place_of = place_of
        self.ready_workers = 0

    def ended(self, person: Person, report: Report) -> None:
        assert person.name not in self.reports, "ended twice"
        self.reports[person.name] = report

    def ready(self) -> None:
        self.ready_workers += 1

    def waiting(self) -> None: ...


class Here:
    """A crew without processes: `answer(worker, person)` is how each task ends."""

    def __init__(self, workers: int, answer: Callable[[int, Person | None], Report]) -> None:
        self._places, self._answer = workers, answer
        self._told: list[tuple[int, Report]] = []
        self.hired = 0
        self.alive: set[int] = set()
        self.most_alive = 0
        self.given: list[tuple[int, str]] = []
        self.closed = False

    def wanted(self) -> int:
        return self._places

    def hire(self) -> int:
        self.hired += 1
        self.alive.add(self.hired)
        self.most_alive = max(self.most_alive, len(self.alive))
        self._told.append((self.hired, self._answer(self.hired, None)))
        return self.hired

    def give(self, worker: int, person: Person) -> None:
        assert worker in self.alive
        self.given.append((worker, person.name))
        self._told.append((worker, self._answer(worker, person)))

    def news(self, seconds: float) -> Sequence[tuple[int, Report]]:
        told, self._told = self._told, []
        assert told, "the driver waits for nobody"
        return told

    def dismiss(self, worker: int) -> None:
        self.alive.discard(worker)

    def close(self) -> None:
        self.closed = True
