"""A live ComfyUI: two hundred learnings in one server, and kill -9 of the server while it learns."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from crossinit_core import load_learned_token
from devtools.comfyui.answers import PromptError
from devtools.comfyui.client import Client
from devtools.comfyui.links import prepare_base
from devtools.comfyui.server import ComfyServer

from . import ROOT
from .record import Record

PEOPLE = 10
STEPS = 4
MOST_GROWTH = 64 * 2**20
"""ComfyUI keeps a history of what it ran."""


def learnings(comfyui: Path, tries: int, folder: Path) -> Record:
    """Through the nodes: each of PEOPLE people is learned and saved anew again and again."""
    record = Record(
        "learnings in one ComfyUI",
        f"Each of {PEOPLE} people gets the same bits every time, memory grows by less than {MOST_GROWTH >> 20} MB, no file stays "
        "open, and there is one resume file and one token file a person.",
    )
    tokens: dict[tuple[int, int], bytes] = {}
    before = after = (0, 0)
    with _server(comfyui, folder / "server") as server, Client(server.url) as client:
        for number in range(tries):
            person = number % PEOPLE
            # A widget that changes makes ComfyUI run the node, and `resume` off makes it learn.
            problem = _learn(client, person, resume=False, micro_batch_size=1 + number // PEOPLE % 2 * 2)
            vectors = b"" if problem else _vectors(folder / "server", person)
            same = tokens.setdefault((person, number // PEOPLE % 2), vectors) == vectors
            record.add(problem or (None if same else f"run {number}: other bits"))
            after = _resources(server.process.pid)
            if number == tries // 5:
                before = after
        resume = list((folder / "server" / "output" / "crossinit" / "resume").iterdir())
        saved = list((folder / "server" / "models" / "embeddings").rglob("*.safetensors"))
    record.facts = {
        "memory of the server before and after, MB": [round(value / 2**20) for value in (before[0], after[0])],
        "open files": [before[1], after[1]],
        "resume files": len(resume),
        "token files": len(saved),
    }
    if after[0] - before[0] > MOST_GROWTH or after[1] > before[1] + 2:
        record.add(f"the server grew: {record.facts}")
    if len(resume) != min(PEOPLE, tries) or len(saved) != min(PEOPLE, tries):
        record.add(f"files piled up: {record.facts}")
    return record


def kills(comfyui: Path, tries: int, folder: Path, seed: int) -> Record:
    """The server is killed while it learns, and started again; the same graph must give the bits of an undisturbed run."""
    record = Record(
        "kill -9 of a ComfyUI that learns",
        "A new ComfyUI goes on with the same graph, and the saved token has the bits of an undisturbed run.",
    )
    numbers, base = random.Random(seed), folder / "server-kills"
    with _server(comfyui, base) as server, Client(server.url) as client:
        began = time.monotonic()
        problem = _learn(client, 0, steps=24)
        whole = time.monotonic() - began
    undisturbed = _vectors(base, 0)
    if problem:
        record.add(problem)
    for number in range(tries):
        for path in (base / "output" / "crossinit" / "resume").iterdir():
            path.unlink()
        with _server(comfyui, base) as server, Client(server.url) as client:
            client.queue(_graph(0, steps=24))
            time.sleep(numbers.uniform(0.2, 0.9) * whole)
            server.process.kill()
            server.process.wait()
        with _server(comfyui, base) as server, Client(server.url) as client:
            problem = _learn(client, 0, steps=24)
        record.add(problem or (None if _vectors(base, 0) == undisturbed else f"kill {number}: other bits"))
    return record


def _server(comfyui: Path, base: Path) -> ComfyServer:
    prepare_base(base, ROOT)
    return ComfyServer(
        comfyui, base, extra_args=["--cpu"], log=base / "server.log", environment={"OMP_NUM_THREADS": "1"}
    )


def _graph(person: int, **widgets: Any) -> dict[str, Any]:
    learn = {
        "model": ["m", 0],
        "clip": ["m", 1],
        "vae": ["m", 2],
        "image": ["p", 0],
        "cross_init": ["c", 0],
        "preset": "custom",
        "seed": 0,
        "steps": STEPS,
        "batch_size": 2,
        "resolution": 64,
        **widgets,
    }
    return {
        "m": {"class_type": "CrossInitMiniature", "inputs": {}},
        "p": {"class_type": "CrossInitDrawnPerson", "inputs": {"seed": person}},
        "c": {
            "class_type": "CrossInitInitializeWords",
            "inputs": {"clip": ["m", 1], "words": "human face", "method": "cross initialization"},
        },
        "l": {"class_type": "CrossInitLearn", "inputs": learn},
        "s": {
            "class_type": "CrossInitSave",
            "inputs": {"token": ["l", 0], "name": f"person-{person}", "if_exists": "replace it"},
        },
    }


def _learn(client: Client, person: int, **widgets: Any) -> str | None:
    """What went wrong."""
    try:
        client.run(_graph(person, **widgets))
    except (PromptError, TimeoutError) as error:
        return f"person {person}: {error}"
    return None


def _vectors(base: Path, person: int) -> bytes:
    (path,) = (base / "models" / "embeddings").rglob(f"person-{person}.safetensors")
    return load_learned_token(path).vectors.numpy().tobytes()


def _resources(process: int) -> tuple[int, int]:
    """Bytes in memory and open files of a process; zeros where the system does not tell."""
    folder = Path("/proc") / str(process)
    if not folder.is_dir():
        return 0, 0
    pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list((folder / "fd").iterdir()))
