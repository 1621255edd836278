"""The place of a file is checked before the work whose result it takes."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from crossinit_core.files import check_can_write, write_atomically


def test_a_place_that_will_do_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(b"old")
    for path in (tmp_path / "x.pt", tmp_path / "old.pt", tmp_path / "new" / "deep" / "x.pt"):
        assert check_can_write(path) == path
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]
    assert (tmp_path / "old.pt").read_bytes() == b"old"


def test_a_file_can_be_named_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_can_write("x.pt") == Path("x.pt")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").mkdir()
    for path in (tmp_path / "x.pt", tmp_path, Path()):
        with pytest.raises(ValueError, match=r"cannot be written: it is a folder\. Give the name of a file"):
            check_can_write(path)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    for path in (tmp_path / "notes" / "x.pt", tmp_path / "notes" / "more" / "x.pt"):
        with pytest.raises(ValueError, match=r"cannot be written: .*notes' is a file, not a folder|Not a directory"):
            check_can_write(path)


def test_a_name_that_is_too_long_is_found_early(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^The token file '.*' cannot be written: File name too long") as caught:
        check_can_write(tmp_path / ("a" * 255), what="token file")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["half \ud83d.pt", "nul\0.pt"])
def test_a_name_that_no_system_takes_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be written: its name .*\. Choose another name\.$"):
        check_can_write(tmp_path / name)


def test_a_full_disk_is_found_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ValueError, match=r"1\.0 MB are needed, but 0\.0 MB are free\. Make room"):
        check_can_write(tmp_path / "new" / "x.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom rights bind")
def test_a_folder_without_rights_is_found_early(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        check_can_write(tmp_path / "x.pt")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
def test_a_file_system_without_files_is_found_early() -> None:
    with pytest.raises(ValueError, match="cannot be written: No such file or directory"):
        check_can_write("/proc/self/x.pt")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX") or os.name == "nt", reason="needs a socket with a path")
def test_a_device_in_the_place_is_found_early(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x.pt"))
        with pytest.raises(ValueError, match="it is not an ordinary file"):
            check_can_write(tmp_path / "x.pt")


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "x", b"content")
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"content"]


@pytest.mark.parametrize("links", [True, False])
def test_of_two_programs_one_gets_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "anna.safetensors"
    write_atomically(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first" and [path] == list(tmp_path.iterdir())
