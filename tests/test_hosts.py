"""Which ComfyUI and which Python run.py uses, and what it asks of a Python that was there before."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import packaging
import pytest

from devtools import commands
from devtools.setup import hosts
from tests.tiny_comfyui import give_torch, make_checkout, make_comfyui, packages_of


def test_a_pack_in_custom_nodes_finds_its_comfyui(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    other = make_comfyui(tmp_path / "portable" / "ComfyUI")
    inside, outside = comfyui / "custom_nodes" / "crossinit", tmp_path / "src" / "crossinit"
    assert hosts.find_comfyui(None, {}, inside) == comfyui
    assert hosts.find_comfyui(None, {}, outside) is None
    assert hosts.find_comfyui(None, {"COMFYUI_PATH": str(other)}, inside) == other
    assert hosts.find_comfyui(comfyui, {"COMFYUI_PATH": str(other)}, outside) == comfyui
    assert hosts.find_comfyui(other.parent, {}, outside) == other  # the folder around it is good enough


def test_a_wrong_comfyui_path_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(hosts.SetupError, match=r"--comfyui .*gone is not a folder"):
        hosts.find_comfyui(tmp_path / "gone", {}, tmp_path)
    with pytest.raises(hosts.SetupError, match=r"COMFYUI_PATH .* holds no main\.py"):
        hosts.find_comfyui(None, {"COMFYUI_PATH": str(tmp_path)}, tmp_path)


def test_the_nearest_python_with_torch_is_used(tmp_path: Path) -> None:
    """The Python of a ComfyUI is the nearest one with torch."""
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert hosts.choose_python(comfyui) == Path(sys.executable)  # which runs these tests, so it has torch

    venv.create(comfyui / "venv", with_pip=False)
    assert hosts.choose_python(comfyui) == Path(sys.executable)  # that environment has no torch
    give_torch(comfyui / "venv")
    assert hosts.choose_python(comfyui) == hosts.python_of(comfyui / "venv")

    venv.create(tmp_path / "other", with_pip=False)
    with pytest.raises(hosts.SetupError, match="has no torch"):
        hosts.choose_python(comfyui, hosts.python_of(tmp_path / "other"))
    give_torch(tmp_path / "other")
    assert hosts.choose_python(comfyui, hosts.python_of(tmp_path / "other")) == hosts.python_of(tmp_path / "other")


def test_missing_packages_are_named_not_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an existing Python lacks is named, not installed."""
    wanted = ["pytest", "pytest>=9999", "no-such-package-here>=1", 'other; python_version < "3"']
    assert hosts.missing_packages(Path(sys.executable), wanted) == ["pytest>=9999", "no-such-package-here>=1"]

    make_comfyui(tmp_path / "ComfyUI")
    root = make_checkout(tmp_path / "pack", demo=["no-such-package-here>=1"])
    where = ["--comfyui", str(tmp_path / "ComfyUI"), "--python", sys.executable]
    assert commands.main(["setup", "--for", "demo", *where], root) == 1
    message = capsys.readouterr().err
    assert "lacks no-such-package-here>=1. Nothing was installed there." in message
    assert "--install-missing" in message


@pytest.mark.parametrize(
    ("there", "lacks"),
    [
        ("opencv_python 4.10.0", False),
        ("opencv_contrib_python_headless 4.8.1", False),
        ("opencv_python 5.0.0", True),
        ("opencv 4.10.0", True),
    ],
)
def test_any_opencv_of_the_right_version_counts(tmp_path: Path, there: str, lacks: bool) -> None:
    """They bring one module; to install a second one over the first would break both."""
    venv.create(tmp_path / "environment", with_pip=False)
    packages = packages_of(tmp_path / "environment")
    shutil.copytree(Path(packaging.__file__).parent, packages / "packaging")
    name, version = there.split()
    info = packages / f"{name}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")
    wanted = ["opencv-python-headless>=4.8,<5"]
    assert hosts.missing_packages(hosts.python_of(tmp_path / "environment"), wanted) == (wanted if lacks else [])


def test_portable_windows_python_finds_the_modules(tmp_path: Path) -> None:
    """It has a ._pth file, and so ignores the working folder and PYTHONPATH."""
    (tmp_path / "probe_module.py").write_text("import sys; print(__name__, sys.argv[1:])", encoding="utf-8")
    venv.create(tmp_path / "embedded", with_pip=False)
    python = hosts.python_of(tmp_path / "embedded")
    plain = hosts.module_command(python, tmp_path, "probe_module")
    (python.parent / "python311._pth").write_text("", encoding="utf-8")
    embedded = hosts.module_command(python, tmp_path, "probe_module")
    assert plain[1] == "-m"
    result = subprocess.run(
        [*embedded, "--out", "x"], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path.parent, check=True
    )
    assert result.stdout.strip() == "__main__ ['--out', 'x']"
