"""What a token's file says of how it was learned."""

from __future__ import annotations

from datetime import datetime, timezone

from torch import Tensor

from ..backbone import Backbone, FrozenModel
from ..families import lineage_of
from ..tokens import metadata
from ..version import __version__
from .settings import InversionSettings
from .state import RunState


def provenance(
    backbone: Backbone, model: FrozenModel, settings: InversionSettings, start: Tensor, state: RunState
) -> dict[str, str]:
    """Metadata as strings: `modelspec.*` as other tools read it, `crossinit.*` for what only we know."""
    learned, widths = state.vectors.float().cpu(), backbone.widths
    return {
        **metadata.modelspec(
            settings.resolution or backbone.resolution, backbone.prediction_type, datetime.now(timezone.utc)
        ),
        metadata.VERSION: __version__,
        metadata.BASE: backbone.base,
        metadata.CHECKPOINT: backbone.checkpoint,
        **_lineage(backbone),
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
        **_special(settings),
        metadata.START: metadata.packed(start),
        metadata.START_NORM: metadata.listed(metadata.norms_by_encoder(start, widths)),
        metadata.NORM: metadata.listed(metadata.norms_by_encoder(learned, widths)),
        metadata.DISTANCE: metadata.listed(metadata.norms_by_encoder(learned - start, widths)),
        metadata.COSINE: metadata.listed(metadata.cosines_by_encoder(learned, start, widths)),
        **metadata.modelspec_architecture(backbone.base, backbone.prediction_type),
    }


def _lineage(backbone: Backbone) -> dict[str, str]:
    """Which child of SDXL the model is, if its name tells."""
    lineage = lineage_of(backbone.checkpoint) if backbone.base == "sdxl" else ""
    return {metadata.LINEAGE: lineage} if lineage else {}


def _special(settings: InversionSettings) -> dict[str, str]:
    """Settings that older files do not name, if they are not at their defaults."""
    usual = InversionSettings()
    facts = {}
    for key, name in (
        (metadata.REGULARIZER, "regularizer"),
        (metadata.METHOD, "method"),
        (metadata.PRIOR, "prior"),
        (metadata.SCHEDULE, "schedule"),
    ):
        if getattr(settings, name) != getattr(usual, name):
            facts[key] = str(getattr(settings, name))
    if settings.timesteps != usual.timesteps:
        facts[metadata.TIMESTEPS] = " ".join(map(str, settings.timesteps))
    return facts
