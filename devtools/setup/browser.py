"""The browser of the page tests: found, or installed if that is possible. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .hosts import SetupError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
_PLACES = (
    "/usr/bin/chromium",
    "/opt/google/chrome/chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
_WINDOWS_PLACES = ("Google/Chrome/Application/chrome.exe", "Microsoft/Edge/Application/msedge.exe")
_ASK_PLAYWRIGHT = """
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
"""


def find_browser(environ: Mapping[str, str], installed: Path | None = None) -> Path | None:
    """A Chromium, Chrome or Edge that runs: the one CROSSINIT_CHROMIUM names, or one in the usual places.

    `installed` is the one that `install_browser` returned at an earlier start.
    """
    if named := environ.get("CROSSINIT_CHROMIUM"):
        if not _runs(Path(named)):
            raise SetupError(f"CROSSINIT_CHROMIUM is {named}, which cannot be run. Correct it, or unset it.")
        return Path(named)
    return next((path for path in _candidates(environ, installed) if _runs(path)), None)


def install_browser(python: Path, run: Callable[[list[str]], None]) -> Path:
    """Install Chromium: with apt-get as root on Debian and its kin, else through Playwright.

    `run` runs one command and raises RuntimeError if it fails; so does this function, saying why.
    """
    reasons = []
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        try:
            run(["apt-get", "update"])
            run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"])
            if found := find_browser(os.environ):
                return found
            reasons.append("apt-get's chromium does not run")
        except RuntimeError as error:
            reasons.append(f"apt-get: {_reason(error)}")
    try:
        run([str(python), "-m", "playwright", "install", "chromium"])
        asked = subprocess.run([str(python), "-c", _ASK_PLAYWRIGHT], capture_output=True, text=True, encoding="utf-8")
        path = Path(asked.stdout.strip())
        if asked.returncode == 0 and _runs(path):
            return path
        reasons.append("playwright's chromium does not run: system libraries are missing")
    except RuntimeError as error:
        reasons.append(f"playwright: {_reason(error)}")
    raise RuntimeError("; ".join(reasons))


def _candidates(environ: Mapping[str, str], installed: Path | None) -> Iterator[Path]:
    if installed is not None:
        yield installed
    for name in _NAMES:
        if found := shutil.which(name):
            yield Path(found)
    yield from map(Path, _PLACES)
    for root in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        if folder := environ.get(root):
            yield from (Path(folder) / place for place in _WINDOWS_PLACES)


def _runs(path: Path) -> bool:
    """Ubuntu's chromium-browser is a stub that only asks for snap, so being there is not enough."""
    if not path.is_file():
        return False
    if sys.platform == "win32":
        return True  # there --version opens a window
    try:
        return subprocess.run([str(path), "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _reason(error: Exception) -> str:
    """The last line that speaks of a fault: what follows it is the stack of the tool."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    faults = [line for line in lines if re.search("error|failed|unable|not found", line, re.IGNORECASE)]
    return (faults or lines or [type(error).__name__])[-1]
