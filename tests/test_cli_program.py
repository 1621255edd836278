"""The command line as a program of its own: pipes that close, signals, full disks, names that are not UTF-8."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from tests.conftest import REPOSITORY

posix = pytest.mark.skipif(os.name == "nt", reason="signals and pipes of Windows are others")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes, or namespaces of Linux")

SMALL = ("--batch-size", "1", "--resolution", "64")


@pytest.fixture
def model(tiny_models: Path) -> Path:
    return tiny_models / "tiny-eps"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a photo and a token."""
    pixels = np.random.default_rng(0).integers(0, 255, (80, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.png")
    save_learned_token(LearnedToken(torch.ones(2, 32), "ann", "width-32"), tmp_path / "ann.safetensors")
    return tmp_path


def _hangup_as_usual() -> None:
    """The tests may run under nohup, which children inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _start(place: Path, *command: object, before: Sequence[str] = (), **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if hasattr(signal, "SIGHUP") and "preexec_fn" not in options and before == ():
        options["preexec_fn"] = _hangup_as_usual
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    arguments = [part if isinstance(part, bytes) else str(part) for part in (*before, sys.executable, *command)]
    return subprocess.Popen(arguments, cwd=place, env=environment, **pipes)


def _program(place: Path, *command: object, **options: Any) -> subprocess.Popen[bytes]:
    return _start(place, "-m", "crossinit_core", *command, **options)


def _read_until(stream: object, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([stream], [], [], 60)[0], f"nothing came: {seen.decode(errors='replace')}"
        more = os.read(stream.fileno(), 4096)  # type: ignore[attr-defined]
        assert more, f"it ended without {text!r}: {seen.decode(errors='replace')}"
        seen += more
    return seen


# Pipes


@posix
def test_a_reader_that_has_enough_is_no_error(place: Path) -> None:
    """As with `| head -1`: more is written than a pipe holds, and nobody reads it."""
    program = _program(place, "inspect", *["ann.safetensors"] * 2000)
    assert program.stdout is not None and program.stderr is not None
    assert program.stdout.readline().startswith(b"file")
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait(60) == 141


@posix
def test_a_closed_terminal_ends_no_learning(place: Path, model: Path) -> None:
    program = _program(place, "train", model, "me.png", "--steps", 40, *SMALL)
    assert program.stderr is not None
    _read_until(program.stderr, b"loss=")
    program.stderr.close()
    assert program.wait(120) == 0
    assert load_learned_token(place / "me.safetensors").metadata["crossinit.steps"] == "40"


# Signals


def _learning(place: Path, model: Path, *before: str) -> subprocess.Popen[bytes]:
    """A run of many steps that has done some of them."""
    command = ("-m", "crossinit_core", "train", model, "me.png", "--steps", 100_000, *SMALL)
    program = _start(place, *command, before=before)
    _read_until(program.stderr, b"loss=")
    return program


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_keeps_what_was_learned(place: Path, model: Path, name: str) -> None:
    program = _learning(place, model)
    number = signal.Signals[name]
    program.send_signal(number)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 128 + number
    assert b"the same command continues from here" in err
    assert err.splitlines()[-1] == b"Stopped."
    assert b"Traceback" not in err
    assert len(list((place / "crossinit-resume").iterdir())) == 1


@posix
def test_under_nohup_a_hangup_is_ignored(place: Path, model: Path) -> None:
    program = _learning(place, model, "nohup")
    program.send_signal(signal.SIGHUP)
    _read_until(program.stderr, b"loss=")
    assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGTERM


@posix
def test_a_second_signal_ends_it_at_once(place: Path) -> None:
    """Also while what was learned is written to a disk that does not answer."""
    code = (
        "import time\n"
        "from crossinit_core.commands.signals import signals_stop\n"
        "with signals_stop():\n"
        "    try:\n"
        "        print('works', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('writes', flush=True)\n"
        "        time.sleep(60)\n"
    )
    program = _start(place, "-c", code)
    for text in (b"works", b"writes"):
        _read_until(program.stdout, text)
        program.send_signal(signal.SIGTERM)
    began = time.monotonic()
    program.communicate(timeout=30)
    assert program.returncode == -signal.SIGTERM
    assert time.monotonic() - began < 30


# Names


@linux
def test_file_names_that_are_not_utf8_lose_nothing(place: Path, model: Path) -> None:
    """Old archives and disks leave such names behind."""
    (place / "me.png").rename(place / os.fsdecode(b"m\xe9.png"))
    (place / os.fsdecode(b"nam\xe9s.txt")).write_text("Angelina Jolie\nTom Hanks\n", encoding="utf-8")
    command = ("train", model, b"m\xe9.png", "--names", b"nam\xe9s.txt", "--steps", 1, *SMALL)
    for out in ((), ("--out", b"\xff.pt")):
        program = _program(place, *command, *out)
        _, err = program.communicate(timeout=120)
        assert program.returncode == 0, err.decode(errors="replace")
    tokens = [path for path in place.iterdir() if path.suffix in (".pt", ".safetensors") and path.stem != "ann"]
    assert len(tokens) == 2
    for path in tokens:
        token = load_learned_token(path)
        assert token.vectors.shape == (2, 32)
        assert token.metadata["crossinit.names"] == "nam\ufffds.txt"
        program = _program(place, "inspect", os.fsencode(path.name))
        out_, err = program.communicate(timeout=60)
        assert (program.returncode, err) == (0, b"")
        assert "nam\ufffds.txt".encode() in out_
    program = _program(place, "generate", model, b"\xff.pt", "--steps", 1, "--out", b"p\xe9")
    printed, err = program.communicate(timeout=120)
    assert program.returncode == 0, err.decode(errors="replace")
    assert len(list((place / os.fsdecode(b"p\xe9")).glob("*.png"))) == 1
    assert printed


# A full disk

_ON_A_SMALL_DISK = """
import ctypes, os, sys, threading, time
from pathlib import Path
from typing import Any
from crossinit_core.cli import main

user, group, disk, watched, text = os.getuid(), os.getgid(), Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000 | 0x00020000):
    sys.exit(77)
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {user} 1")
Path("/proc/self/gid_map").write_text(f"0 {group} 1")
if libc.mount(b"tmpfs", os.fsencode(disk), b"tmpfs", 0, b"size=3m"):
    sys.exit(77)

def fill():
    while text not in (watched.read_text(errors="replace") if watched.is_file() else str(list(disk.rglob("*.png")))):
        time.sleep(0.005)
    try:
        with (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass

threading.Thread(target=fill, daemon=True).start()
code = main(sys.argv[4:])
for picture in sorted(disk.rglob("*.png")):
    from PIL import Image
    Image.open(picture).load()
    print("whole", picture.name)
left = [path.name for path in disk.rglob("*") if path.is_file() and path.suffix != ".png" and path.name != "ballast"]
print("left", left)
sys.exit(code)
"""


@pytest.fixture
def on_a_small_disk(place: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command with a disk of 3 MB at `disk`, which is full once a text is seen in a file."""
    (place / "disk").mkdir()

    def run(watched: str, text: str, *command: object) -> tuple[int, str, str]:
        with (place / "log").open("wb") as log:
            program = _start(place, "-c", _ON_A_SMALL_DISK, place / "disk", place / watched, text, *command, stderr=log)
            out, _ = program.communicate(timeout=240)
        if program.returncode == 77:
            pytest.skip("a disk of its own needs a user and mount namespace, which are not allowed here")
        return program.returncode, out.decode(), (place / "log").read_text(encoding="utf-8").splitlines()[-1]

    return run


@linux
def test_a_disk_that_fills_up_loses_no_token(
    on_a_small_disk: Callable[..., tuple[int, str, str]], place: Path, model: Path
) -> None:
    options = ("--steps", 150, *SMALL, "--out", "disk/me.pt", "--resume-folder", "kept")
    code, out, said = on_a_small_disk("log", "loss=", "train", model, "me.png", *options)
    assert code == 2
    assert "No space left on device" in said
    assert str(place / "kept" / "me.safetensors") in said
    assert len(said) <= 600
    assert load_learned_token(place / "kept" / "me.safetensors").metadata["crossinit.steps"] == "150"
    assert "left []" in out


@linux
def test_a_disk_that_fills_up_leaves_whole_pictures(
    on_a_small_disk: Callable[..., tuple[int, str, str]], place: Path, model: Path
) -> None:
    options = ("--steps", 1, "--count", 400, "--resolution", 64, "--out", "disk/pictures")
    code, out, said = on_a_small_disk("nothing", "-1.png", "generate", model, "ann.safetensors", *options)
    assert code == 2
    assert "No space left on device" in said
    assert "go on with --seed" in said
    assert "disk/pictures" in said
    assert len(said) <= 600
    assert "left []" in out
    written = [line for line in out.splitlines() if line.startswith("disk/")]
    assert len(written) == out.count("whole ") >= 2
