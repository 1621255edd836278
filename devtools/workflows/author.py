"""Writes the files of `workflows/` and `subgraphs/` from their short descriptions (`shipped`, `blueprints`).

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
from .blueprints import BLUEPRINTS, saved_blueprint
from .saved_workflow import saved_workflow
from .shipped import APPS, WORKFLOWS
from .widgets import Json


def write_files(folder: Path, info: Json) -> None:
    """Write all files anew. Raises ValueError if a value or a link names something that a node does not have."""
    for name, workflow in WORKFLOWS.items():
        _write(folder / "workflows" / f"{name}.json", saved_workflow(workflow, info, APPS.get(name)))
    for name, blueprint in BLUEPRINTS.items():
        _write(folder / "subgraphs" / f"{name}.json", saved_blueprint(name, blueprint, info))


def _write(path: Path, saved: Json) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write every workflow and blueprint anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to ask for its nodes")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    arguments = parser.parse_args()

    base = arguments.base.resolve()
    prepare_base(base, PACK)
    log = base / "author-server.log"
    with ComfyServer(arguments.comfyui.resolve(), base, log=log) as server, Client(server.url) as client:
        info = client.object_info()
    write_files(PACK, info)
    print(f"{len(WORKFLOWS)} workflows and {len(BLUEPRINTS)} blueprints are written.")


if __name__ == "__main__":
    main()
