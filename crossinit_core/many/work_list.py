"""Who is finished, who is left: the output folder itself says it, so that the same command goes on after any stop.

OUT/NAME.safetensors        a finished person
OUT/.resume/NAME/           what is begun; it goes once the person is finished
OUT/failures.jsonl          who could not be learned in the last run, and why
OUT/summary/index.html      all people with their pictures, and further pages
OUT/summary/pictures/       the pictures
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..text import quoted
from ..tokens import metadata
from ..tokens.token_files import load_learned_token
from .people import Person, differences

SUFFIX = ".safetensors"
RESUME = ".resume"
DAMAGED = ".damaged"
SUMMARY = "summary"


@dataclass
class WorkList:
    """People in their order: `left` to learn, `finished`, and `others`, whose token is not what was asked for, with the
    reason. `notes` is for the user, a line each."""

    left: list[Person] = field(default_factory=list)
    finished: list[Person] = field(default_factory=list)
    others: list[tuple[Person, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """From `2/8`. Raises ValueError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise ValueError(
                f"--shard is '{quoted(text, 40)}', but I/N was expected, with I from 1 to N: 1/8 to 8/8. For Slurm: "
                "--array=1-8 and --shard $SLURM_ARRAY_TASK_ID/8."
            )
        return cls(number, count)

    def __str__(self) -> str:
        return "" if self.count == 1 else f"-{self.number}-of-{self.count}"

    def take(self, people: Sequence[Person]) -> list[Person]:
        """Every N-th: people who stand side by side and take long are spread over all parts."""
        return list(people[self.number - 1 :: self.count])


def token_path(out: Path, name: str) -> Path:
    return out / f"{name}{SUFFIX}"


def picture_path(out: Path, name: str) -> Path:
    """The small picture of a person on the summary page: the first photo, as it was learned."""
    return out / SUMMARY / "pictures" / f"{name}.jpg"


def resume_folder(out: Path, name: str) -> Path:
    return out / RESUME / name


def state_of(person: Person, out: Path) -> str | None:
    """Empty if the person is finished, None if there is no token; otherwise what is different about the token that is there.

    Raises ValueError if there is a file that holds no token.
    """
    path = token_path(out, person.name)
    if not os.path.lexists(path):
        return None
    found = load_learned_token(path).metadata.get(metadata.JOB)
    if found == person.job:
        return ""
    if found is None:
        return "it was not learned by this command"
    return f"it was learned with {', '.join(differences(person.job, found)[:4]) or 'other settings'}"


def sort_people(people: Sequence[Person], out: Path, *, replace: bool = False) -> WorkList:
    """Look at the folder. A token that is damaged is set aside, and its person is learned anew; one that is another's is left
    alone, unless it is to be replaced."""
    work = WorkList()
    for person in people:
        path = token_path(out, person.name)
        try:
            state = state_of(person, out)
        except (ValueError, OSError) as error:
            aside = path.with_name(f"{path.name}{DAMAGED}")
            try:
                path.replace(aside)
            except OSError:
                work.others.append((person, f"the file cannot be read: {quoted(error, 200)}"))
                continue
            work.notes.append(
                f"'{quoted(path.name, 80)}' is not whole. It is set aside as '{quoted(aside.name, 80)}', and "
                f"{quoted(person.name, 40)} is learned anew."
            )
            state = None
        if state is None or (state and replace):
            work.left.append(person)
        elif state:
            work.others.append((person, state))
        else:
            work.finished.append(person)
            forget(out, person.name)
    return work


def place_of(out: Path, name: str) -> str:
    """A digest of what is begun of a person: another one if a worker got farther, the same if it did not."""
    digest = hashlib.sha256()
    for path in sorted(resume_folder(out, name).glob("*")):
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def forget(out: Path, name: str) -> None:
    """Take away what is begun of a person who is finished."""
    folder = resume_folder(out, name)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
