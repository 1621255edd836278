"""What is measured: runs of the learning, the steps at which each is looked at, and the order of the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from crossinit_core import InversionSettings
from crossinit_core.families import TIMESTEPS
from crossinit_core.learning.settings import Method, Schedule
from miniature.training.captions import PROMPTS, Prompt

Start = Literal["words", "mean", "cross names", "cross words", "nearest"]
Table = Literal["main", "rates", "starts", "lambda", "vectors"]
Group = Literal["main", "rates", "starts", "lambda", "vectors", "long", "ways"]

LABELS: dict[Start, str] = {
    "words": "plain textual inversion",
    "mean": "celebrity mean, no encoder pass",
    "cross names": "cross initialization, names",
    "cross words": "cross initialization, words",
    "nearest": "mean of the nearest celebrities",
}

WORD = "person"
"""Plain textual inversion starts at this word, once for each vector: with equal K, only the start differs."""

LEARNING_RATE, LAMBDA = InversionSettings.learning_rate, InversionSettings.regularization


@dataclass(frozen=True)
class Run:
    """One way to learn, at every one of `marks` steps: where the learning rate is constant, 25 steps of a run of 320
    are the run of 25. Fields named as in `InversionSettings` mean what they mean there."""

    name: str
    start: Start
    marks: tuple[int, ...]
    group: Group
    vectors: int = 2
    learning_rate: float = LEARNING_RATE
    regularization: float = LAMBDA
    method: Method = "published"
    prior: float = 0.0
    schedule: Schedule = "constant"
    timesteps: tuple[int, int] = (0, TIMESTEPS)
    average: int = 1
    """The result is the mean of the vectors after so many last steps."""
    photos: int = 1
    masked: bool = False
    """Whether the loss counts in the middle of the photo alone, an ellipse around the head."""
    context: float = 0.0
    """The weight of the other words' change, see `context`."""
    settles: bool = False
    """Whether it ends when a fixed batch has settled, see `settling`; a mark is the last step that it may take then."""

    def config(self, steps: int) -> str:
        """The name of this run after so many steps."""
        return f"{self.name}-{steps}"

    @property
    def label(self) -> str:
        """For tables and plots."""
        return LABELS[self.start]

    @property
    def words(self) -> str:
        """What a start at words starts at."""
        return " ".join([WORD] * self.vectors)


