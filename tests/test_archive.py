"""The archive that users get from ComfyUI's registry: what is in it, that it runs, and that the registry takes it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repository_files import REPOSITORY, archived_files, text_of, tracked_files

FOLDERS = {"crossinit_core", "locales", "nodes", "subgraphs", "web", "workflows"}
FILES = {"LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt", "miniature/__init__.py"}
WEIGHTS = re.compile(r"miniature/weights/(config\.json|model-\d\.safetensors)")

FLAGGED = re.compile(
    r"\.(connect|bind|send)\(|\bos\.(environ\.get|getenv|system|popen)\(|\b(eval|exec)\(|\bsubprocess\b"
    r"|raw\.githubusercontent\.com"
)
"""What the registry's scanner takes for a danger, in code and in Markdown alike. A version with a finding stays hidden."""

REASONS: dict[str, str] = {}
"""Findings that stay, by their lines as `path: text`, each with the reason."""

IN_COMFYUI = """
import asyncio, importlib.util, sys
from pathlib import Path

comfyui, pack = sys.argv[1:]
sys.path.insert(0, comfyui)
sys.argv = sys.argv[:1]
from comfy.cli_args import args
args.cpu = True
import utils.extra_config, server, torch
server.PromptServer(asyncio.new_event_loop())
folder = Path(pack)
spec = importlib.util.spec_from_file_location("archive", folder / "__init__.py", submodule_search_locations=[pack])
module = sys.modules["archive"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
classes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
with torch.inference_mode():
    model, clip, vae = classes["CrossInitMiniature"].execute().result
    person = classes["CrossInitDrawnPerson"].execute(seed=1).result[0]
print("NODES", len(classes), tuple(person.shape))
wings = {name.split(".", 2)[1] for name in sys.modules if name.startswith("archive.")}
print("WINGS", *sorted(wings))
"""


def test_the_archive_holds_what_runs_and_nothing_else() -> None:
    names = [path.relative_to(REPOSITORY).as_posix() for path in tracked_files()]
    wanted = [
        name
        for name in names
        if (name.split("/")[0] in FOLDERS and name != "locales/english.json")
        or name in FILES
        or name.startswith("miniature/world/")
        or WEIGHTS.fullmatch(name)
    ]
    assert archived_files() == sorted(wanted)
    assert set(wanted) >= FILES


def test_the_registrys_scanner_finds_nothing_without_a_reason() -> None:
    lines = [
        f"{name}: {line.strip()[:160]}"
        for name in archived_files()
        for line in (text_of(REPOSITORY / name) or "").splitlines()
        if FLAGGED.search(line)
    ]
    found = {line for line in lines if line not in REASONS}
    assert not found, "The registry would hide this version:\n" + "\n".join(sorted(found))
    assert REASONS.keys() <= set(lines), "a reason is left over"


def test_every_node_loads_from_the_archive(comfyui: Path, tmp_path: Path) -> None:
    """The tiny model loads and a person is painted, so that the files which are only read then are there as well."""
    for name in archived_files():
        (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / "pack" / name)
    command = [sys.executable, "-c", IN_COMFYUI, str(comfyui), str(tmp_path / "pack")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("NODES", "WINGS")))
    assert said["NODES"].startswith("16 (1,"), done.stdout
    assert said["WINGS"].split() == ["crossinit_core", "miniature", "nodes"]


@pytest.mark.skipif(
    importlib.util.find_spec("comfy_cli") is None, reason="comfy-cli is not installed: pip install comfy-cli"
)
@pytest.mark.skipif(shutil.which("git") is None, reason="comfy-cli asks git for the files, and there is no git")
def test_comfy_cli_validates_and_packs_the_same_files(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    clone = tmp_path / "clone"
    for path in tracked_files():
        copy = clone / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for command in (["git", "init", "--quiet"], ["git", "add", "--all", "--force"]):
        subprocess.run(command, cwd=clone, check=True)
    # comfy-cli keeps its settings in the user's folder, and sends nothing to its makers if it is told so.
    home = {name: str(tmp_path) for name in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "XDG_CONFIG_HOME")}
    quiet = {**os.environ, **home, "DO_NOT_TRACK": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}

    def comfy(*words: str) -> str:
        command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", *words]
        done = subprocess.run(
            command, cwd=clone, env=quiet, capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = comfy("node", "validate")
    assert "All validation checks passed" in said and "Warning" not in said, said
    comfy("node", "pack")
    with zipfile.ZipFile(clone / "node.zip") as archive:
        assert sorted(archive.namelist()) == archived_files()
    megabytes = (clone / "node.zip").stat().st_size / 1e6
    record_property("megabytes", round(megabytes, 2))
    assert megabytes < 27, f"the archive has {megabytes:.1f} MB"
