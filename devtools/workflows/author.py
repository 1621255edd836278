"""Writes the workflow files of `workflows/` from their short descriptions (`shipped`).

    python -m devtools.workflows.author --comfyui COMFYUI --base DIRECTORY

starts a server, asks it for its nodes, and writes the files as ComfyUI's page would save them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..comfyui.client import Client
from ..comfyui.links import PACK, prepare_base
from ..comfyui.server import ComfyServer
from .graph import Workflow
from .saved_workflow import saved_workflow
from .shipped import WORKFLOWS
from .widgets import Json


def write_workflow(path: Path, workflow: Workflow, info: Json) -> None:
    """Write one workflow file. Raises ValueError if a value or a link names something that a node does not have."""
    path.write_text(json.dumps(saved_workflow(workflow, info), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write every workflow file anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to ask for its nodes")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    arguments = parser.parse_args()

    base = arguments.base.resolve()
    prepare_base(base, PACK)
    log = base / "author-server.log"
    with ComfyServer(arguments.comfyui.resolve(), base, log=log) as server, Client(server.url) as client:
        info = client.object_info()
    for name, workflow in WORKFLOWS.items():
        write_workflow(PACK / "workflows" / f"{name}.json", workflow, info)
        print(f"workflows/{name}.json: {len(workflow[0])} nodes")


if __name__ == "__main__":
    main()
