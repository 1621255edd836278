"""Cross Initialization (Pang et al., CVPR 2024): learn a person's face as a few word vectors.

This package knows no host program. The stable surface is what is named here, plus
`crossinit_core.diffusers_backbone.DiffusersBackbone`. A name is imported when it is first asked for: PyTorch takes a second,
which a list of options must not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .celebrity_names import CelebrityNames, load_celebrity_names
    from .initialization import celebrity_mean, cross_initialize, cross_initialize_words, lookup_words
    from .learning.batches import TrainingBatch
    from .learning.inversion import InversionResult, StepReport, invert
    from .learning.settings import PRESETS, InversionSettings, presets_of
    from .photos.images import load_photo
    from .tokens.history import History
    from .tokens.learned_token import LearnedToken
    from .tokens.token_files import load_learned_token, save_learned_token

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

_HOMES = {
    "celebrity_names": ("CelebrityNames", "load_celebrity_names"),
    "initialization": ("celebrity_mean", "cross_initialize", "cross_initialize_words", "lookup_words"),
    "learning.batches": ("TrainingBatch",),
    "learning.inversion": ("InversionResult", "StepReport", "invert"),
    "learning.settings": ("PRESETS", "InversionSettings", "presets_of"),
    "photos.images": ("load_photo",),
    "tokens.history": ("History",),
    "tokens.learned_token": ("LearnedToken",),
    "tokens.token_files": ("load_learned_token", "save_learned_token"),
}
"""The module of each name; a test compares it with what the type checkers see above."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f".{home}", __name__), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