@dataclass(frozen=True)
class Plan:
    """How much is measured. Defaults are those of issue and paper; tests make everything small.

    `steps` are fast, middle and full; `long` is how far plain textual inversion goes. `seeds` is the number of
    pictures of each prompt. `sampling_steps` and `guidance` are those of the pictures; `examination` is the number of
    paintings that the judges are examined on.
    """

    identities: int = 40
    seeds: int = 3
    steps: tuple[int, ...] = (25, 100, 320)
    long: int = 5000
    sampling_steps: int = 20
    guidance: float = 3.0
    examination: int = 1024

    def __post_init__(self) -> None:
        for name in ("identities", "seeds", "sampling_steps", "examination"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.sampling_steps < 2:
            raise ValueError(f"sampling_steps is {self.sampling_steps}, but the solver needs at least 2.")
        order = (0, *self.steps, self.long)
        if not self.steps or sorted(set(order)) != list(order):
            raise ValueError(
                f"steps are {' '.join(map(str, self.steps))} and long is {self.long}, but they must grow: 25 100 320, and 5000."
            )

    @property
    def people(self) -> range:
        """The numbers of the people who are learned."""
        return range(self.identities)

    @property
    def named(self) -> range:
        """The numbers of those whom the model knows by name, and who are looked at beside the learned ones."""
        return range(0)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What pictures are made of."""
        return PROMPTS

    @property
    def fast(self) -> int:
        return self.steps[0]

    @property
    def full(self) -> int:
        return self.steps[-1]

    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order of their importance."""
        full = (self.full,)
        # Textual inversion (Gal et al., 2022) knows no regularizer.
        main = (
            Run("plain", "words", self.steps, "main", regularization=0.0),
            Run("mean", "mean", self.steps, "main"),
            Run("cross-words", "cross words", self.steps, "main"),
            Run("cross-names", "cross names", self.steps, "main"),
        )
        rates = [
            Run(f"rate-{rate}", "cross names", self.steps, "rates", learning_rate=rate) for rate in (0.01, 0.02, 0.04)
        ]
        # A step has one size, whatever the norm of what it turns: no one rate is fair to starts of all lengths.
        starts = [
            replace(run, name=f"{run.name}-rate-{rate}", group="starts", learning_rate=rate)
            for run in main
            if run.name != "cross-names"
            for rate in (0.02, 0.04)
        ]
        weights = [
            Run(f"lambda-{weight:g}", "cross names", full, "lambda", regularization=weight)
            for weight in (0.0, 1e-4, 1e-3, 1e-2)
        ]
        counts = (
            Run("vectors-1", "cross names", full, "vectors", vectors=1),
            Run("vectors-3", "cross names", full, "vectors", vectors=3),
            Run("plain-K1", "words", full, "vectors", vectors=1, regularization=0.0),
        )
        long = Run("plain", "words", (self.long,), "long", regularization=0.0)
        return (*main, *rates, *starts, *weights, *counts, long)

    def series(self, group: Table) -> list[tuple[Run, int]]:
        """The runs that a table compares, with their steps: those of the group, and the default among them.

        "main" has the long run as well, after the shorter ones of the same start.
        """
        runs = self.runs()
        default = next(run for run in runs if run.name == "cross-names")
        own = [run for run in runs if run.group == group]
        if group == "rates":
            return [(run, steps) for steps in self.steps for run in (default, *own)]
        if group == "starts":
            order = [run.start for run in runs if run.group == "main"]
            every = [run for run in runs if run.group in ("main", "rates", "starts")]
            compared = sorted(every, key=lambda run: (order.index(run.start), run.learning_rate))
            return [(run, self.full) for run in compared]
        if group == "lambda":
            compared = sorted([default, *own], key=lambda run: run.regularization)
            return [(run, self.full) for run in compared]
        if group == "vectors":
            crossed = sorted([default, *(r for r in own if r.start != "words")], key=lambda run: run.vectors)
            plain = [r for r in own if r.start == "words"] + [run for run in runs if run.name == "plain"][:1]
            return [(run, self.full) for run in (*crossed, *plain)]
        long = [run for run in runs if run.group == "long"]
        everything = [run for main in own for run in (main, *(run for run in long if run.name == main.name))]
        return [(run, steps) for run in everything for steps in run.marks]


def command(plan: Plan, *ends: str) -> str:
    """What measures the plan again; `ends` are words to put after its options."""
    words = ["python -m benchmarks.paper_claims"]
    for name, default in asdict(Plan()).items():
        value = getattr(plan, name)
        if value != default:
            values = value if isinstance(value, tuple) else (value,)
            words.append(f"--{name.replace('_', '-')} {' '.join(map(str, values))}")
    return " ".join([*words, *ends])


@dataclass(frozen=True)
class Job:
    """A piece of work for one worker. `kind` "learn" is a run for a person; "reference" paints the person's floor
    and ceiling; "named" samples somebody whom the model knows by name; "judges" examines the judges."""

    kind: Literal["learn", "reference", "named", "judges"]
    identity: int = 0
    run: Run | None = None

    @property
    def configs(self) -> tuple[str, ...]:
        """The results that come of it."""
        return (self.kind,) if self.run is None else tuple(self.run.config(steps) for steps in self.run.marks)

    @property
    def trajectory(self) -> str:
        """Two jobs of one trajectory must not run at once: the second continues the first."""
        return f"{self.kind if self.run is None else self.run.name}-{self.identity:04d}"


def jobs(plan: Plan, only: Sequence[str] = ()) -> list[Job]:
    """All work, such that stopping early is useful: group by group, and in a group person by person.

    only: names of runs, or of what they make such as `plain-5000`; empty for everything.

    Raises ValueError for a name that is neither.
    """
    runs = plan.runs()
    known = {run.name for run in runs} | {run.config(steps) for run in runs for steps in run.marks}
    for name in only:
        if name not in known:
            raise ValueError(f"--only is '{name}', but must be one of {', '.join(sorted(known))}.")
    wanted = [run for run in runs if not only or run.name in only or any(run.config(m) in only for m in run.marks)]
    work = [Job("judges"), *(Job("reference", who) for who in plan.people), *(Job("named", who) for who in plan.named)]
    for group in dict.fromkeys(run.group for run in runs):
        work += [Job("learn", i, run) for i in plan.people for run in wanted if run.group == group]
    return work
