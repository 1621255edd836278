"""What Learn Face shows while it learns, and the pictures of it that a report shows later."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import comfy.model_management as mm
import comfy.utils
from comfy_api.latest import io
from PIL import Image

from ..crossinit_core import LearnedToken, StepReport
from ..crossinit_core.backbone import FrozenModel
from ..crossinit_core.gpu.modes import release_memory
from ..crossinit_core.tokens.small_pictures import Strip
from .host.backbone import ComfyBackbone
from .host.previews import Previews, decoded, for_the_page
from .host.sampling import PromptSampler
from .sockets import show_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Sample pictures: drawn after each `every` steps, the first and the last; never where `every` is 0."""

    every: int = 0
    prompt: str = "a photo of a {} person"
    steps: int = 8


class Display:
    """Progress bar, pictures, and a line of text on the node.

    The picture is what the model sees of the photo, with the last sample to its right where there are samples.
    """

    def __init__(
        self, node: type[io.ComfyNode], backbone: ComfyBackbone, steps: int, samples: Samples, vectors: int, seed: int
    ) -> None:
        self._node, self._backbone, self._steps, self._samples = node, backbone, steps, samples
        self._bar = comfy.utils.ProgressBar(steps)
        self._previews = Previews(backbone)
        self._sampler: PromptSampler | None = None
        if samples.every:
            self._sampler = PromptSampler(backbone, samples.prompt, vectors, steps=samples.steps, seed=seed)
        self._seen, self._drawn = Strip(), Strip()
        self._left: Image.Image | None = None
        self._right: Image.Image | None = None
        self._first: tuple[int, float] | None = None
        self._trouble = ""

    def report(self, step: StepReport) -> None:
        """After each step."""
        # The progress bar looks for a cancel now and then; a step is short enough to look each time.
        mm.throw_exception_if_processing_interrupted()
        now = time.perf_counter()
        fresh = step.step == self._steps or self._previews.due()
        if fresh:
            course = f"step {step.step} of {self._steps} · loss {step.loss:.4f} · moved {step.regularization:.2f}"
            show_text(self._node, course + _pace(step, self._first, now))
            if picture := self._previews.picture(step.denoised):
                self._left = picture
                self._seen.add(step.step, picture)
        self._first = self._first or (step.step, now)
        self._show(step.step, fresh)

    def observe(self, model: FrozenModel, step: StepReport) -> None:
        """Draws a sample where one is due. What fails there must not cost the run: then there are no more samples."""
        if self._sampler is None or not self._is_due(step.step):
            return
        try:
            latents = self._sampler.latents(model, step.vectors, step.denoised.shape)
            self._right = decoded(self._backbone, latents)
        except mm.InterruptProcessingException:
            raise
        except Exception as error:
            self._trouble = f"no sample pictures from step {step.step} on ({str(error).partition(chr(10))[0]})"
        else:
            self._drawn.add(step.step, self._right)
            self._show(step.step, True)
            return
        # Outside of the except clause, where the traceback no longer keeps the sampler's tensors alive.
        self._sampler = None
        release_memory()
        log.warning("Learning goes on, but with %s.", self._trouble)

    def finish(self, token: LearnedToken, summary: str, remark: str = "") -> LearnedToken:
        """The token with the run's pictures in its history; the node says how it went, and the remark."""
        show_text(self._node, "; ".join(filter(None, [summary, remark, self._trouble])))
        assert token.history
        pictures = {"previews": self._seen.pictures, "samples": self._drawn.pictures}
        history = replace(token.history, **pictures, sample_prompt=self._samples.prompt)
        return replace(token, history=history)

    def _is_due(self, step: int) -> bool:
        return step in (1, self._steps) or step % self._samples.every == 0

    def _show(self, step: int, fresh: bool) -> None:
        """Moves the bar; a new picture goes with it."""
        pictures = [picture for picture in (self._left, self._right) if picture]
        shown = for_the_page(side_by_side(pictures)) if fresh and pictures else None
        self._bar.update_absolute(step, self._steps, shown)


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Pictures from left to right, as high as the highest."""
    if len(pictures) == 1:
        return pictures[0]
    height = max(picture.height for picture in pictures)
    scaled = [
        picture.convert("RGB").resize(
            (round(picture.width * height / picture.height), height), Image.Resampling.BICUBIC
        )
        for picture in pictures
    ]
    row = Image.new("RGB", (sum(picture.width for picture in scaled), height))
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _pace(step: StepReport, first: tuple[int, float] | None, now: float) -> str:
    """Steps a second since the first step, which loading delays, and what that leaves to wait."""
    if first is None:
        return ""
    rate = (step.step - first[0]) / max(now - first[1], 1e-6)
    pace = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s a step"
    return f" · {pace} · {(step.steps - step.step) / rate:.0f} s left"
