"""How well a face was learned: drift of the vectors, likeness of the pictures to photos, and how well prompts are obeyed.

`measures` takes tensors, and is all that is imported with the package. `recognizers` says what a face recognizer is, `choice`
finds one, `faces` compares pictures with photos, `clip` compares them with their prompts, and `protocol` puts the numbers of many
people and prompts together.
"""

from __future__ import annotations

from .measures import Drift, drift, identity_similarity, prompt_similarity

__all__ = ["Drift", "drift", "identity_similarity", "prompt_similarity"]
