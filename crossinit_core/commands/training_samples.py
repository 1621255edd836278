"""Pictures of a person while the person is learned: `anna-samples/a_photo_of_a_{}_person/00080.png` is after 80 steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..files import check_can_write
from ..text import quoted
from .pictures import PlacedPrompt, folder_name, write_picture
from .sampling import Sampler
from .sampling_settings import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..diffusers_backbone import DiffusersBackbone

STEPS = 25
"""Of the sampler, as in diffusers' textual_inversion.py. The published script takes 50."""

OnPicture = Callable[[str, int, "Image"], None]
"""The name of the prompt's folder, the step, the picture."""


def check_samples(out: Path, every: int, prompts: Sequence[str], name: str) -> list[PlacedPrompt]:
    """The prompts. Raises ValueError for one without the person, and if no picture can be written every `every` steps."""
    if every < 1:
        raise ValueError(f"--sample-every is {quoted(every, 60)}, but must be at least 1: the steps between pictures.")
    placed = [PlacedPrompt.of(prompt, [name]) for prompt in prompts]
    check_can_write(samples_folder(out) / "picture.png", what="picture")
    return placed


def samples_folder(out: Path) -> Path:
    """Where the pictures of the run that writes `out` lie."""
    return out.with_name(f"{out.stem}-samples")


class TrainingSamples:
    """Makes them, each prompt always from the same seed, so that only the vectors differ. A picture that cannot be made or
    written ends no run: `say` gets a line. Pictures of an earlier run at the same step are replaced."""

    def __init__(
        self,
        backbone: DiffusersBackbone,
        prompts: Sequence[PlacedPrompt],
        folder: Path,
        every: int,
        sampling: Sampling,
        say: Callable[[str], None],
        on_picture: OnPicture = lambda name, step, picture: None,
    ) -> None:
        taken: set[str] = set()
        self._prompts = {folder_name(prompt.text, taken): prompt for prompt in prompts}
        self._folder, self._every, self._seed = folder, every, sampling.seed
        self._say, self._on_picture, self._failed = say, on_picture, False
        self._sampler = Sampler(backbone, sampling, backbone.unet.dtype, silent=True)

    def add(self, step: int, vectors: Tensor) -> None:
        """`vectors` (K, d) are those after a step."""
        if step % self._every or self._failed:
            return
        try:
            for name, prompt in self._prompts.items():
                conditioning = self._sampler.conditioning(prompt, [vectors.detach().cpu().float()])
                (picture,) = self._sampler.pictures(conditioning, [self._seed])
                write_picture(picture, self._folder / name / f"{step:05d}.png", "Learning goes on without pictures.")
                self._on_picture(name, step, picture)
        except torch.OutOfMemoryError:
            self._stop("There is too little memory for pictures beside learning, which goes on without them.")
        except OSError as error:
            self._stop(str(error))
        except RuntimeError as error:  # an operation that has no reproducible version on this device, for one
            self._stop(f"A picture could not be made ({quoted(error, 200)}). Learning goes on without pictures.")

    def _stop(self, line: str) -> None:
        self._failed = True
        self._say(line)
