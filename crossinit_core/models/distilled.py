"""Models that were distilled to few steps: Turbo, Lightning, LCM, Hyper and others. They learn, and people are told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
"""Names of checkpoints are in camel case as often as not: `realvisxlV50_v50LightningBakedvae`."""

_DISTILLED = {"lcm": "LCM", "dmd": "DMD2", "tcd": "TCD", "pcm": "PCM"}
_AFTER_HYPER = ("", "sd", "sdxl", "xl", "lora", "fp16", "bakedvae", "baked", "vae")
"""Hyper is a method of distillation, but the start of a word (hyper-realistic) too."""

_SCHEDULERS = {"LCMScheduler": "LCM", "TCDScheduler": "TCD"}


def distilled_kind(name: str) -> str:
    """How a checkpoint was distilled to few steps, by its name; an empty string if the name does not say.

    The weights have the shapes of the base model's: only the name tells.
    """
    for kind in ("Turbo", "Lightning"):
        if kind.lower() in name.lower():
            return kind
    words = [word.lower() for word in _WORD.findall(name)]
    for word, behind in zip(words, [*words[1:], ""], strict=True):
        if word in _DISTILLED:
            return _DISTILLED[word]
        if word == "hyper" and (behind in _AFTER_HYPER or behind.isdigit()):
            return "Hyper"
        if word in ("1", "2", "4", "6", "8") and behind in ("step", "steps"):
            return f"{word} step{'s' * (word != '1')}"
    return ""


def distilled_kind_of_folder(scheduler: Mapping[str, Any], unet: Any) -> str:
    """The same by a folder's configurations: a scheduler of few steps, or a UNet that gets the guidance as a number."""
    if getattr(unet, "time_cond_proj_dim", None) is not None:
        return "LCM"
    return _SCHEDULERS.get(str(scheduler.get("_class_name")), "")


def distilled_warning(model: str, kind: str, known_by: str) -> str:
    """One line for people: `model` names the model, `known_by` says what tells its kind, such as `its name`."""
    return (
        f"{model} was distilled to few steps ({kind}), says {known_by}. How alike a face becomes on such a model was not "
        "measured. Learn on the base model that it was made from: the text encoders are usually the same, so the token should "
        "work here too."
    )
