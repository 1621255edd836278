"""What to type for the packages that only some commands need."""

from __future__ import annotations

from pathlib import Path

from ..installing import pip_command


def install_extra(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, `cli` for instance, with the Python that runs now."""
    root = Path(__file__).resolve().parents[2]
    source = str(root) if (root / "pyproject.toml").is_file() else "crossinit"  # pip knows it: it lies in site-packages
    return pip_command(f"{source}[{extra}]")
