"""What a token's file says of how it was learned."""

from __future__ import annotations

from datetime import UTC, datetime

import torch.nn.functional as F
from torch import Tensor

from ..backbone import Backbone, FrozenModel
from ..version import __version__
from .settings import InversionSettings
from .state import RunState

START_NORM = "crossinit.start_norm"
"""The norms of the vectors that learning started at, one for each vector."""

_ARCHITECTURES = {
    ("sd1", "epsilon"): "stable-diffusion-v1/textual-inversion",
    ("sd1", "v_prediction"): "stable-diffusion-v1/textual-inversion",
    ("sd2", "epsilon"): "stable-diffusion-v2-512/textual-inversion",
    ("sd2", "v_prediction"): "stable-diffusion-v2-768-v/textual-inversion",
}


def provenance(
    backbone: Backbone, model: FrozenModel, settings: InversionSettings, start: Tensor, state: RunState
) -> dict[str, str]:
    """Metadata as strings: `modelspec.*` as other tools read it, `crossinit.*` for what only we know."""
    learned = state.vectors.float().cpu()
    facts = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "crossinit",
        "modelspec.resolution": f"{settings.resolution}x{settings.resolution}",
        "modelspec.prediction_type": "v" if backbone.prediction_type == "v_prediction" else "epsilon",
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "crossinit.version": __version__,
        "crossinit.base": backbone.base,
        "crossinit.checkpoint": backbone.checkpoint,
        "crossinit.base_hash": model.fingerprint(),
        "crossinit.prediction_type": backbone.prediction_type,
        "crossinit.vectors": str(len(start)),
        "crossinit.steps": str(state.step),
        "crossinit.learning_rate": repr(settings.learning_rate),
        "crossinit.lambda": repr(settings.regularization),
        "crossinit.weight_decay": repr(settings.weight_decay),
        "crossinit.batch_size": str(settings.batch_size),
        "crossinit.seed": str(settings.seed),
        "crossinit.precision": str(model.dtype).removeprefix("torch."),
        START_NORM: listed(start.norm(dim=1)),
        "crossinit.norm": listed(learned.norm(dim=1)),
        "crossinit.distance": listed((learned - start).norm(dim=1)),
        "crossinit.cosine": listed(F.cosine_similarity(learned, start)),
    }
    architecture = _ARCHITECTURES.get((backbone.base, backbone.prediction_type))
    return facts | ({"modelspec.architecture": architecture} if architecture else {})


def listed(values: Tensor) -> str:
    """Numbers as metadata holds them: `30.1234 29.8765`."""
    return " ".join(f"{value:.4f}" for value in values.tolist())
