"""What a token's file says about the token: every metadata key, how it is written, and how it is read.

Keys and values are strings, as safetensors files hold them. `modelspec.*` is what other tools read (the Stability AI
model metadata standard, https://github.com/Stability-AI/ModelSpec); `crossinit.*` is what only this pack knows.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone import PredictionType
from ..celebrity_names import CelebrityNames

Metadata = Mapping[str, str]

OURS = "crossinit."
"""How every key begins that only this pack writes."""
VERSION = "crossinit.version"
BASE = "crossinit.base"
CHECKPOINT = "crossinit.checkpoint"
LINEAGE = "crossinit.lineage"
"""Which child of SDXL the checkpoint is: `families.lineage_of`."""
BASE_HASH = "crossinit.base_hash"
PREDICTION_TYPE = "crossinit.prediction_type"

INITIALIZATION = "crossinit.initialization"
NAMES = "crossinit.names"
NAMES_COUNT = "crossinit.names_count"
NAMES_SHA256 = "crossinit.names_sha256"
WORDS = "crossinit.words"

VECTORS = "crossinit.vectors"
STEPS = "crossinit.steps"
LEARNING_RATE = "crossinit.learning_rate"
LAMBDA = "crossinit.lambda"
WEIGHT_DECAY = "crossinit.weight_decay"
BATCH_SIZE = "crossinit.batch_size"
SEED = "crossinit.seed"
PRECISION = "crossinit.precision"
# Written if they are not those of the published run of SD 2.x.
REGULARIZER = "crossinit.regularizer"
METHOD = "crossinit.method"
PRIOR = "crossinit.prior"
TIMESTEPS = "crossinit.timesteps"
SCHEDULE = "crossinit.schedule"

START = "crossinit.start"
"""v0, the vectors that learning started at, as `packed` writes them."""

# One number for each vector, as `listed` writes them and `numbers` reads them. With two text encoders there is one for each
# vector's part: K for the first encoder, then K for the second.
START_NORM = "crossinit.start_norm"
"""|v0|, the norms of the vectors that learning started at."""
NORM = "crossinit.norm"
"""|v|."""
DISTANCE = "crossinit.distance"
"""|v - v0|."""
COSINE = "crossinit.cosine"
"""The cosine of the angle between v and v0."""

# What other tools show of a file.
TITLE = "modelspec.title"
DESCRIPTION = "modelspec.description"
AUTHOR = "modelspec.author"
TRIGGER_PHRASE = "modelspec.trigger_phrase"
USAGE_HINT = "modelspec.usage_hint"
TAGS = "modelspec.tags"
THUMBNAIL = "modelspec.thumbnail"
"""A data URI: `data:image/webp;base64,...`."""
ARCHITECTURE = "modelspec.architecture"
RESOLUTION = "modelspec.resolution"
DATE = "modelspec.date"
HASH = "modelspec.hash_sha256"
MODELSPEC_PREDICTION_TYPE = "modelspec.prediction_type"
COVER_IMAGES = "ssmd_cover_images"
"""A JSON list of pictures in base64, which ComfyUI's server shows (`get_model_previews` in app/model_manager.py)."""

PERSON = "crossinit.token"
"""The text of a PNG beside a token that tells whose picture it is: a digest of the vectors. Not every format keeps a token's
picture in its file."""

JOB = "crossinit.job"
"""What was asked for when many people were learned, as JSON: by it a finished person is known again. See `many.people`."""

# How a token was made of other tokens.
BLEND = "crossinit.blend"
RESCALED = "crossinit.rescaled"
STRENGTH = "crossinit.strength"

_ARCHITECTURES = {
    ("sd1", "epsilon"): "stable-diffusion-v1/textual-inversion",
    ("sd1", "v_prediction"): "stable-diffusion-v1/textual-inversion",
    ("sd2", "epsilon"): "stable-diffusion-v2-512/textual-inversion",
    ("sd2", "v_prediction"): "stable-diffusion-v2-768-v/textual-inversion",
    ("sdxl", "epsilon"): "stable-diffusion-xl-v1-base/textual-inversion",
    ("sdxl", "v_prediction"): "stable-diffusion-xl-v1-base/textual-inversion",
}


