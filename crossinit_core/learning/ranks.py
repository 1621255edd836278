"""One person on several devices: a process for each learns from its part of every batch, and all come to the same vectors.

Every process draws the same batches and takes its part of each. The gradients of the parts are added up on the devices, and
each process updates its vectors by the sum, so batch and learning rate are those of one process. Other code learns from a
batch that is as many times larger (diffusers, `examples/textual_inversion`), which gives other vectors.

What follows from the added numbers, such as an overflow, every process decides alike without asking. A process that runs out
of memory cuts its own part into smaller pieces, or learns in low-memory mode, before it adds its numbers: the others only
wait. The first process alone reads and writes resume files.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..text import quoted
from .batches import TrainingBatch

if TYPE_CHECKING:
    from torch.distributed import Store

_PAUSE, _LOOK_EVERY, _WAIT_AT_END = 0.0002, 0.25, 60.0
"""Seconds: between two looks at what is waited for, between two at the other processes, and for them at the end."""
_FAILED = "failed"


class ProcessError(ConnectionError):
    """Another process of this run stopped, cannot be reached, or does something else."""


class Ranks(Protocol):
    """The processes that learn one person, as one of them sees them."""

    number: int
    """Of this process; the first one is 0."""
    count: int

    def part_of(self, samples: int) -> int:
        """The most samples that a process gets of a batch of so many."""
        ...

    def pieces(self, batch: TrainingBatch, size: int) -> list[TrainingBatch]:
        """This process's samples of a batch, `size` at most in each; nothing if there are too few samples."""
        ...

    def add_up(self, *tensors: Tensor) -> None:
        """Add to tensors, float32 on the device, those of all other processes. They come to the same bits everywhere, those
        of one process that goes through the batch in pieces of `part_of(len(batch))`. A GPU's host does not wait."""
        ...

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait for work that other processes have a part in. Raises ProcessError if one of them stopped."""
        ...

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives in the first process, where alone it is called. Raises ProcessError if that stopped."""
        ...

    def of_first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor: numbers from different devices may differ in their last bits."""
        ...

    def stop(self) -> None:
        """This process leaves the run before its end: the device's work that waits for others is given up."""
        ...


class Alone:
    """One process, which has nobody to wait for."""

    number, count = 0, 1

    def part_of(self, samples: int) -> int:
        return samples

    def pieces(self, batch: TrainingBatch, size: int) -> list[TrainingBatch]:
        return list(batch.split(size))

    def add_up(self, *tensors: Tensor) -> None:
        pass

    def wait(self, done: Callable[[], bool]) -> None:
        pass

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        return make()

    def of_first(self, tensor: Tensor) -> Tensor:
        return tensor

    def stop(self) -> None:
        pass


ALONE: Ranks = Alone()


