"""The noise schedule of a model in diffusers' terms: what its `scheduler_config.json` says, or why learning cannot use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backbone import PredictionType
from ..families import TIMESTEPS
from ..text import quoted
from .loading import reading


def prediction_type(config: dict[str, Any]) -> PredictionType:
    """What the UNet predicts.

    Raises ValueError that names any other sampling than by 1000 timesteps: EDM (Playground 2.5, CosXL) and flow matching.
    """
    how = _other_sampling(config)
    if how:
        raise ValueError(
            f"The model samples by {how}, and learning goes by {TIMESTEPS} timesteps of noise. Use a model that predicts noise or "
            "v, such as SDXL base."
        )
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The model predicts '{quoted(predicted, 60)}', but only epsilon and v_prediction are supported."
        )
    return predicted


def alphas_cumprod(config: dict[str, Any]) -> Tensor:
    """abar, (1000,) float32; its last value is 0 with zero terminal SNR (`rescale_betas_zero_snr`).

    Raises ValueError if it is not a schedule of 1000 steps.
    """
    from diffusers import DDPMScheduler

    with reading(Path("scheduler/scheduler_config.json")):
        abar = DDPMScheduler.from_config(config).alphas_cumprod  # pyright: ignore[reportAttributeAccessIssue]
    if len(abar) != TIMESTEPS:
        raise ValueError(f"The noise schedule has {len(abar)} steps, but {TIMESTEPS} were expected.")
    if not bool(((abar >= 0) & (abar <= 1)).all()):
        raise ValueError("The noise schedule holds values outside of 0..1. Download the model again.")
    return abar.float()


def names_v_prediction(checkpoint: str) -> bool:
    """Whether a checkpoint's name says that it predicts v, as `noobaiXLNAIXL_vPred10Version` does."""
    return re.search(r"v[-_. ]?pred", checkpoint, re.IGNORECASE) is not None


def _other_sampling(config: dict[str, Any]) -> str:
    """The name of a way to sample that has no timesteps 0 .. 999, or an empty string."""
    name = str(config.get("_class_name", ""))
    shown = f" (its scheduler is {quoted(name, 60)})"
    # diffusers' Euler scheduler does EDM with v-prediction in this mode.
    if name.startswith("EDM") or config.get("timestep_type") == "continuous":
        return f"EDM{shown}, as Playground 2.5 and CosXL"
    if (
        "FlowMatch" in name
        or config.get("use_flow_sigmas") is True
        or config.get("prediction_type") == "flow_prediction"
    ):
        return f"flow matching{shown}, as SD3 and Flux"
    return ""
