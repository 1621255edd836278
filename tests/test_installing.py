"""The command that a message tells people to type."""

from __future__ import annotations

import shlex
import sys

import pytest

from crossinit_core.installing import pip_command


def test_the_command_names_this_python() -> None:
    assert shlex.split(pip_command("matplotlib")) == [sys.executable, "-m", "pip", "install", "matplotlib"]


@pytest.mark.parametrize("path", ["/opt/my programs/python", "/opt/Comfy (new)/bin/python3"])
def test_a_path_with_spaces_stays_whole(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", path)
    command = pip_command("opencv-python-headless<5", "dlib-bin")
    assert shlex.split(command) == [path, "-m", "pip", "install", "opencv-python-headless<5", "dlib-bin"]


def test_a_plain_path_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """PowerShell takes a quoted first word for a text, not for a program."""
    monkeypatch.setattr(sys, "executable", r"C:\ComfyUI\python_embeded\python.exe")
    assert pip_command("matplotlib") == r"C:\ComfyUI\python_embeded\python.exe -m pip install matplotlib"


def test_a_program_without_executable_says_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", None)
    assert pip_command("matplotlib") == "python -m pip install matplotlib"
