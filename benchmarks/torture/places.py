"""Places that cannot be written: a disk that is full, read-only or gone while a run learns."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossinit_core import StepReport

from .learner import STEPS, Child, Learner, outcome
from .record import Record

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_READ_ONLY, _REMOUNT = 1, 32


def places(learner: Learner, tries: int, folder: Path, seed: int) -> Record:
    """Each try changes the folder of a run at a random step; the run, and the next one, must end with the right bits."""
    record = Record(
        "disks and folders",
        "A disk that is full or read-only and a folder that vanishes end no run; it is said in one line; and once the place is "
        "whole again, the next run ends with the same bits.",
    )
    numbers = random.Random(seed)
    undisturbed = outcome(learner.learn(None))
    kinds = [*MOVES]
    used: Counter[str] = Counter()
    how = ""
    for number in range(tries):
        kind, step = kinds[number % len(kinds)], numbers.randint(0, STEPS - 1)
        place = folder / f"place-{number}"
        place.mkdir()

        def work(
            send: Callable[[Any], None], kind: str = kind, step: int = step, place: Path = place, seed: int = number
        ) -> None:
            send(_private_disk(place))
            disk = place / "disk"
            disk.mkdir()
            move, mend = MOVES[kind]

            def at_step(report: StepReport) -> None:
                if report.step == step:
                    move(place, seed)

            if step == 0:
                move(place, seed)
            send(outcome(learner.learn(disk, on_step=at_step)))
            mend(place)
            send(outcome(learner.learn(disk)))

        child = Child(work)
        news = child.all_news()
        code = child.end()
        used[kind] += 1
        if news:
            how = news[0]
        record.add(_problem(kind, step, news, code, undisturbed))
    record.facts = {"how": how, "kinds": dict(used)}
    return record


def _problem(kind: str, step: int, news: list[Any], code: int | None, undisturbed: tuple[Any, ...]) -> str | None:
    if code != 0 or len(news) != 3:
        return f"{kind} at step {step}: ended with {code}"
    _, during, after = news
    if during[:2] != undisturbed[:2] or after[:2] != undisturbed[:2]:
        return f"{kind} at step {step}: other bits"
    if after[3]:
        return f"{kind} at step {step}: the next run says: {after[3][0]}"
    if kind in SAID and not during[3]:
        return f"{kind} at step {step}: nothing was said"
    if len(during[3]) > 3 or any(len(note) > 600 or "\n" in note for note in during[3]):
        return f"{kind} at step {step}: {len(during[3])} notes, or one that is too long"
    return None


def _private_disk(place: Path) -> str:
    """A small disk of its own at `place`, which goes with the process. Returns how that was done.

    Without root: in a new user and mount namespace of Linux. Where that is not allowed the largest file is limited instead.
    """
    if sys.platform != "linux":
        return "a limit on the size of a file (RLIMIT_FSIZE)"
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return "a limit on the size of a file (RLIMIT_FSIZE)"
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=1m"):
        return "a limit on the size of a file (RLIMIT_FSIZE)"
    return "a tmpfs of 1 MiB in a user and mount namespace, without root"


def _fill(place: Path, seed: int) -> None:
    """To the last block, or so that a file does not fit."""
    if not os.path.ismount(place):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 * (seed % 2), resource.RLIM_INFINITY))
        return
    left = 4096 * (seed % 3)
    try:
        with (place / "ballast").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
    except OSError:
        pass
    os.truncate(place / "ballast", max(0, (place / "ballast").stat().st_size - left))


def _empty(place: Path) -> None:
    if not os.path.ismount(place):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (place / "ballast").unlink(missing_ok=True)


def _remount(place: Path, flags: int) -> None:
    ctypes.CDLL(None).mount(b"tmpfs", os.fsencode(place), b"tmpfs", _REMOUNT | flags, b"size=1m")


def _file_instead(place: Path, seed: int) -> None:
    shutil.rmtree(place / "disk")
    (place / "disk").write_bytes(b"a file")


def _folder_again(place: Path) -> None:
    (place / "disk").unlink()


def _dangle(place: Path, seed: int) -> None:
    shutil.rmtree(place / "disk")
    (place / "disk").symlink_to(place / "nowhere")


MOVES: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], object]]] = {
    "the disk is full": (_fill, _empty),
    "the disk is read-only": (lambda place, _: _remount(place, _READ_ONLY), lambda place: _remount(place, 0)),
    "the folder is deleted": (lambda place, _: shutil.rmtree(place / "disk"), lambda place: None),
    "a file takes the folder's place": (_file_instead, _folder_again),
    "the folder becomes a link to nothing": (_dangle, _folder_again),
}
SAID = set(MOVES) - {"the folder is deleted", "the disk is read-only", "the disk is full"}
"""Kinds of which a note must speak; a deleted folder is made again, and a disk may be full behind the last write."""
