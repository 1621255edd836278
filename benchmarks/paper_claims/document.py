"""The page for people: tables, verdicts, what shaped the numbers, and how they came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from miniature.world.identity import CATEGORICAL, CONTINUOUS
from miniature.world.scene import ATTRIBUTES

from .both_worlds import World, in_two_worlds
from .plan import LAMBDA, LEARNING_RATE, Group, Plan, Run, Table
from .results import ASKING, EXPRESSIONS, HEADLINE, JUDGES, Summary
from .statistics import Numbers
from .tables import markdown, people_of, table, value
from .verdicts import RATE_RULE, fast_learning_rate, verdicts

DISCLOSURES = """\
- **The world is drawn.** People, portraits and scenes come from the pack's own painter, at 128 px, and the model is a
  small one with Stable Diffusion 2's architecture, trained on them. What holds here need not hold for photographs, and
  the other way round.
- **The scale disparity is partly built in.** While the miniature was trained, every row of its token table was kept at a
  norm of at most 0.4, the mean norm in Stable Diffusion's encoders. What its text encoder puts out goes through a
  LayerNorm and is many times longer. That rows are short and outputs long is therefore a property of the design, as it
  is in Stable Diffusion; how far learned vectors travel from either is measured.
- **Faces between the names can be reached, by design.** A quarter of the training pictures show people without a name,
  whose token rows (1, 2 or 3 of them) come from a linear map of their face. Without them the encoder would know 792
  points and little between them. Stable Diffusion saw far more people than that, but no such map.
- **Both of these favour starts among the rows.** The encoder learned to read faces from rows of norm 0.4 or less, and met
  nothing as long as its own output. And AdamW's steps have one size whatever the norm, so a short vector turns further in a
  step than a long one.
- **Judges are networks too.** Both learned from paintings alone, and their errors (below) limit what can be told. The
  headline judge had no part in training the generator; the other one's features served the VAE's loss.
- **Plain textual inversion** starts at the row of "person" for each of its K vectors, and has lambda 0, since it knows no
  regularizer; the other runs have the paper's lambda. Everything else is equal for all: photo, draws, seeds, AdamW.
- **One learning per person.** Seeds vary the pictures, not the learning; a person's number is the seed of the learning."""

PURPOSES: dict[Group, str] = {
    "main": "every start at the published learning rate",
    "rates": "cross initialization from names at other learning rates",
    "starts": "the other starts at other learning rates",
    "lambda": "other values of lambda",
    "vectors": "one and three vectors (K)",
    "long": "plain textual inversion's long run",
}


def document(
    summary: Summary, plan: Plan, images: Mapping[str, tuple[str, str]], command: str, beside: World | None = None
) -> str:
    """`docs/paper-claims.md`.

    images: alternative text and path of pictures, `plot` and `people`, where they exist.
    beside: a second world, which gets a section of its own.
    """
    numbers = Numbers(summary)
    parts = [
        "# The paper's claims in the drawn world",
        "This page is written by `python -m benchmarks.paper_claims` from its own results; do not edit it.",
        _introduction(plan),
        *_shortfall(plan, numbers),
        "## Which claims hold",
        *_verdicts(numbers, plan),
        *(in_two_worlds(summary, plan, beside) if beside else ()),
        "## Initializations and steps",
        *_image(images, "plot"),
        table(numbers, plan.series("main"), references=True),
        *_image(images, "people"),
        "## Lambda",
        table(numbers, plan.series("lambda"), "lambda"),
        "## Learning rates",
        "Cross initialization from names.",
        table(numbers, plan.series("rates"), "rates"),
        f"For the fast preset of {plan.fast} steps:",
        _rate(numbers, plan),
        "## Every start at several learning rates",
        f"After {plan.full} steps. AdamW's steps have one size, so a rate that suits a vector of norm 14 is large for one of "
        "norm 0.4.",
        table(numbers, plan.series("starts"), "starts"),
        "## Number of vectors",
        table(numbers, plan.series("vectors"), "vectors"),
        "## The other judge",
        "The judge whose features served the VAE's loss, on the same pictures.",
        table(numbers, _everything(plan), judge=1 - HEADLINE, references=True, moves=False),
        "## How good the judges are",
        *_judges(summary["judges"]),
        "## What shaped these numbers",
        DISCLOSURES,
        "## How they came about",
        *_sessions(summary, plan, command),
    ]
    return "\n\n".join(parts) + "\n"


def _image(images: Mapping[str, tuple[str, str]], name: str) -> list[str]:
    return [f"![{images[name][0]}]({images[name][1]})"] if name in images else []


