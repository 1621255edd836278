"""The type checkers over what users download: python -m tests.pack_types

The nodes import relatively, for ComfyUI loads the whole pack as one package, under the name of its folder, and has a module
`nodes` of its own. mypy takes no folder whose name is not an identifier, such as `comfyui-crossinit`, and no file under two
names. So it gets a copy of what the pack imports, as a package with a name of its own, and so does pyright.
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


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """mypy's answer on the nodes, in the repository's paths; `folder` is for the copy."""
    _copy(folder)
    options = ["--config-file", str(REPOSITORY / "pyproject.toml"), "--cache-dir", str(REPOSITORY / ".mypy_cache")]
    return _answer([sys.executable, "-m", "mypy", "-p", f"{PACK}.nodes", *options], folder)


def check_with_pyright(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """pyright's answer on the core and the nodes, in the repository's paths; `folder` is for the copy."""
    _copy(folder)
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]
    of_this_python = {"include": [f"{PACK}/crossinit_core", f"{PACK}/nodes"], "extraPaths": [str(COMFYUI)]}
    settings = {key: value for key, value in settings.items() if key not in ("venv", "venvPath")} | of_this_python
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    return _answer([program, "--project", str(folder), "--pythonpath", sys.executable], folder)


def pyright_program() -> str | None:
    """Where pyright is: that of this Python, otherwise any on the PATH."""
    return shutil.which("pyright", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))


def _copy(folder: Path) -> None:
    pack = folder / PACK
    shutil.copytree(REPOSITORY / "miniature" / "world", pack / "miniature" / "world", dirs_exist_ok=True)
    for name in ("nodes", "crossinit_core"):
        shutil.copytree(REPOSITORY / name, pack / name, dirs_exist_ok=True)
    for package in ("", "miniature"):
        shutil.copy2(REPOSITORY / package / "__init__.py", pack / package)


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
        answers = [check(copied)]
        if program := pyright_program():
            answers.append(check_with_pyright(program, copied))
    for answer in answers:
        print(answer.stdout, answer.stderr, sep="", end="")
    sys.exit(max(answer.returncode for answer in answers))
