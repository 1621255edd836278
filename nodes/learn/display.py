"""What Learn Face shows while it learns: a progress bar, pictures, and a line of text on the node."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from comfy_api.latest import io
from PIL import Image

from ...crossinit_core import LearnedToken, StepReport
from ...crossinit_core.backbone import FrozenModel
from ...crossinit_core.tokens.small_pictures import Strip
from ..errors import notes_of
from ..host.backbone import ComfyBackbone
from ..host.page import show_text
from ..host.previews import Previews, for_the_page
from ..host.progress import Cancelled, ProgressBar, stop_if_cancelled
from .samples import SamplePictures

_STOPPED = re.compile(r"Stopped after step (\d+); the next run")
"""How `crossinit_core/learning/resume_files.py` notes on an error where the next run goes on."""


class Display:
    """Listens to a run. The picture is what the model sees of the photo, with the last sample to its right if there is one."""

    def __init__(self, node: type[io.ComfyNode], backbone: ComfyBackbone, steps: int, samples: SamplePictures) -> None:
        self._node, self._steps, self._samples = node, steps, samples
        self._bar = ProgressBar(steps)
        self._previews = Previews(backbone)
        self._seen = Strip()
        self._preview: Image.Image | None = None
        self._sample: Image.Image | None = None
        self._first: tuple[int, float] | None = None
        self._step = 0
        self._course = "starting"
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """What a person should know of the run; it stays below the line until the run ends."""
        self._notes.append(text)
        self._show(self._course)

    def report(self, step: StepReport) -> None:
        """After each step."""
        self._step = step.step
        # The progress bar looks for a cancel now and then; a step is short enough to look each time.
        stop_if_cancelled()
        now = time.perf_counter()
        fresh = step.step == self._steps or self._previews.due()
        if fresh:
            course = f"step {step.step} of {self._steps} · loss {step.loss:.4f} · moved {step.distance:.2f}"
            self._show(course + _pace(step, self._first, now))
            if picture := self._previews.picture(step.denoised):
                self._preview = picture
                self._seen.add(step.step, picture)
        self._first = self._first or (step.step, now)
        self._advance(step.step, fresh)

    def observe(self, model: FrozenModel, step: StepReport) -> None:
        """After each report, while the model is there to make a sample with."""
        if picture := self._samples.picture(model, step):
            self._sample = picture
            self._advance(step.step, True)
        self._samples.draw_portrait(model, step)

    def stopped(self, error: BaseException) -> None:
        """After a cancel the node says where it came, and where the next run goes on. Of other errors `tells_errors` says it."""
        if not isinstance(error, Cancelled):
            return
        kept = next(filter(None, map(_STOPPED.match, notes_of(error))), None)
        if kept:
            line = f"cancelled at step {kept[1]} of {self._steps}; the next run with the same inputs goes on from there"
        elif self._step:
            line = f"cancelled at step {self._step} of {self._steps}"  # the notes say why it could not be kept
        else:
            line = "cancelled before the first step"
        self._show(line, wrong=True)

    def finish(self, token: LearnedToken, summary: str, remark: str = "") -> LearnedToken:
        """The token with the run's pictures in its history; the node says how it went, the remark, and below it the notes."""
        self._show("; ".join(filter(None, [summary, remark, self._samples.trouble])))
        assert token.history
        history = replace(
            token.history,
            previews=self._seen.pictures,
            samples=self._samples.strip.pictures,
            sample_prompt=self._samples.settings.prompt,
            portrait=self._samples.portrait,
        )
        return replace(token, history=history)

    def _show(self, course: str, wrong: bool = False) -> None:
        self._course = course
        show_text(self._node, "\n".join([course, *self._notes]), wrong=wrong)

    def _advance(self, step: int, fresh: bool) -> None:
        """Moves the bar; a new picture goes with it."""
        pictures = [picture for picture in (self._preview, self._sample) if picture]
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
