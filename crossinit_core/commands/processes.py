"""One person on several GPUs: `torchrun --nproc-per-node N -m crossinit_core train ...`.

torchrun (docs.pytorch.org, "torchrun (Elastic Launch)") starts the same command N times, tells each its place in environment
variables, and ends all if one fails. The first process alone speaks and writes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..learning.ranks import ALONE, number_on_this_machine, started_by_torchrun, together
from .arguments import chosen_device

_SAID_BY_THE_FIRST = (ImportError, MemoryError, OSError, RuntimeError, ValueError, KeyboardInterrupt)


@contextmanager
def processes(options: argparse.Namespace) -> Iterator[None]:
    """Run a command in it: `options.ranks` are then the processes that do, and `options.device` is that of this one.

    Raises ValueError for a command that runs in one process, or a device that not every process can have, and ProcessError if
    another process stopped.
    """
    options.ranks = ALONE
    if not started_by_torchrun():
        yield
        return
    if options.run.__name__ != "train":
        raise ValueError(
            f"torchrun started several processes, but '{options.run.__name__}' runs in one: leave torchrun out."
        )
    first = os.environ["RANK"] == "0"
    try:
        device = _own_device(options.device)
        with together(device) as ranks, contextlib.nullcontext() if first else _silence():
            options.ranks, options.device = ranks, str(device)
            try:
                yield
            except KeyboardInterrupt:
                ranks.look()  # torchrun ends this process because another one failed, which has said why
                raise
    except _SAID_BY_THE_FIRST:
        if first:
            raise
        sys.exit(2)


@contextmanager
def _silence() -> Iterator[None]:
    """Only bugs are seen."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _own_device(name: str | None) -> torch.device:
    device = chosen_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(
            f"--device is '{name}', but torchrun started several processes, and each has a GPU of its own. Use --device cuda."
        )
    here, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > found:
        raise ValueError(
            f"torchrun started {here} processes on this machine, but torch finds {found} GPUs. Start {found}."
        )
    return torch.device("cuda", number_on_this_machine())
