"""The type checker over `nodes/`: python -m tests.pack_types

The nodes import relatively, for ComfyUI loads the whole pack as one package, under the name of its folder, and has a module
`nodes` of its own. mypy takes no folder whose name is not an identifier, such as `comfyui-crossinit`, and no file under two
names. So it gets a copy of what the pack imports, as a package with a name of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACK = "crossinit_pack"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """mypy's answer on the nodes, in the repository's paths; `folder` is for the copy."""
    pack = folder / PACK
    shutil.copytree(REPOSITORY / "miniature" / "world", pack / "miniature" / "world")
    for name in ("nodes", "crossinit_core"):
        shutil.copytree(REPOSITORY / name, pack / name)
    for package in ("", "miniature"):
        shutil.copy2(REPOSITORY / package / "__init__.py", pack / package)
    command = [sys.executable, "-m", "mypy", "-p", f"{PACK}.nodes"]
    options = ["--config-file", str(REPOSITORY / "pyproject.toml"), "--cache-dir", str(REPOSITORY / ".mypy_cache")]
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
    )
    done.stdout = done.stdout.replace(f"{PACK}/", "").replace(f"{PACK}\\", "")
    return done


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        answer = check(Path(folder))
    print(answer.stdout, answer.stderr, sep="", end="")
    sys.exit(answer.returncode)
