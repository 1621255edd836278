"""What `train-many` does: learn everybody in a folder or a list, on all GPUs of this computer or of a Ray cluster."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from ..families import BASE_NAMES, base_of_widths
from ..files import check_can_write
from ..many.crew import Crew, Make, Order, Report
from ..many.driver import hand_out
from ..many.failures import Failures
from ..many.learner import FaceLearner
from ..many.manifest import read_manifest
from ..many.on_ray import RayCrew
from ..many.page import write_pages
from ..many.people import OPTIONS, Options, Person, missing_photos
from ..many.processes import GPUS, ProcessCrew
from ..many.progress import Progress
from ..many.work_list import Shard, WorkList, place_of, sort_people, token_path
from ..text import quoted
from .arguments import chosen_device
from .signals import Screen

_LONGEST_LINE = 580
_MOST_NAMED = 5
_MOST_WORKERS = 4096
_QUIET_SECONDS = 60.0
"""Between two lines of progress that go into a file."""
_SHORT_SECONDS = 0.5
"""Between two on a terminal."""


def run(options: argparse.Namespace, make: Make = FaceLearner) -> None:
    """Learn everybody who is not finished. The same command goes on after a stop; `make` is what learns in a worker.

    Raises ValueError and OSError as `many` does, and RuntimeError if nobody can be learned.
    """
    screen = Screen()
    shard = Shard.of(options.shard) if options.shard is not None else Shard()
    people, work = prepare(options, shard, screen)
    out: Path = options.out
    failures = Failures(out, shard)
    left = []
    for person in work.left:
        if absent := missing_photos(person):
            failures.add(person, f"There is no photo or folder at '{quoted(absent[0], 300)}'.")
        else:
            left.append(person)
    if failures.count:
        screen.say(
            f"{_people(failures.count)} cannot be learned: photos are missing. See '{quoted(failures.path, 200)}'."
        )
    progress = Progress(len(left))
    show = _Line(progress, screen)
    try:
        if left:
            crew = crew_for(options, make)
            screen.say(f"{_people(len(left))} to learn with {crew.wanted()} {_plural('worker', crew.wanted())}.")
            hand_out(left, crew, _Watch(out, progress, failures, show))
    except KeyboardInterrupt:
        show.say("The same command goes on from here.")
        raise
    finally:
        show.end()
        failures.close()
        try:
            page = write_pages(people, out, quoted(options.model.resolve().name, 60))
            print(f"{page}: the summary", flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:  # it must not hide why the work has ended
            show.say(f"The summary could not be written ({quoted(error.strerror or error, 120)}).")
    print(_closing(work, progress, failures, out), flush=True)


def prepare(options: argparse.Namespace, shard: Shard, screen: Screen) -> tuple[list[Person], WorkList]:
    """All people of the list, and what this shard has to do; nothing is loaded yet, and all that is wrong is said."""
    from ..diffusers_backbone import widths_of

    for name, value, most in (
        ("--workers", options.workers, _MOST_WORKERS),
        ("--people-per-gpu", options.people_per_gpu, 64),
    ):
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"{name} is {quoted(value, 40)}, but must be from 1 to {most}.")
    out: Path = options.out
    source: Path = options.people.absolute()  # workers may be in another folder
    model: Path = options.model
    if not model.exists():
        raise FileNotFoundError(
            f"There is no model at '{quoted(model, 300)}'. Give a folder in diffusers' layout or a checkpoint file that is on "
            "this computer."
        )
    if source.is_dir() and source.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(
            f"--out '{quoted(out, 150)}' lies in the folder of people, and would be taken for a person. Choose a folder "
            "elsewhere."
        )
    manifest = read_manifest(source, OPTIONS)
    for note in manifest.notes:
        screen.say(note)
    given = {name: getattr(options, name) for name in OPTIONS}
    if options.names is not None:
        given["names"] = options.names.absolute()
    reader = Options(model, given, widths_of(model), options.precision)
    home = source.parent
    people = [reader.person(row, home) for row in manifest.rows]
    check_can_write(token_path(out, "probe"), what="output folder")
    out.mkdir(parents=True, exist_ok=True)
    work = sort_people(shard.take(people), out, replace=options.replace)
    for note in work.notes[:_MOST_NAMED]:
        screen.say(note)
    if work.finished:
        screen.say(f"{_people(len(work.finished))} finished already.")
    for person, reason in work.others[:_MOST_NAMED]:
        screen.say(quoted(f"{person.name} is left alone: {reason}.", _LONGEST_LINE))
    if work.others:
        screen.say(
            f"{_people(len(work.others))} left alone, whose token is not what was asked for. To learn them anew, add --replace "
            "or choose another --out."
        )
    widths = widths_of(model)
    base = base_of_widths(widths)
    on = f" on {BASE_NAMES.get(base, base)}" if widths else ""
    part = f", part {shard.number} of {shard.count}" if shard.count > 1 else ""
    screen.say(f"{_people(len(people))}{on}{part}.")
    return people, work


def crew_for(options: argparse.Namespace, make: Make) -> Crew:
    """The workers that were asked for: processes of this computer, or Ray's."""
    if options.ray:
        # On a cluster, the computer of the driver may have no GPU, and it decides nothing.
        if options.device not in (None, "cpu", "cuda"):
            raise ValueError(f"--device is '{quoted(options.device, 40)}', but with --ray cpu or cuda is expected.")
        order = Order(options.model.resolve(), options.out.resolve(), options.device or "", options.precision)
        return RayCrew(order, make, workers=options.workers, per_gpu=options.people_per_gpu)
    device = chosen_device(options.device)
    if device.type == "cuda" and device.index is None:
        gpus = visible_gpus() * options.people_per_gpu
        gpus = (gpus * options.workers)[: options.workers] if options.workers else gpus
    else:
        gpus = [""] * (options.workers or 1)
    share = max(1, (os.cpu_count() or 1) // len(gpus))
    threads = min(share, torch.get_num_threads()) if len(gpus) > 1 else 0
    return ProcessCrew(Order(options.model, options.out, str(device), options.precision, threads), make, gpus)


def visible_gpus() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    if GPUS in os.environ and os.environ[GPUS].strip():
        return [name.strip() for name in os.environ[GPUS].split(",")][:count]
    return [str(number) for number in range(count)]


class _Watch:
    """Counts people, writes down failures, and shows both."""

    def __init__(self, out: Path, progress: Progress, failures: Failures, show: _Line) -> None:
        self._out, self._progress, self._failures, self._show = out, progress, failures, show

    def ended(self, person: Person, report: Report) -> None:
        failed = report.kind == "failed"
        if failed:
            self._failures.add(person, report.text)
            self._show.say(f"{quoted(person.name, 60)} failed: {report.text}")
        for note in report.notes:
            self._show.say(f"{quoted(person.name, 60)}: {note}")
        self._progress.count(failed=failed)
        self._show.now()

    def ready(self) -> None:
        self._progress.begin()

    def waiting(self) -> None:
        self._show.now()

    def place_of(self, person: Person) -> str:
        return place_of(self._out, person.name)


class _Line:
    """The line of progress: on a terminal always the same one, in a file one a minute."""

    def __init__(self, progress: Progress, screen: Screen) -> None:
        self._progress, self._screen = progress, screen
        self._terminal = sys.stderr.isatty()
        self._shown, self._width = time.monotonic(), 0

    def now(self) -> None:
        if time.monotonic() - self._shown > (_SHORT_SECONDS if self._terminal else _QUIET_SECONDS):
            self._show()

    def say(self, line: str) -> None:
        self._clear()
        self._screen.say(quoted(line, _LONGEST_LINE))

    def end(self) -> None:
        self._show()
        if self._terminal:
            self._screen.write("\n")

    def _show(self) -> None:
        self._shown = time.monotonic()
        line = self._progress.line()
        if not self._terminal:
            self._screen.say(line)
            return
        self._clear()
        self._screen.write(line)
        self._screen.flush()
        self._width = len(line)

    def _clear(self) -> None:
        if self._terminal and self._width:
            self._screen.write("\r" + " " * self._width + "\r")


def _closing(work: WorkList, progress: Progress, failures: Failures, out: Path) -> str:
    parts = [f"{progress.done} learned", f"{len(work.finished)} finished before"]
    if work.others:
        parts.append(f"{len(work.others)} left alone")
    if failures.count:
        parts.append(f"{failures.count} failed (see {quoted(failures.path.name, 80)})")
    return f"{quoted(out, 200)}: {', '.join(parts)}"


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
