"""What a token's file says of how it was learned."""

from __future__ import annotations

from datetime import UTC, datetime

import torch.nn.functional as F
from torch import Tensor

from ..backbone import Backbone, FrozenModel
from ..tokens import metadata
from ..version import __version__
from .settings import InversionSettings
from .state import RunState


def provenance(
    backbone: Backbone, model: FrozenModel, settings: InversionSettings, start: Tensor, state: RunState
) -> dict[str, str]:
    """Metadata as strings: `modelspec.*` as other tools read it, `crossinit.*` for what only we know."""
    learned = state.vectors.float().cpu()
    return {
        **metadata.modelspec(settings.resolution or backbone.resolution, backbone.prediction_type, datetime.now(UTC)),
        metadata.VERSION: __version__,
        metadata.BASE: backbone.base,
        metadata.CHECKPOINT: backbone.checkpoint,
        metadata.BASE_HASH: model.fingerprint(),
        metadata.PREDICTION_TYPE: backbone.prediction_type,
        metadata.VECTORS: str(len(start)),
        metadata.STEPS: str(state.step),
        metadata.LEARNING_RATE: repr(settings.learning_rate),
        metadata.LAMBDA: repr(settings.regularization),
        metadata.WEIGHT_DECAY: repr(settings.weight_decay),
        metadata.BATCH_SIZE: str(settings.batch_size),
        metadata.SEED: str(settings.seed),
        metadata.PRECISION: str(model.dtype).removeprefix("torch."),
        metadata.START_NORM: metadata.listed(start.norm(dim=1)),
        metadata.NORM: metadata.listed(learned.norm(dim=1)),
        metadata.DISTANCE: metadata.listed((learned - start).norm(dim=1)),
        metadata.COSINE: metadata.listed(F.cosine_similarity(learned, start)),
        **metadata.modelspec_architecture(backbone.base, backbone.prediction_type),
    }
