"""Finding a ComfyUI that is already on this machine, and the Python it runs on. Standard library only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_HAS_TORCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
# Lists the requirements that are not met. Runs in the other Python, whose packaging library knows markers
# and version numbers; without that library only the names are compared.
_MISSING = """
import importlib.metadata, json, re, sys
try:
    from packaging.requirements import Requirement
except ImportError:
    Requirement = None
same, missing = json.loads(sys.argv[2]), []
def version(name):
    for one in (name, *same.get(name, ())):
        try:
            return importlib.metadata.version(one)
        except importlib.metadata.PackageNotFoundError:
            pass
    return None
for text in json.loads(sys.argv[1]):
    wanted = Requirement(text) if Requirement else None
    if wanted and wanted.marker and not wanted.marker.evaluate():
        continue
    found = version(wanted.name if wanted else re.match(r"[A-Za-z0-9._-]+", text)[0])
    if found is None or (wanted and not wanted.specifier.contains(found, prereleases=True)):
        missing.append(text)
print(json.dumps(missing))
"""

_SAME = {"opencv-python-headless": ["opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"]}
"""Packages that bring the same module; installing one over another breaks both."""


class SetupError(RuntimeError):
    """The environment cannot be made or used; the message says what is needed."""


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def find_comfyui(option: Path | None, environ: Mapping[str, str], pack_root: Path) -> Path | None:
    """The existing ComfyUI to use, or None for the pinned one.

    First what was asked for (`--comfyui`, then COMFYUI_PATH), then the ComfyUI in whose custom_nodes this pack lies.
    """
    for source, value in (("--comfyui", option), ("COMFYUI_PATH", environ.get("COMFYUI_PATH"))):
        if value:
            return _named_comfyui(Path(value).expanduser().absolute(), source)
    above = pack_root.parent.parent
    if pack_root.parent.name == "custom_nodes" and is_comfyui(above):
        return above
    return None


def _named_comfyui(folder: Path, source: str) -> Path:
    # Portable and desktop installs hold ComfyUI in a folder of that name.
    for candidate in (folder, folder / "ComfyUI"):
        if is_comfyui(candidate):
            return candidate
    what = "is not a folder" if not folder.is_dir() else "holds no main.py and comfy/"
    raise SetupError(
        f"{source} {folder} {what}. Expected the folder of ComfyUI's main.py "
        "(in the portable Windows build: ComfyUI_windows_portable\\ComfyUI)."
    )


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment."""
    if sys.platform == "win32":
        return environment / "Scripts" / "python.exe"
    return environment / "bin" / "python"


def choose_python(comfyui: Path, option: Path | None = None) -> Path:
    """The Python that runs this ComfyUI: the first of the usual places that has torch."""
    if option is not None:
        python = option.expanduser().absolute()
        if not has_torch(python):
            raise SetupError(f"--python {python} cannot be run, or has no torch. Name the Python that runs {comfyui}.")
        return python
    tried = []
    for python in _usual_pythons(comfyui):
        if has_torch(python):
            return python
        tried.append(f"  {python}: {'no torch' if python.is_file() else 'not there'}")
    raise SetupError(
        f"No Python with torch was found for {comfyui}. Tried:\n" + "\n".join(tried) + "\n"
        "Name the one that starts this ComfyUI with --python PATH."
    )


def _usual_pythons(comfyui: Path) -> Iterator[Path]:
    yield python_of(comfyui / ".venv")
    yield python_of(comfyui / "venv")
    yield comfyui.parent / "python_embeded" / "python.exe"  # spelled so in ComfyUI's portable build
    yield python_of(comfyui.parent / ".venv")
    yield python_of(comfyui.parent / "venv")
    yield Path(sys.executable)


def has_torch(python: Path) -> bool:
    try:
        return subprocess.run([str(python), "-c", _HAS_TORCH], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def missing_packages(python: Path, requirements: Sequence[str]) -> list[str]:
    """Those of `requirements` that this Python does not meet. Installs nothing."""
    if not requirements:
        return []
    command = [str(python), "-c", _MISSING, json.dumps(list(requirements)), json.dumps(_SAME)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if result.returncode != 0:
        raise SetupError(f"{python} cannot list its packages:\n{result.stderr.strip()[-1000:]}")
    missing: list[str] = json.loads(result.stdout)
    return missing


def module_command(python: Path, pack_root: Path, module: str) -> list[str]:
    """The command that runs a module of this repository.

    The portable Windows build's Python ignores the working folder and PYTHONPATH (it has a ._pth file),
    so there the repository is put on the path by code.
    """
    if not list(python.parent.glob("python*._pth")):
        return [str(python), "-m", module]
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(pack_root)!r}); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [str(python), "-c", code]
