"""What pip installs: the core without the repository around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from crossinit_core import __version__
from tests.repository_files import REPOSITORY, tracked_files

pytestmark = pytest.mark.slow

pytest.importorskip("build", reason="the packages that build the wheel are not there; use: python3 run.py test")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the wheel and the source archive, and what building them said."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for path in tracked_files():
        name = path.relative_to(REPOSITORY)
        # All of the core, and enough of the rest to see whether it slips in.
        if name.parts[0] in ("crossinit_core", "tests", "nodes") or len(name.parts) == 1:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return out, said


@pytest.fixture(scope="module")
def installed(built: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pip makes of the wheel; what it depends on is in this environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, *map(str, built[0].glob("*.whl"))], check=True)
    return target


def _run(installed: Path, *command: str) -> str:
    surroundings = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command, cwd=installed.parent, env=surroundings, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_can_be_imported(installed: Path) -> None:
    code = "import crossinit_core as c; print(c.__version__, len(c.load_celebrity_names()), c.__file__)"
    version, names, file = _run(installed, sys.executable, "-c", code).split(maxsplit=2)
    assert version == __version__ and int(names) > 300
    assert Path(file.strip()).is_relative_to(installed)
    assert (installed / "crossinit_core" / "py.typed").is_file()


def test_the_command_is_there(installed: Path) -> None:
    folder = installed / ("Scripts" if os.name == "nt" else "bin")
    script = folder / ("crossinit.exe" if os.name == "nt" else "crossinit")
    if not script.is_file():  # older pips leave scripts out of a target folder
        pytest.skip("this pip installs no scripts into a folder")
    assert "train" in _run(installed, str(script), "--help")


def test_building_warns_of_nothing_that_ends(built: tuple[Path, str]) -> None:
    assert "Deprecat" not in built[1]


def test_the_archives_hold_the_core_alone(built: tuple[Path, str]) -> None:
    """No test without what it imports, no nodes without ComfyUI; the licence is in both."""
    (wheel,), (archive,) = built[0].glob("*.whl"), built[0].glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = opened.namelist()
        metadata = opened.read(f"crossinit-{__version__}.dist-info/METADATA").decode("utf-8")
    with tarfile.open(archive) as opened_archive:
        in_archive = [name.partition("/")[2] for name in opened_archive.getnames()]
    assert {name.partition("/")[0] for name in in_wheel} == {"crossinit_core", f"crossinit-{__version__}.dist-info"}
    folders = {name.partition("/")[0] for name in in_archive if "/" in name}
    assert folders == {"crossinit_core", "crossinit.egg-info"}
    assert "LICENSE" in in_archive and any(name.endswith("licenses/LICENSE") for name in in_wheel)
    assert "License-Expression: MIT" in metadata
    needed = {line.split()[1].partition(">")[0] for line in metadata.splitlines() if line.startswith("Requires-Dist:")}
    assert {"torch", "numpy", "safetensors", "Pillow", "tqdm"} <= needed