def _introduction(plan: Plan) -> str:
    return f"""\
{plan.identities} people who were kept from the miniature's training, one painted portrait each. Each is to be learned by
`crossinit_core.invert` in every way listed here, then {len(ASKING) + 1} prompts (the paper's, translated) are sampled {plan.seeds} times each.
All runs have batch 8, K = 2, learning rate {LEARNING_RATE} and lambda {LAMBDA:g} unless said otherwise.

- **Likeness**: similarity (0..1) between the face that a judge sees in a picture and the person's true parameters, mean
  over all prompts and pictures, those that are no portraits included. *Floor*: repainted pictures of a random other
  person. *Ceiling*: the person repainted in scenes that fulfil the prompts, through the VAE.
- **To others**: likeness of the same pictures to random people. **Rank**: the share of these whom a picture resembles less
  than the person meant; a picture of somebody else has 0.5 on average.
- **Editability**: share of pictures in which the judge sees everything that the prompt asks for ({len(ASKING)} prompts ask);
  **expressions**: the same for the {len(EXPRESSIONS)} prompts that ask for an expression alone.
- **No portrait**: share of pictures that the judge does not take for a clean portrait.
- **Norm, angle**: Euclidean norm of the learned vectors and their angle to the start, mean over the K vectors.

± is the standard error over people; square brackets are 95 % intervals of the bootstrap over people. Differences are
paired: the same person, portrait, draws and noise on both sides."""


def _shortfall(plan: Plan, numbers: Numbers) -> list[str]:
    """What is missing of the plan, by group; nothing if all is there."""
    groups: dict[Group, list[int]] = {}
    for run in plan.runs():
        people = [numbers.mean(run.config(steps), "likeness").count for steps in run.marks]
        groups.setdefault(run.group, []).extend(people)
    short = {group: people for group, people in groups.items() if min(people) < plan.identities}
    if not short:
        return []
    lines = [f"- {PURPOSES[group]}: {people_of(people)}." for group, people in short.items()]
    return [
        f"**Not all of it is measured yet.** Planned are {plan.identities} people for everything; measured are, "
        "where it is less:\n\n" + "\n".join(lines)
    ]


def _verdicts(numbers: Numbers, plan: Plan) -> list[str]:
    found = verdicts(numbers, plan)
    return ["\n".join(f"- {v.claim} **{v.word.capitalize()}.** {v.evidence} *Criterion: {v.criterion}*" for v in found)]


def _everything(plan: Plan) -> list[tuple[Run, int]]:
    found: dict[str, tuple[Run, int]] = {}
    tables: tuple[Table, ...] = ("main", "rates", "starts", "lambda", "vectors")
    for group in tables:
        for run, steps in plan.series(group):
            found.setdefault(run.config(steps), (run, steps))
    return list(found.values())


def _rate(numbers: Numbers, plan: Plan) -> str:
    rate, means = fast_learning_rate(numbers, plan)
    listed = ", ".join(f"{rate}: {value(mean)}" for rate, mean in sorted(means.items()) if mean.count)
    result = (
        f"By this rule: **{rate}**." if rate is not None else "Not all rates are measured, so the rule gives nothing."
    )
    return f"{RATE_RULE} The paper's rate is {LEARNING_RATE}.\n\nMean scores: {listed or 'none'}. {result}"


def _judges(found: Any) -> list[str]:
    if not found:
        return ["Not measured."]
    parts = [
        "On fresh paintings of people and scenes that neither saw, and on the same paintings after the VAE. Numbers lie in "
        "0..1; always saying 0.5 errs by 0.25 where they are uniform."
    ]
    heads = [f"judge {i}{' (headline)' if i == HEADLINE else ''}, {kind}" for i in range(JUDGES) for kind in found[i]]

    def rows(names: Iterable[tuple[str, str]]) -> list[list[str]]:
        return [[label, *(f"{each[key]:.3f}" for judge in found for each in judge.values())] for key, label in names]

    numbers = [(f"error {name}", name.replace("_", " ")) for name in CONTINUOUS]
    parts.append(markdown(("mean error of a number", *heads), rows(numbers)))
    shares = [(name, name.replace("_", " ")) for name in (*CATEGORICAL, *ATTRIBUTES)]
    shares += [("portrait", "portraits known as such"), ("no portrait", "ruins known as such")]
    shares += [("likeness of held-out people", "likeness to the truth")]
    parts.append(markdown(("share right", *heads), rows(shares)))
    return parts


def _sessions(summary: Summary, plan: Plan, command: str) -> list[str]:
    parts = [f"```\n{command}\n```"]
    alone = summary["alone"]
    if alone:
        took = ", ".join(f"{steps} steps {seconds:.1f} s" for steps, seconds in alone["learning"].items())
        parts.append(
            f"With nothing beside it, on {alone['device']}: learning {took}; sampling the {len(ASKING) + 1} prompts once "
            f"({plan.sampling_steps} steps, guidance {plan.guidance:g}) {alone['pictures']:.1f} s. float32."
        )
    else:
        parts.append("Seconds with nothing beside it were not measured (`--alone`).")
    parts.append(
        "Seconds in the tables are the wall clock of learning one person while other workers shared the machine, the "
        "encoding of the portrait included. Runs of one way are one trajectory that was looked at on the way."
    )
    counts = [f"{count:,} on {device}" for device, count in summary["devices"].items()]
    if len(counts) > 1:
        parts.append(
            f"Of the results, {', '.join(counts)}. Seconds are those of the first alone; all else is of both alike: "
            "portraits, draws and noise do not depend on the device."
        )
    rows = [
        (s["when"], s["devices"], str(s["workers"]), f"{s['seconds']:.0f}", str(s["jobs"]), s["versions"])
        for s in summary["sessions"]
    ]
    heads = ("when", "devices", "workers", "seconds", "jobs", "versions")
    return [*parts, f"Sessions on record:\n\n{markdown(heads, rows)}" if rows else "No session is on record."]
