"""Several processes that learn one person on a CPU: what starts them, and what each of them does.

`python -m tests.tiny_ranks MODEL OUT` is one of them; it writes what came out to OUT, as `NAME-RANK.safetensors`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from crossinit_core import InversionSettings
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.ranks import together
from tests.conftest import REPOSITORY
from tests.tiny_learning import Watched, learn
from tests.tiny_models import Prepared, prepare

UNEVEN = InversionSettings(steps=4, batch_size=5, resolution=64, seed=1)
"""Of the two processes one gets three samples, the other two."""


def start(
    count: int, command: Sequence[object], cwd: Path, commands: dict[int, Sequence[object]] | None = None
) -> list[subprocess.Popen[str]]:
    """Processes as torchrun starts them, without its agent; `commands` are those of processes that get another one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (commands or {}).get(rank, command))],
            cwd=cwd,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]


class Moody:
    """A backbone that runs out of memory, or overflows, in one way: `around(model, noisy)` is called before each prediction."""

    def __init__(self, backbone: DiffusersBackbone, around: Callable[[dict[str, Any], Tensor], None]) -> None:
        self._backbone, self._around = backbone, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    @contextmanager
    def training(self, **options: Any) -> Iterator[Any]:
        with self._backbone.training(**options) as model:
            predict = model.predict

            def watched(noisy: Tensor, *inputs: Any) -> Tensor:
                self._around(options, noisy)
                return predict(noisy, *inputs)

            model.predict = watched  # type: ignore[method-assign, assignment]
            yield model


def _more_than_one_is_too_much(_: dict[str, Any], noisy: Tensor) -> None:
    if len(noisy) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")


def _only_in_low_memory_mode(options: dict[str, Any], _: Tensor) -> None:
    if not options["gradient_checkpointing"]:
        raise torch.OutOfMemoryError("CUDA out of memory")


def main(model: str, out: str) -> None:
    """What every process does; the last thing fails in the last process alone."""
    torch.set_num_threads(1)
    tiny = prepare(DiffusersBackbone.from_pretrained(model), steps=4, batch=1)
    with together(torch.device("cpu")) as ranks:

        def run(name: str, settings: InversionSettings = UNEVEN, mood: Any = None, **inputs: Any) -> None:
            if mood is not None and ranks.number == ranks.count - 1:
                inputs["backbone"] = Moody(tiny.backbone, mood)
            result = learn(tiny, settings, ranks=ranks, **inputs)
            losses = torch.tensor(result.losses, dtype=torch.float64)
            found = {"vectors": result.token.vectors, "losses": losses, "from": torch.tensor(result.resumed_from)}
            save_file(found, f"{out}/{name}-{ranks.number}.safetensors")

        run("photos")
        run("squared", replace(UNEVEN, method="direction", prior=1e-4))
        run("one sample", batches=tiny.batches(4))
        run("too much", mood=_more_than_one_is_too_much)
        run("low memory", replace(UNEVEN, memory="auto"), _only_in_low_memory_mode)
        run("overflow", replace(UNEVEN, precision="bf16"), _overflows_in_the_third_step())
        run("resumed", resume_folder=f"{out}/resume-{ranks.number}")
        _fail(tiny, ranks, out)


def _overflows_in_the_third_step() -> Callable[[dict[str, Any], Tensor], None]:
    calls = 0

    def around(options: dict[str, Any], noisy: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 3 and options["precision"] == "bf16":
            noisy.fill_(torch.inf)

    return around


def _fail(tiny: Prepared, ranks: Any, out: str) -> None:
    calls = 0

    def around(predict: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4 and ranks.number == ranks.count - 1:
            raise RuntimeError("the model is broken")
        return predict(*inputs)

    backbone = Watched(tiny.backbone, around)
    settings = replace(UNEVEN, seed=2)
    learn(tiny, settings, backbone=backbone, ranks=ranks, resume_folder=f"{out}/broken-{ranks.number}")


if __name__ == "__main__":
    main(*sys.argv[1:])
