"""The type checkers over what users download: python -m tests.pack_types

The nodes import relatively, for ComfyUI loads the whole pack as one package, under the name of its folder, and has a module
`nodes` of its own. mypy takes no folder whose name is not an identifier, such as `comfyui-crossinit`, and no file under two
names. So it gets a copy of what the pack imports, as a package with a name of its own, and so does pyright.

Both look with the eyes of the oldest Python that pyproject.toml allows: what a newer standard library brought is an error.
They let a module pass that is not there at all, for many libraries are not; vermin knows which of Python's own came later.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", REPOSITORY / ".host" / "ComfyUI")).resolve()
PACK = "crossinit_pack"


def copy_pack(folder: Path) -> None:
    """Copy what the pack imports into `folder`, as the package PACK."""
    pack = folder / PACK
    shutil.copytree(REPOSITORY / "miniature" / "world", pack / "miniature" / "world")
    for name in ("nodes", "crossinit_core"):
        shutil.copytree(REPOSITORY / name, pack / name)
    for package in ("", "miniature"):
        shutil.copy2(REPOSITORY / package / "__init__.py", pack / package)


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """mypy's answer on the copy in `folder`, in the repository's paths."""
    options = ["--config-file", str(REPOSITORY / "pyproject.toml"), "--cache-dir", str(REPOSITORY / ".mypy_cache")]
    options += ["--python-version", oldest_python()]
    return _answer([sys.executable, "-m", "mypy", "-p", PACK, *options], folder)


def check_with_vermin(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """vermin's answer on the copy in `folder`: what a Python as old as pyproject.toml allows does not have."""
    options = [f"-t={oldest_python()}-", "--violations", "--no-tips", "--no-parse-comments", "--no-config-file"]
    return _answer([program, *options, str(folder / PACK)], folder)


def check_with_pyright(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """pyright's answer on the core and the nodes in the copy in `folder`, in the repository's paths."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]
    of_this_python = {"include": [f"{PACK}/crossinit_core", f"{PACK}/nodes"], "extraPaths": [str(COMFYUI)]}
    settings = {key: value for key, value in settings.items() if key not in ("venv", "venvPath")} | of_this_python
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    return _answer([program, "--project", str(folder), "--pythonpath", sys.executable], folder)


def program_of(name: str) -> str | None:
    """Where pyright or vermin is: that of this Python, otherwise any on the PATH."""
    return shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))


def oldest_python() -> str:
    """`3.10` of `requires-python = ">=3.10"`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["requires-python"]).removeprefix(">=")


def _answer(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # pyright would ask the network whether there is a newer one.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    for start in (f"{folder}{os.sep}{PACK}{os.sep}", f"{PACK}/", f"{PACK}\\"):
        done.stdout = done.stdout.replace(start, "")
    return done


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        copied = Path(name).resolve()
        copy_pack(copied)
        answers = [check(copied)]
        if program := program_of("pyright"):
            answers.append(check_with_pyright(program, copied))
        if program := program_of("vermin"):
            answers.append(check_with_vermin(program, copied))
    for answer in answers:
        print(answer.stdout, answer.stderr, sep="", end="")
    sys.exit(max(answer.returncode for answer in answers))
