"""The settings of a run from the options of `train`: those of the preset, with every option that was given in its place."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..learning.settings import InversionSettings, from_preset
from ..text import quoted

_MOST_SAMPLES = 4096
_MOST_STEPS = 1_000_000


def settings_of(options: argparse.Namespace, base: str) -> InversionSettings:
    """The checked settings for a model of the family `base`.

    Raises ValueError of one line for the first option that is out of range, or that the chosen method does not use.
    """
    names = [field.name for field in fields(InversionSettings)]
    given: dict[str, Any] = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if "timesteps" in given:
        given["timesteps"] = tuple(given["timesteps"])
    settings = from_preset(base, options.preset, given, _option)
    try:
        settings.check()
    except ValueError as error:
        name = str(error).partition(" ")[0]
        raise ValueError(_named(name, str(error)) if name in given else str(error)) from error
    if settings.steps > _MOST_STEPS:
        raise ValueError(
            f"--steps is {quoted(settings.steps, 60)}, but at most {_MOST_STEPS} are possible. The published runs use 320, and 400 on "
            "SDXL."
        )
    if settings.batch_size > _MOST_SAMPLES:
        raise ValueError(
            f"--batch-size is {quoted(settings.batch_size, 60)}, but at most {_MOST_SAMPLES} are possible. 8 is usual, and 4 "
            "on SDXL."
        )
    return settings


def _named(name: str, message: str) -> str:
    option = _option(name)
    return f"--{message}" if option == f"--{name}" else f"{option}: {message}"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
