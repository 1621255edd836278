"""Folders that pass for a ComfyUI and for a checkout of this pack: what run.py looks at, and no more."""

from __future__ import annotations

import socket
from pathlib import Path

from devtools.setup import comfyui_source


def make_comfyui(folder: Path, main: str = "") -> Path:
    """A ComfyUI whose main.py is this text."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "custom_nodes").mkdir()
    (folder / "main.py").write_text(main, encoding="utf-8")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{comfyui_source.VERSION}"\n', encoding="utf-8")
    (folder / "requirements.txt").write_text("tinyrequirement\n", encoding="utf-8")
    flags = ("--base-directory", "--listen", "--port", "--cpu", "--database-url", "--extra-model-paths-config")
    source = "".join(f'parser.add_argument("{flag}")\n' for flag in flags)
    (folder / "comfy" / "cli_args.py").write_text(source, encoding="utf-8")
    return folder


def make_checkout(root: Path, **groups: list[str]) -> Path:
    """A checkout of the pack with these groups of packages, and with no packages of the nodes."""
    root.mkdir(exist_ok=True)
    lines = [f"{name} = {packages!r}" for name, packages in groups.items()]
    text = '[project]\nname = "crossinit"\n[project.optional-dependencies]\n' + "\n".join(lines) + "\n"
    (root / "pyproject.toml").write_text(text, encoding="utf-8")
    return root


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def packages_of(environment: Path) -> Path:
    """Where the packages of a virtual environment lie."""
    return next(environment.glob("[Ll]ib/site-packages"), None) or next(environment.glob("lib/*/site-packages"))


def give_torch(environment: Path) -> None:
    """A virtual environment then passes for one with torch."""
    (packages_of(environment) / "torch.py").write_text("", encoding="utf-8")
