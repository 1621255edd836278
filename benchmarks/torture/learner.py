"""A run that takes about a second, and processes that do it: forked, so that a try needs no second start of Python."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossinit_core import InversionResult, InversionSettings, StepReport, cross_initialize_words, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone

from . import ROOT

STEPS = 12


@dataclass(frozen=True)
class Learner:
    """The shipped miniature at 64 px on the CPU, and what it learns from."""

    backbone: DiffusersBackbone
    start: Tensor
    photo: Tensor

    @classmethod
    def load(cls) -> Learner:
        torch.set_num_threads(1)  # a forked process cannot use the threads of the one that it comes from
        backbone = DiffusersBackbone.from_pretrained(ROOT / "miniature" / "weights")
        photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        return cls(backbone, cross_initialize_words(backbone, "human face"), photo)

    def settings(self, **changes: Any) -> InversionSettings:
        """Those of a run; `changes` take the place of some."""
        return InversionSettings(**{"steps": STEPS, "batch_size": 2, "resolution": 64, "resume_every": 1, **changes})

    def learn(
        self, folder: Path | None, *, on_step: Callable[[StepReport], None] | None = None, **changes: Any
    ) -> InversionResult:
        """One run."""
        resume = changes.pop("resume", True)
        return invert(
            self.backbone,
            self.start,
            self.settings(**changes),
            images=self.photo,
            resume_folder=folder,
            resume=resume,
            on_step=on_step,
        )


class Child:
    """A forked process that does `work(send)`; what it sends can be taken with `news`."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None]) -> None:
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        gc.freeze()
        self._process = context.Process(target=_child, args=(work, sender), daemon=True)
        self._process.start()
        sender.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def news(self, seconds: float) -> Any:
        """The next thing that it sends. Raises TimeoutError if nothing comes in time, and EOFError after its end."""
        if not self._receiver.poll(seconds):
            raise TimeoutError(f"nothing for {seconds:.0f} s")
        return self._receiver.recv()

    def all_news(self) -> list[Any]:
        """All that it sent, until its end."""
        found = []
        try:
            while True:
                found.append(self._receiver.recv())
        except (EOFError, OSError):
            return found

    def kill(self) -> None:
        """As `kill -9` does."""
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGKILL)

    def end(self, seconds: float = 120) -> int | None:
        """Wait for its end; its exit code, negative for a signal."""
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
            self._process.join()
        code = self._process.exitcode
        self._receiver.close()
        self._process.close()
        return code


def _child(work: Callable[[Callable[[Any], None]], None], sender: Connection) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    work(sender.send)


def learn_in_child(learner: Learner, folder: Path | None, **changes: Any) -> Child:
    """A child that sends the number of each step, and then the outcome: `(vectors, losses, resumed_from, notes)`."""

    def work(send: Callable[[Any], None]) -> None:
        result = learner.learn(folder, on_step=lambda report: send(report.step), **changes)
        send(outcome(result))

    return Child(work)


def outcome(result: InversionResult) -> tuple[bytes, tuple[float, ...], int, tuple[str, ...]]:
    """What two runs must have in common, where this one began, and what it said."""
    return result.token.vectors.numpy().tobytes(), tuple(result.losses), result.resumed_from, result.notes


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
