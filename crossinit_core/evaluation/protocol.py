"""The evaluation of Celeb Basis, which the publication uses: identity and prompt similarity over prompts and people.

Identity is the mean over the pictures on which a face was found, so the share of pictures without one stands beside it: a method
whose failures show no face would look better than it is. Means are over people, each person's own mean counting once, and
intervals are the bootstrap's over people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..text import quoted
from .faces import Picture, reference_features, score_of
from .pictures import Person, read_rgb, sendable
from .recognizers import Recognizer

RESAMPLES = 10_000
WITHOUT_PROMPT = "(no prompt)"
"""What pictures are listed under whose prompt is not known."""


class PromptScorer(Protocol):
    """Says how well pictures show what their prompts ask."""

    @property
    def name(self) -> str:
        """What stands beside every number."""
        ...

    def score(self, pictures: Sequence[Picture], prompts: Sequence[str]) -> list[float | None]:
        """One number for each picture (H, W, 3) uint8 RGB and its prompt; None for a prompt that asks for nothing."""
        ...


@dataclass(frozen=True)
class Scored:
    """A picture's numbers: `identity` is None without a face, `shown` without a prompt or anybody who judges it."""

    picture: str
    prompt: str | None
    identity: float | None
    shown: float | None


@dataclass(frozen=True)
class PersonScores:
    """Everything of one person."""

    name: str
    photos: int
    photos_without_face: int
    pictures: tuple[Scored, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> PersonScores:
        """From what `asdict` gave."""
        return cls(**{**facts, "pictures": tuple(Scored(**each) for each in facts["pictures"])})


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` people, with the 95 % interval of the bootstrap over people (percentiles); None where there is
    nothing, and no interval for a single person."""

    mean: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """The numbers of one prompt, or of all. `faceless` is the share of pictures without a face."""

    prompt: str
    pictures: int
    identity: Estimate
    shown: Estimate
    faceless: Estimate


@dataclass(frozen=True)
class Evaluation:
    """The result: whose numbers they are, all prompts together, each prompt, and each person."""

    recognizer: str
    scale: str
    prompt_scorer: str | None
    overall: Row
    prompts: tuple[Row, ...]
    people: tuple[PersonScores, ...]

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def score_person(
    person: Person,
    recognizer: Recognizer,
    scorer: PromptScorer | None,
    on_picture: Callable[[], object] = lambda: None,
    root: Path = Path(),
    say: Callable[[str], None] = lambda line: None,
) -> PersonScores:
    """A person's numbers, picture by picture; `on_picture` is called after each. Pictures are relative to `root`. `say` gets a line
    for a picture that cannot be read, which does not count.

    Raises ValueError if no photo shows a face, if one cannot be read, or if no picture can.
    """
    references = reference_features(recognizer, [read_rgb(path) for path in person.photos])
    scored = []
    for file in person.pictures:
        try:
            picture = read_rgb(root / file.path)
        except (OSError, ValueError) as error:
            say(f"Skipping '{quoted(file.path, 150)}': {quoted(error, 350)}")
            continue
        shown = scorer.score([picture], [file.prompt])[0] if scorer and file.prompt is not None else None
        scored.append(
            Scored(sendable(file.path.as_posix()), file.prompt, score_of(recognizer, picture, references), shown)
        )
        on_picture()
    if not scored:
        raise ValueError(f"None of the {len(person.pictures)} pictures of '{quoted(person.name)}' can be read.")
    return PersonScores(sendable(person.name), len(person.photos), len(person.photos) - len(references), tuple(scored))


def summarize(people: Sequence[PersonScores], recognizer: Recognizer, scorer: PromptScorer | None) -> Evaluation:
    """The table over all people; prompts in the order in which they first come."""
    prompts = dict.fromkeys(scored.prompt for person in people for scored in person.pictures)
    rows = tuple(_row(prompt or WITHOUT_PROMPT, people, [prompt]) for prompt in prompts)
    overall = _row("all", people)
    name = scorer.name if scorer else None
    return Evaluation(recognizer.name, recognizer.scale, name, overall, rows, tuple(people))


def row_of_person(person: PersonScores) -> Row:
    """All pictures of one person."""
    return _row(person.name, [person])


def estimate(values: Iterable[float | None]) -> Estimate:
    """The mean of one value a person, those without one left out."""
    found: NDArray[np.float64] = np.array([value for value in values if value is not None], np.float64)
    count = len(found)
    if not count:
        return Estimate(None, None, None, 0)
    if count < 2:
        return Estimate(float(found.mean()), None, None, count)
    rng = np.random.Generator(np.random.PCG64(0))
    means = np.concatenate(
        [found[rng.integers(count, size=(part, count))].mean(axis=1) for part in _parts(RESAMPLES, count)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(found.mean()), float(low), float(high), count)


def _parts(resamples: int, count: int) -> list[int]:
    """Resamples in parts of a few MB."""
    size = max(1, 500_000 // count)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _row(prompt: str, people: Sequence[PersonScores], only: Sequence[str | None] = ()) -> Row:
    """The numbers of all pictures, or only those of some prompts."""
    groups = [[scored for scored in one.pictures if not only or scored.prompt in only] for one in people]
    groups = [group for group in groups if group]
    return Row(
        prompt,
        sum(map(len, groups)),
        estimate(_mean(scored.identity for scored in group) for group in groups),
        estimate(_mean(scored.shown for scored in group) for group in groups),
        estimate(_mean(float(scored.identity is None) for scored in group) for group in groups),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