def modelspec(resolution: int, prediction_type: PredictionType, when: datetime) -> dict[str, str]:
    """The `modelspec.*` keys of a token that was learned at `resolution` pixels, except its architecture."""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "crossinit",
        RESOLUTION: f"{resolution}x{resolution}",
        MODELSPEC_PREDICTION_TYPE: "v" if prediction_type == "v_prediction" else "epsilon",
        DATE: when.isoformat(timespec="seconds"),
    }


def modelspec_architecture(base: str, prediction_type: PredictionType) -> dict[str, str]:
    """`modelspec.architecture` for a base that the standard has a name for, else nothing."""
    architecture = _ARCHITECTURES.get((base, prediction_type))
    return {ARCHITECTURE: architecture} if architecture else {}


def started_from_names(method: str, names: CelebrityNames) -> dict[str, str]:
    """The start of a token that begins at names; `method` is for people, such as `cross initialization`."""
    return {
        INITIALIZATION: f"{method} from names",
        NAMES: names.source,
        NAMES_COUNT: str(len(names)),
        NAMES_SHA256: names.sha256,
    }


def started_from_words(method: str, words: str) -> dict[str, str]:
    """The start of a token that begins at words; `method` as in `started_from_names`."""
    return {INITIALIZATION: f"{method} from words", WORDS: words}


def initialization_of(metadata: Metadata) -> str:
    """Where a token started: `cross initialization from names`; an empty string if the metadata does not say."""
    words, start = metadata.get(WORDS), metadata.get(INITIALIZATION, "")
    return f"{start.removesuffix(' words')} '{words}'" if start and words else start


def steps_of(metadata: Metadata) -> int | None:
    """After how many steps a token was taken; None if the metadata does not say."""
    recorded = metadata.get(STEPS, "")
    return int(recorded) if recorded.isdecimal() else None


def method_of(metadata: Metadata) -> str:
    """How a token was learned, `published` if the metadata does not say."""
    return metadata.get(METHOD, "published")


def lambda_of(metadata: Metadata) -> float | None:
    """The weight of the distance in what was learned; None if the metadata does not say, or if something else was weighed."""
    if metadata.get(REGULARIZER, "distance") != "distance" or method_of(metadata) != "published":
        return None
    try:
        return float(metadata[LAMBDA])
    except (KeyError, ValueError):
        return None


def norms_by_encoder(vectors: Tensor, widths: Sequence[int] = ()) -> Tensor:
    """The Euclidean norms of (K, d) vectors, each text encoder's columns on their own: (E * K,), encoder by encoder.

    Without `widths` all columns are one encoder's.
    """
    return torch.cat([part.norm(dim=1) for part in _parts(vectors, widths)])


def cosines_by_encoder(vectors: Tensor, others: Tensor, widths: Sequence[int] = ()) -> Tensor:
    """The cosines between rows of (K, d) and (K, d), each text encoder's columns on their own: (E * K,), as the norms."""
    pairs = zip(_parts(vectors, widths), _parts(others, widths), strict=True)
    return torch.cat([F.cosine_similarity(part, other) for part, other in pairs])


def _parts(vectors: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    return vectors.split(list(widths), dim=1) if widths else [vectors]


def listed(values: Tensor) -> str:
    """Numbers (K,) as metadata holds them: `30.1234 29.8765`."""
    return " ".join(f"{value:.4f}" for value in values.tolist())


def numbers(metadata: Metadata, key: str, count: int) -> list[float]:
    """The numbers that `listed` wrote under a key; an empty list unless they are `count` finite ones."""
    try:
        values = [float(value) for value in metadata.get(key, "").split()]
    except ValueError:
        return []
    return values if len(values) == count and all(map(math.isfinite, values)) else []


def packed(vectors: Tensor) -> str:
    """Vectors (K, d) as metadata holds them: little-endian float16, row by row, in base64. That is a relative error of 0.05 %."""
    return base64.b64encode(vectors.detach().cpu().float().numpy().astype("<f2").tobytes()).decode("ascii")


def unpacked(metadata: Metadata, key: str, shape: tuple[int, int]) -> Tensor | None:
    """The float32 vectors that `packed` wrote under a key; None unless they are finite ones of that shape."""
    try:
        content = base64.b64decode(metadata.get(key, ""), validate=True)
    except (ValueError, binascii.Error):
        return None
    if len(content) != 2 * math.prod(shape):
        return None
    vectors = torch.from_numpy(np.frombuffer(content, "<f2").astype(np.float32)).reshape(shape)
    return vectors if bool(torch.isfinite(vectors).all()) else None
