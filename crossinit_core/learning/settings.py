"""Settings of an inversion, checked, and the published presets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..choices import PRECISIONS, Precision
from ..families import BASE_NAMES, TIMESTEPS
from ..prompts import SUBJECT, TEMPLATES
from ..text import quoted

MemoryMode = Literal["auto", "normal", "low"]
Method = Literal["published", "direction"]
METHODS: tuple[Method, ...] = ("published", "direction")
NEW = ("regularizer", "method", "prior", "timesteps", "schedule")
"""Settings that resume files of 0.2 and before do not know."""
Regularizer = Literal["distance", "squared"]
REGULARIZERS: tuple[Regularizer, ...] = ("distance", "squared")
Schedule = Literal["constant", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear")
MEMORY_MODES: tuple[MemoryMode, ...] = ("auto", "normal", "low")


DIRECTION_RATE, DIRECTION_PRIOR = 0.04, 1e-4
"""The published ones of learning the direction alone, eta and kappa, at batch 4 on SDXL: 0.01 x 4 (kunheek/dti,
`src/dti/argument_parser.py`)."""


@dataclass(frozen=True)
class InversionSettings:
    """How to learn. The defaults are the published full run (320 steps at batch 8).

    `learning_rate` is the one that AdamW gets: the published 0.000625 times the batch of 8. `regularization` is
    lambda, and `regularizer` what it weighs: the mean `distance` of the vectors from their start, as published, or the
    `squared` one of the published SDXL form. `method` is `published`, or `direction` to learn the direction alone (Kim et al.,
    ICLR 2026, arXiv 2512.13672): then `learning_rate` is its eta and `prior` its kappa, and `weight_decay` and
    `regularization` do not count. `timesteps` (low, high) are the levels of noise that are learned from, low <= t < high.
    `schedule` is what becomes of the learning rate: it stays `constant`, as published, or falls in a `linear` way, from all of
    it in the first step to 1 / `steps` of it in the last.
    `micro_batch_size` splits the batch to save memory and changes nothing but rounding; None means the
    whole batch at once. `gradient_checkpointing` trades time for memory, likewise. `resolution` is the size in pixels
    at which photos are learned; None means the model's own. `resume_every` is the number of steps between resume
    files, which are written every ten seconds in any case. `memory` is `auto` (checkpointing and smaller pieces only if
    the device has too little memory), `normal` (never) or `low` (always). `cuda_graph` lets a GPU replay a step that was
    recorded once; the result is the same.
    """

    steps: int = 320
    batch_size: int = 8
    learning_rate: float = 0.005
    weight_decay: float = 0.01
    regularization: float = 1e-5
    seed: int = 0
    precision: Precision = "auto"
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    resolution: int | None = None
    flip_probability: float = 0.5
    templates: tuple[str, ...] = TEMPLATES
    subject: str = SUBJECT
    resume_every: int = 20
    memory: MemoryMode = "auto"
    cuda_graph: bool = True
    regularizer: Regularizer = "distance"
    method: Method = "published"
    prior: float = 0.0
    timesteps: tuple[int, int] = (0, TIMESTEPS)
    schedule: Schedule = "constant"

    def check(self) -> None:
        """Raises ValueError for the first setting that is out of range: its name, its value, what is expected."""
        _at_least("steps", self.steps, 1, "The published runs use 320 and 25.")
        _at_least("batch_size", self.batch_size, 1, "The published runs use 8.")
        if self.micro_batch_size is not None:
            _at_least("micro_batch_size", self.micro_batch_size, 1, "Use 1 for the least memory.")
        _at_least("resume_every", self.resume_every, 1, "The default is 20.")
        if not (math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 1):
            raise ValueError(
                f"learning_rate is {self.learning_rate}, but must be above 0 and at most 1. "
                "The published runs use 0.005."
            )
        for name in ("weight_decay", "regularization", "prior"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, but must be 0 or more.")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability is {self.flip_probability}, but must lie in 0..1.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}, but must be from 0 to 2^64 - 1.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is '{self.precision}', but must be one of {', '.join(PRECISIONS)}.")
        if self.memory not in MEMORY_MODES:
            raise ValueError(f"memory is '{self.memory}', but must be one of {', '.join(MEMORY_MODES)}.")
        if self.regularizer not in REGULARIZERS:
            raise ValueError(f"regularizer is '{self.regularizer}', but must be one of {', '.join(REGULARIZERS)}.")
        if self.method not in METHODS:
            raise ValueError(f"method is '{self.method}', but must be one of {', '.join(METHODS)}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is '{self.schedule}', but must be one of {', '.join(SCHEDULES)}.")
        low, high = self.timesteps
        if not 0 <= low < high <= TIMESTEPS:
            raise ValueError(
                f"timesteps is ({low}, {high}), but must be two numbers from 0 to {TIMESTEPS}, the first one the smaller. "
                f"The published runs use (0, {TIMESTEPS})."
            )
        if self.resolution is not None:
            from ..photos.images import check_resolution  # brings PyTorch, which a list of settings does not need

            check_resolution(self.resolution)

    def sized(self, own: int) -> InversionSettings:
        """These settings at a resolution that suits a model whose own is `own`.

        Raises ValueError if they name one at which the model gives nothing sensible.
        """
        if self.resolution is not None and self.resolution > 2 * own:
            raise ValueError(
                f"resolution is {self.resolution}, but this model draws {own} px, and nothing sensible at more than twice "
                f"that. Set resolution to {own}."
            )
        return replace(self, resolution=self.resolution or own)

    def identity(self) -> dict[str, object]:
        """The settings that decide the result, for the fingerprint of a run."""
        apart = {"steps", "micro_batch_size", "gradient_checkpointing", "resume_every", "memory", "cuda_graph"}
        # Newer than some resume files, which go on if it is left alone.
        apart |= {name for name in NEW if getattr(self, name) == getattr(InversionSettings, name)}
        if self.schedule != "constant":
            apart.remove("steps")  # they decide every rate
        return {key: value for key, value in asdict(self).items() if key not in apart}


_SWIFT = InversionSettings(
    steps=25, learning_rate=0.3, method="direction", schedule="linear", timesteps=(200, TIMESTEPS)
)
_BEST = replace(_SWIFT, steps=100, learning_rate=0.2)

PRESETS: dict[str, InversionSettings] = {
    "best": _BEST,
    "swift": _SWIFT,
    "full": InversionSettings(steps=320),
    "fast": InversionSettings(steps=25, learning_rate=0.02),
    "fast-published": InversionSettings(steps=25),
}
"""`full` is the published run. The publication does not give the learning rate of its fast run: `fast` has the smallest that
came near to the best in docs/paper-claims.md, and `fast-published` has that of the full run. `best` and `swift` learn the
direction alone, which docs/method.md compares with the others in two drawn worlds; they were not measured on real checkpoints."""
DEFAULT_PRESET = "best"
"""What is offered first: the best in both worlds of docs/ways.md."""

_SDXL = InversionSettings(
    steps=400, batch_size=4, learning_rate=0.02, resolution=768, flip_probability=0.0, regularizer="squared"
)
SDXL_PRESETS: dict[str, InversionSettings] = {
    **{
        name: replace(preset, batch_size=4, resolution=768, flip_probability=0.0)
        for name, preset in (("best", _BEST), ("swift", _SWIFT))
    },
    "full": _SDXL,
    "fast": replace(_SDXL, steps=50, learning_rate=0.04),
    "fast-published": replace(_SDXL, steps=50),
}
"""`full` is the published run for SDXL (kunheek/dti, exps/xinit_sdxl.py). There is no published short one: `fast` has twice
the rate for an eighth of the steps, in between SD's proportions, and was not measured on a real checkpoint. Neither were
`swift` and `best`, which have the rates of the other families."""


def presets_of(base: str) -> dict[str, InversionSettings]:
    """The presets of a model family, by its `base`."""
    return SDXL_PRESETS if base == "sdxl" else PRESETS


def from_preset(
    base: str, preset: str, given: Mapping[str, Any], called: Callable[[str], str] = str
) -> InversionSettings:
    """A family's preset with the fields that are `given` in its place, not checked yet.

    A preset of the published method that is to learn the direction gets the published rate and prior of that. Raises ValueError
    for a field that changes nothing by the method, which would be taken for one that does; `called` turns the name of a field into
    what people know it as.
    """
    own = presets_of(base)[preset]
    method = given.get("method", own.method)
    if own.method == "direction" != method:
        raise ValueError(
            f"{called('method')} is {method}, but {called('preset')} {preset} learns the direction alone, at a rate for that. Leave "
            "one of them out."
        )
    unused: tuple[str, ...]
    if method == "direction":
        direction = f"{called('method')} direction"
        what = direction if "method" in given else "this preset, which learns the direction alone,"
        unused, why = ("regularization", "regularizer", "weight_decay"), f"{what} does not use it"
    else:
        unused, why = ("prior",), f"only {called('method')} direction uses it"
    for name in unused:
        if name in given:
            raise ValueError(f"{called(name)} is {quoted(given[name], 60)}, but {why}. Leave one of them out.")
    if method == "direction" != own.method:
        given = {"learning_rate": DIRECTION_RATE, "prior": DIRECTION_PRIOR, **given}
    return replace(own, **given)


def in_a_line(settings: InversionSettings, base: str) -> str:
    """What a family's settings are, for people: `SDXL: 400 steps, batch 4, 768 px, rate 0.02`."""
    return (
        f"{BASE_NAMES.get(base, base)}: {settings.steps} steps, batch {settings.batch_size}, {settings.resolution} px, "
        f"rate {settings.learning_rate:g}{', direction alone' if settings.method == 'direction' else ''}"
    )


def _at_least(name: str, value: int, least: int, hint: str) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}, but must be at least {least}. {hint}")
