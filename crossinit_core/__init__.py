"""Cross Initialization (Pang et al., CVPR 2024): learn a person's face as a few word vectors.

This package knows no host program. The stable surface is what is named here, plus
`crossinit_core.diffusers_backbone.DiffusersBackbone`.
"""

from .celebrity_names import CelebrityNames, load_celebrity_names
from .initialization import celebrity_mean, cross_initialize, cross_initialize_words, lookup_words
from .learning.batches import TrainingBatch
from .learning.inversion import InversionResult, StepReport, invert
from .learning.settings import PRESETS, InversionSettings, presets_of
from .photos.images import load_photo
from .tokens.history import History
from .tokens.learned_token import LearnedToken
from .tokens.token_files import load_learned_token, save_learned_token
from .version import __version__

__all__ = [
    "PRESETS",
    "CelebrityNames",
    "History",
    "InversionResult",
    "InversionSettings",
    "LearnedToken",
    "StepReport",
    "TrainingBatch",
    "__version__",
    "celebrity_mean",
    "cross_initialize",
    "cross_initialize_words",
    "invert",
    "load_celebrity_names",
    "load_learned_token",
    "load_photo",
    "lookup_words",
    "presets_of",
    "save_learned_token",
]
