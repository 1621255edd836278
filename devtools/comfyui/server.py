"""A ComfyUI server as a context manager. Standard library only."""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# A proxy named in the environment must not be asked for 127.0.0.1.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PROBE = """
import torch
found = torch.cuda.is_available() or torch.backends.mps.is_available()
found = found or (hasattr(torch, "xpu") and torch.xpu.is_available())
print("accelerator" if found else "cpu")
"""


class ServerError(RuntimeError):
    """The server did not start, or died."""


class ComfyServer:
    """Starts ComfyUI's `main.py` and stops it again.

    with ComfyServer(comfyui, base, log=folder / "server.log") as server:
        Client(server.url).object_info()

    `base` becomes ComfyUI's `--base-directory` (make it with `prepare_base`), so that nothing is
    written to the ComfyUI folder, and nothing is fetched from the network. With `base=None` the
    server keeps ComfyUI's own folders and settings. `port=0` picks a free port. Without `log` the
    server prints to the terminal. `--cpu` is added if torch finds no accelerator. `environment` is
    added to the variables that the server gets.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path | None,
        *,
        python: str | Path = sys.executable,
        port: int = 0,
        extra_args: Sequence[str] = (),
        log: Path | None = None,
        timeout: float = 300.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui = comfyui
        self.base = base
        self.python = str(python)
        self.port = port
        self.extra_args = tuple(extra_args)
        self.log = log
        self.timeout = timeout
        self.environment = dict(environment or {})
        self.seconds_to_start: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("The ComfyUI server is not running: call start() first.")
        return self._process

    def start(self) -> ComfyServer:
        """Start and wait until the server answers. Raises ServerError with the end of its log."""
        started = time.monotonic()
        self.port = self.port or _free_port()
        _refuse_taken_port(self.port)
        command = self.command()
        output = self._open_log()
        try:
            self._process = subprocess.Popen(
                command,
                cwd=self.comfyui,
                env={**(offline_environment() if self.base else {**os.environ, "PYTHONUTF8": "1"}), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                # Windows sends CTRL_BREAK to a process group; without its own it would reach us too.
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        finally:
            if output:
                output.close()
        try:
            self._wait_until_ready(started)
        except BaseException:
            self.stop()
            raise
        self.seconds_to_start = time.monotonic() - started
        return self

    def stop(self) -> None:
        """Ask the server to end, and end it by force if it does not end within ten seconds."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        if os.name == "nt":
            process.send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
        else:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_text(self) -> str:
        """What the server printed so far, without colours; empty if it prints to the terminal."""
        if self.log is None or not self.log.is_file():
            return ""
        return _ANSI.sub("", self.log.read_text(encoding="utf-8", errors="replace"))

    def command(self) -> list[str]:
        """The command line that `start` runs."""
        wanted = ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"]
        known = known_flags(self.comfyui)
        if self.base is not None:
            if "--base-directory" not in known:
                raise ServerError(
                    f"{self.comfyui} is a ComfyUI without --base-directory (before January 2025). "
                    "Update it, or leave out --comfyui to use the pinned ComfyUI."
                )
            wanted += ["--base-directory", str(self.base)]
            # API nodes cost about 3 s of start-up and are of no use without a network. The database
            # lies in the ComfyUI folder, whatever the base directory, and allows only one server.
            if "--disable-api-nodes" in known:
                wanted += ["--disable-api-nodes"]
            if "--database-url" in known:
                wanted += ["--database-url", "sqlite:///:memory:"]
        if not {"--cpu", "--directml"} & set(self.extra_args) and not has_accelerator(self.python):
            wanted += ["--cpu"]
        return [self.python, str(self.comfyui / "main.py"), *wanted, *self.extra_args]

    def _open_log(self) -> IO[bytes] | None:
        if self.log is None:
            return None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return self.log.open("wb")

    def _wait_until_ready(self, started: float) -> None:
        while True:
            if self.process.poll() is not None:
                raise ServerError(self._failure(f"ended with exit code {self.process.returncode}"))
            if time.monotonic() - started > self.timeout:
                raise ServerError(self._failure(f"did not answer within {self.timeout:.0f} s"))
            try:
                with _OPENER.open(f"{self.url}/system_stats", timeout=5):
                    return
            except urllib.error.HTTPError as error:
                raise ServerError(self._failure(f"answered /system_stats with {error}")) from error
            except OSError:
                time.sleep(0.1)

    def _failure(self, what: str) -> str:
        tail = "\n".join(self.log_text().splitlines()[-30:])
        where = f" Its log is {self.log}; the last lines:\n{tail}" if self.log else ""
        return f"The ComfyUI server of {self.comfyui} {what}.{where}"


def offline_environment() -> dict[str, str]:
    """The environment of child processes that must not reach for the network."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
    }


def known_flags(comfyui: Path) -> frozenset[str]:
    """The command line flags of this ComfyUI, read from its source: versions differ."""
    source = (comfyui / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r'add_argument\(\s*"(--[a-z0-9_-]+)"', source))


@functools.cache
def has_accelerator(python: str) -> bool:
    """Whether torch in this Python finds CUDA, ROCm, XPU or MPS. Asked once: it imports torch."""
    result = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, encoding="utf-8", errors="replace")
    if result.returncode != 0:
        raise ServerError(f"torch cannot be imported in {python}:\n{result.stderr.strip()[-2000:]}")
    return result.stdout.split()[-1:] == ["accelerator"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refuse_taken_port(port: int) -> None:
    """Without this check another program on the port would pass for our server."""
    with socket.socket() as probe:
        if os.name != "nt":  # on Windows this option would let two programs share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(f"Port {port} is taken by another program ({error}). Give another --port.") from error
