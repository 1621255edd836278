"""Two clones of the pack in one ComfyUI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository_files import REPOSITORY, archived_files

_LOAD = """
import asyncio, importlib, logging, sys
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
importlib.import_module("utils.extra_config")
import nodes
logging.basicConfig(stream=sys.stdout, format="%(message)s")
for folder in sys.argv[2:]:
    assert asyncio.run(nodes.load_custom_node(folder))
"""


@pytest.mark.slow
def test_two_clones_are_warned_of(comfyui: Path, tmp_path: Path) -> None:
    """By ComfyUI's own loader; a link to the same folder is no second copy."""
    first, second, link = (tmp_path / "custom_nodes" / name for name in ("crossinit", "crossinit-main", "linked"))
    for folder in (first, second):
        for name in archived_files():
            if not name.startswith(("miniature/weights", "workflows")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPOSITORY / name, folder / name)
    said = _loaded(comfyui, first, second)
    assert said.count("installed twice") == 1
    assert f"'{first}' and in '{second}'" in said
    try:
        link.symlink_to(first, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")
    assert "installed twice" not in _loaded(comfyui, first, link)


def _loaded(comfyui: Path, *folders: Path) -> str:
    command = [sys.executable, "-c", _LOAD, str(comfyui), *map(str, folders)]
    surroundings = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=comfyui, env=surroundings, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
