"""Sample pictures while a face is learned: what the prompt gives with the vectors of that step."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...crossinit_core import InversionSettings, StepReport
from ...crossinit_core.backbone import FrozenModel
from ...crossinit_core.gpu.modes import release_memory
from ...crossinit_core.tokens.small_pictures import Picture, Strip
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

    def __init__(
        self,
        backbone: ComfyBackbone,
        samples: SampleSettings,
        vectors: int,
        run: InversionSettings,
        portrait: bool = True,
    ) -> None:
        """vectors: how many are learned. portrait: whether a picture of the end is wanted, also if no samples are.
        Raises ValueError if the prompt cannot be used."""
        self.settings = samples
        self.strip = Strip()
        self.portrait: Picture | None = None
        self.trouble = ""
        self._backbone, self._last = backbone, run.steps
        self._sampler: PromptSampler | None = None
        if samples.every:
            self._sampler = PromptSampler(backbone, samples.prompt, vectors, steps=samples.steps, seed=run.seed)
        self._wants_portrait, self._vectors, self._seed = portrait, vectors, run.seed

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
            if step.step == self._last and self._wants_portrait:
                self.portrait = Picture(step.step, np.asarray(picture.convert("RGB")))
            return picture
        # Outside of the except clause, where the traceback no longer keeps the sampler's tensors alive.
        self._sampler = None
        release_memory()
        log.warning("Learning goes on, but with %s.", self.trouble)
        return None

    def draw_portrait(self, model: FrozenModel, step: StepReport) -> None:
        """After the last step: the picture by which people find the token's file, if no sample is one. A failure costs the picture.

        It is drawn with the usual prompt and few steps, whatever the inputs for samples say.
        """
        if step.step != self._last or self.portrait or not self._wants_portrait or self.settings.every:
            return
        usual = SampleSettings()
        try:
            sampler = PromptSampler(self._backbone, usual.prompt, self._vectors, steps=usual.steps, seed=self._seed)
            picture = decoded(self._backbone, sampler.latents(model, step.vectors, step.denoised.shape))
            self.portrait = Picture(step.step, np.asarray(picture.convert("RGB")))
        except Cancelled:
            raise
        except Exception as error:
            log.warning("The token gets no picture (%s).", str(error).partition("\n")[0])
        if not self.portrait:
            release_memory()

    def _is_due(self, step: int) -> bool:
        return step in (1, self._last) or step % self.settings.every == 0
