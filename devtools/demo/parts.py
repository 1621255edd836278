"""What the demos share: a running server, its events as lines in a terminal, and files fetched from it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from crossinit_core.files import write_atomically

from ..comfyui.answers import Event
from ..comfyui.client import Client
from ..comfyui.server import ComfyServer
from ..workflows.graph import Workflow


@contextmanager
def running(comfyui: Path, base: Path) -> Iterator[Client]:
    """A client of a ComfyUI that was started for it."""
    print("Starting ComfyUI ...", flush=True)
    log = base / "demo-server.log"
    with ComfyServer(comfyui, base, log=log) as server, Client(server.url) as client:
        print(f"ComfyUI answers at {server.url} after {server.seconds_to_start:.0f} s.", flush=True)
        yield client


class Progress:
    """Prints which node runs, and what it says."""

    def __init__(self, workflow: Workflow) -> None:
        self._names = {str(number): node.name for number, node in enumerate(workflow[0], start=1)}
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        if event.type == "executing" and event.node_id:
            print(f"\n  {self._names.get(event.node_id, event.node_id)}", end="", flush=True)
        elif event.type == "progress_text" and time.monotonic() - self._shown > 1:
            self._shown = time.monotonic()
            print(f"\n    {event.data['text']}", end="", flush=True)


def write_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """A PNG file, whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    write_atomically(path, buffer.getvalue())


def fetch(client: Client, images: list[dict[str, Any]], target: Path) -> list[Path]:
    """Write pictures as TARGET.png, TARGET-2.png and so on, each with the suffix that it has."""
    paths = []
    for number, image in enumerate(images, start=1):
        name = target.name if number == 1 else f"{target.name}-{number}"
        paths.append(target.parent / f"{name}{Path(image['filename']).suffix}")
        write_atomically(paths[-1], client.view(image))
    return paths


def list_results(out: Path) -> None:
    """Print what lies in the folder."""
    print(f"\nIn {out}:")
    for path in sorted(out.iterdir()):
        if path.is_file():
            print(f"  {path.name:32s} {path.stat().st_size / 1024:8.1f} KB")
