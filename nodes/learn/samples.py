"""Sample pictures while a face is learned: what the prompt gives with the vectors of that step."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from PIL import Image

from ...crossinit_core import InversionSettings, StepReport
from ...crossinit_core.backbone import FrozenModel
from ...crossinit_core.gpu.modes import release_memory
from ...crossinit_core.tokens.small_pictures import Strip
from ..host.backbone import ComfyBackbone
from ..host.previews import decoded
from ..host.progress import Cancelled
from ..host.sampling import PromptSampler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleSettings:
    """A sample after each `every` steps, the first and the last; none if `every` is 0. `steps` are those of the sampler."""

    every: int = 0
    prompt: str = "a photo of a {} person"
    steps: int = 8


class SamplePictures:
    """Makes samples until one fails, which must not cost the run: then there are no more, and `trouble` says why.

    `strip` keeps some of them for the token's history.
    """

    def __init__(self, backbone: ComfyBackbone, samples: SampleSettings, vectors: int, run: InversionSettings) -> None:
        """vectors: how many are learned. Raises ValueError if the prompt cannot be used."""
        self.settings = samples
        self.strip = Strip()
        self.trouble = ""
        self._backbone, self._last = backbone, run.steps
        self._sampler: PromptSampler | None = None
        if samples.every:
            self._sampler = PromptSampler(backbone, samples.prompt, vectors, steps=samples.steps, seed=run.seed)

    def picture(self, model: FrozenModel, step: StepReport) -> Image.Image | None:
        """The sample of this step; None if none is due, or it failed."""
        if self._sampler is None or not self._is_due(step.step):
            return None
        try:
            latents = self._sampler.latents(model, step.vectors, step.denoised.shape)
            picture = decoded(self._backbone, latents)
        except Cancelled:
            raise
        except Exception as error:
            self.trouble = f"no sample pictures from step {step.step} on ({str(error).partition(chr(10))[0]})"
        else:
            self.strip.add(step.step, picture)
            return picture
        # Outside of the except clause, where the traceback no longer keeps the sampler's tensors alive.
        self._sampler = None
        release_memory()
        log.warning("Learning goes on, but with %s.", self.trouble)
        return None

    def _is_due(self, step: int) -> bool:
        return step in (1, self._last) or step % self.settings.every == 0