class Together:
    """Processes that torch.distributed has brought together: NCCL between GPUs, gloo between CPUs.

    `store` is what they tell each other by beside the numbers: who failed and why, and what the first one read.
    """

    def __init__(self, store: Store, number: int, count: int, device: torch.device) -> None:
        self.number, self.count = number, count
        self._store, self._device = store, device
        self._said = 0
        self._looked = time.monotonic()

    def part_of(self, samples: int) -> int:
        return -(-samples // self.count)

    def pieces(self, batch: TrainingBatch, size: int) -> list[TrainingBatch]:
        parts = list(batch.split(self.part_of(len(batch))))
        return [piece for part in parts[self.number :][:1] for piece in part.split(size)]

    @torch.no_grad()
    def add_up(self, *tensors: Tensor) -> None:
        import torch.distributed as dist

        mine = torch.cat([tensor.reshape(-1) for tensor in tensors])
        everybody = mine.new_empty(self.count, len(mine))
        with self._connection():
            # Gathered, not reduced: the order of the sum is then ours, and not one of the library and the wiring.
            # NCCL only puts it into the GPU's stream. gloo is waited for here, where Ctrl-C gets through.
            work = dist.all_gather_into_tensor(everybody.view(-1), mine, async_op=self._device.type != "cuda")
            if work is not None:
                self.wait(work.is_completed)
                work.wait()
        *others, total = everybody
        for part in reversed(others):  # as `Step` adds the pieces of a batch
            total += part
        for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def wait(self, done: Callable[[], bool]) -> None:
        while not done():
            time.sleep(_PAUSE)
            if time.monotonic() - self._looked > _LOOK_EVERY:
                self.look()

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        key = f"said/{self._said}"
        self._said += 1
        if self.number == 0:
            said = make()
            with self._connection():
                self._store.set(key, said)  # type: ignore[arg-type]
            return said
        with self._connection():
            self.wait(lambda: self._store.check([key]))
            return bytes(self._store.get(key))

    def of_first(self, tensor: Tensor) -> Tensor:
        return load(self.from_first(lambda: save({"tensor": tensor.contiguous()})))["tensor"]

    def look(self) -> None:
        """Raises ProcessError if another process has said that it failed."""
        self._looked = time.monotonic()
        with self._connection():
            if not self._store.check([_FAILED]):
                return
            who, _, why = self._store.get(_FAILED).decode().partition(" ")
        if int(who) != self.number:
            raise ProcessError(f"Process {int(who) + 1} of {self.count} stopped: {why}")

    def failed(self, error: BaseException) -> None:
        """Tell the others why this process stops; the first reason is kept."""
        told_to = isinstance(error, KeyboardInterrupt)
        why = "it was told to." if told_to else quoted(" ".join(str(error).split()) or type(error).__name__, 400)
        with contextlib.suppress(RuntimeError):
            self._store.compare_set(_FAILED, "", f"{self.number} {why}")

    def stop(self) -> None:
        import torch.distributed as dist

        if self._device.type == "cuda" and dist.is_initialized():
            # A kernel that waits for a process that is gone would never end, nor would anything that waits for the device.
            with contextlib.suppress(RuntimeError):
                dist.group.WORLD._get_backend(self._device).abort()  # type: ignore[union-attr]

    def gather(self, place: str, patience: float = math.inf) -> None:
        """Wait until all have come to a place."""
        until = time.monotonic() + patience
        with self._connection():
            self._store.add(place, 1)
            self.wait(lambda: self._store.add(place, 0) >= self.count or time.monotonic() > until)

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """The libraries say in many words that somebody is gone."""
        try:
            yield
        except ProcessError:
            raise
        except RuntimeError as error:
            self._looked = 0.0
            with contextlib.suppress(RuntimeError):
                if self._store.check([_FAILED]):  # it may have told why
                    self.look()
            raise ProcessError(
                f"Another of the {self.count} processes is gone, or cannot be reached: {quoted(error, 200)}"
            ) from error


def started_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def number_on_this_machine() -> int:
    """Of a process that torchrun started; each has the GPU of its number."""
    return int(os.environ["LOCAL_RANK"])


@contextmanager
def together(device: torch.device) -> Iterator[Together]:
    """The processes that torchrun started, this one on `device`. What ends this process early is told to the others.

    Raises ValueError for a device on which processes cannot add up their numbers, and ProcessError if the others cannot be
    reached or one of them stopped.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"Several processes learn on NVIDIA GPUs or on CPUs, but the device is '{device.type}'.")
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, number, count = next(iter(rendezvous("env://")))
    # What was told before torchrun started everybody again does not count.
    store = dist.PrefixStore(f"crossinit/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    ranks = Together(store, number, count, device)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        ranks.gather("start")  # torch waits too, but lets nobody stop it
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=number, world_size=count)
        ranks.add_up(torch.zeros(1, device=device))  # NCCL takes its memory now, before anybody looks what is free
        yield ranks
        ranks.gather("end", _WAIT_AT_END)  # nobody may go while another still reads its numbers
    except BaseException as error:
        ranks.failed(error)
        ranks.stop()
        raise
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
