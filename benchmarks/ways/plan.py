"""Which ways are tried, and on whom: nothing that a way is chosen on is there when it is reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from miniature.training.captions import PROMPTS, Prompt, asked

from ..paper_claims.plan import Plan, Run

Stage = Literal["choose", "report"]

FIRST_CHOOSER = 100
"""People are chosen on from this number on; those of docs/paper-claims.md, 0 to 39, are reported on."""
CHOOSERS = 16
NAMED = 40
"""So many of a world's own people are looked at beside the learned ones."""

MIDDLE, MOST = (500, 900), (200, 1000)
"""Levels of noise: where a face is decided, and all but the last touches."""

CHOOSING: tuple[Prompt, ...] = tuple(
    Prompt(text, asked(text))
    for text in (
        "a portrait of a {} person",
        "a sad {} person wearing a sweater",
        "a smiling {} person in the city",
        "an angry {} person wearing glasses",
        "a surprised {} person on the beach",
        "a {} person with a neutral expression in the snow",
        "a {} person wearing sunglasses and a beanie",
        "a {} person wearing a cowboy hat in the forest",
        "a {} person wearing a crown on a blue background",
        "a {} person wearing a suit and headphones",
        "a {} person wearing a red sweater",
        "a {} person wearing a spacesuit in the snow",
        "a {} person and Will Smith wearing caps",
        "a sad {} person and Will Smith in the forest",
        "a {} person and Will Smith in space",
        "a watercolour painting of a {} person wearing glasses",
        "a pencil drawing of a smiling {} person",
        "pixel art of a {} person wearing a crown",
        "a cubist painting of a {} person in the city",
        "a {} person wearing headphones on a green background",
    )
)
"""Prompts that ways are chosen on. None of them is a prompt of the paper."""


def _ways() -> tuple[Run, ...]:
    published = Run("published", "cross names", (), "ways")
    mean = replace(published, name="mean", start="mean", regularization=0.0)
    turned = replace(mean, name="direction .04", method="direction", learning_rate=0.04)
    falling = replace(turned, name="direction .2 falling", learning_rate=0.2, schedule="linear")
    ways = [
        replace(published, name="plain", start="words", regularization=0.0),
        published,
        replace(published, name="published .04", learning_rate=0.04),
        replace(published, name="published middle", timesteps=MIDDLE),
        mean,
        replace(mean, name="mean most", timesteps=MOST),
        replace(mean, name="mean middle", timesteps=MIDDLE),
        replace(mean, name="mean middle K1", timesteps=MIDDLE, vectors=1),
        replace(mean, name="mean .01 falling middle", learning_rate=0.01, schedule="linear", timesteps=MIDDLE),
        replace(mean, name="mean .01 falling most", learning_rate=0.01, schedule="linear", timesteps=MOST),
        replace(mean, name="word middle", start="words", timesteps=MIDDLE),
        turned,
        replace(turned, name="direction .1", learning_rate=0.1),
        replace(turned, name="direction .1 prior", learning_rate=0.1, prior=1e-4),
        replace(turned, name="direction .1 middle", learning_rate=0.1, timesteps=MIDDLE),
        replace(turned, name="direction .1 middle K1", learning_rate=0.1, timesteps=MIDDLE, vectors=1),
        replace(turned, name="direction .1 most K1", learning_rate=0.1, timesteps=MOST, vectors=1),
        replace(turned, name="direction .1 middle, last 10", learning_rate=0.1, timesteps=MIDDLE, average=10),
        falling,
        replace(falling, name="direction .2 falling most", timesteps=MOST),
        replace(falling, name="direction .2 falling middle", timesteps=MIDDLE),
        replace(falling, name="direction .2 falling most K1", timesteps=MOST, vectors=1),
        replace(falling, name="direction .2 falling middle K1", timesteps=MIDDLE, vectors=1),
        replace(falling, name="direction .3 falling most K1", learning_rate=0.3, timesteps=MOST, vectors=1),
        replace(falling, name="direction .3 falling most", learning_rate=0.3, timesteps=MOST),
        replace(falling, name="direction .3 falling middle", learning_rate=0.3, timesteps=MIDDLE),
        replace(falling, name="direction .5 falling most", learning_rate=0.5, timesteps=MOST),
        replace(falling, name="direction .5 falling most K1", learning_rate=0.5, timesteps=MOST, vectors=1),
        replace(falling, name="direction .5 falling middle K1", learning_rate=0.5, timesteps=MIDDLE, vectors=1),
        replace(turned, name="start's direction .1 middle", start="cross names", learning_rate=0.1, timesteps=MIDDLE),
        replace(falling, name="start's direction .2 falling most", start="cross names", timesteps=MOST),
        *(
            replace(
                falling,
                name=f"start's direction {rate:g} falling most{' K1' if vectors == 1 else ''}".replace(" 0.", " ."),
                start="cross names",
                learning_rate=rate,
                timesteps=MOST,
                vectors=vectors,
            )
            for rate, vectors in ((0.2, 1), (0.3, 2), (0.3, 1))
        ),
        replace(turned, name="word's direction .1 middle", start="words", learning_rate=0.1, timesteps=MIDDLE),
        replace(falling, name="nearest's direction .2 falling most", start="nearest", timesteps=MOST),
        replace(falling, name="nearest's direction .2 falling most K1", start="nearest", timesteps=MOST, vectors=1),
        replace(mean, name="nearest most", start="nearest", timesteps=MOST),
        *_more(replace(falling, name="direction .3 falling most K1", learning_rate=0.3, timesteps=MOST, vectors=1)),
        replace(
            turned, name="direction .1 most K1, settling", learning_rate=0.1, timesteps=MOST, vectors=1, settles=True
        ),
    ]
    return tuple(ways)


def _more(way: Run) -> tuple[Run, ...]:
    """What may help a way: more photos, only the head, the other words held."""
    return (
        replace(way, name=f"{way.name}, three photos", photos=3),
        replace(way, name=f"{way.name}, masked", masked=True),
        replace(way, name=f"{way.name}, context .003", context=0.003),
        replace(way, name=f"{way.name}, context .01", context=0.01),
    )


WAYS: dict[str, Run] = {way.name: way for way in _ways()}
"""Every way that is tried, by its name. Adding one here and calling again measures it alone."""

ALWAYS = ("plain", "published")
"""Reported beside the chosen ones, and never chosen."""


@dataclass(frozen=True)
class Search(Plan):
    """A part of the search: `choose` on its own people and prompts, or `report` on those of docs/paper-claims.md."""

    seeds: int = 2
    stage: Stage = "choose"
    ways: tuple[str, ...] = ()
    """Names of the ways; none for all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.ways:
            if name not in WAYS:
                raise ValueError(f"--ways has '{name}', but must be of {', '.join(WAYS)}.")

    @property
    def people(self) -> range:
        first = FIRST_CHOOSER if self.stage == "choose" else 0
        return range(first, first + self.identities)

    @property
    def named(self) -> range:
        return self.people[:NAMED]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return CHOOSING if self.stage == "choose" else PROMPTS

    def runs(self) -> tuple[Run, ...]:
        """The ways; while reporting, plain textual inversion goes on for `long` steps."""
        found = []
        for name in self.ways or WAYS:
            long = name == "plain" and self.stage == "report"
            found.append(replace(WAYS[name], marks=(*self.steps, self.long) if long else self.steps))
        return tuple(found)


def reported(chosen: Iterable[str]) -> tuple[str, ...]:
    """The ways to report: those that are always there, and the chosen ones, each once."""
    return tuple(dict.fromkeys([*ALWAYS, *chosen]))
