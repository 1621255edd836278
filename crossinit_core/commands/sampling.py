"""Pictures of learned people: prompts with people in them, checked first and then sampled one by one."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbone import Encoded
from ..files import is_windows_device, write_atomically
from ..models.private_copy import private_copy
from ..prompt_chunks import encode_prompt
from ..prompts import PLACE, fill_places
from ..text import check_text, normal_form, quoted
from ..tokens.learned_token import LearnedToken, suggest_token_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..diffusers_backbone import DiffusersBackbone

LAYOUTS = ("flat", "published")
"""Where pictures lie: all side by side, or in a folder for each prompt, as the published test_cross_init.py puts them."""
SIZES = (64, 4096)
_MOST_STEPS = 1000
_LONGEST_LINE = 580
_LONGEST_FOLDER = 200
"""Bytes of a folder's name; file systems allow 255."""
_NOT_IN_NAMES = re.compile(r'[\s<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True)
class Sampling:
    """How pictures are made; the defaults are the published ones. `resolution` None is the model's own."""

    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    count: int = 1
    resolution: int | None = None

    def check(self) -> None:
        """Raises ValueError for a number that no picture can be made with."""
        if min(self.steps, self.count) < 1 or not 0 <= self.seed < 2**63:
            raise ValueError("--steps and --count must be at least 1, and --seed from 0 to 2^63 - 1.")
        if self.seed + self.count > 2**63:
            raise ValueError("--seed and --count together go beyond 2^63 - 1, the last seed. Use smaller ones.")
        if self.steps > _MOST_STEPS:
            raise ValueError(
                f"--steps is {quoted(self.steps, 60)}, but the noise schedule has {_MOST_STEPS} steps. 50 is usual."
            )
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= 1000):
            raise ValueError(f"--guidance is {self.guidance}, but a number from 0 to 1000 is expected. 7.5 is usual.")
        size, (low, high) = self.resolution, SIZES
        if size is not None and (not low <= size <= high or size % 8):
            raise ValueError(
                f"--resolution is {quoted(size, 60)}, but a multiple of 8 from {low} to {high} is expected, in pixels. Use 512 "
                "or 768, and 1024 on SDXL."
            )


@dataclass(frozen=True)
class PlacedPrompt:
    """A prompt, and the same as texts and numbers of people, in its order."""

    text: str
    pieces: tuple[str | int, ...]

    @classmethod
    def of(cls, prompt: str, names: Sequence[str]) -> PlacedPrompt:
        """Raises as `prompts.fill_places` does."""
        check_text(prompt, "The prompt")
        people: list[int] = []

        def write(index: int, _: object) -> str:
            people.append(index)
            return "\0"

        pieces: list[str | int] = [*fill_places(prompt, names, write).split("\0")]
        for position, person in enumerate(people):
            pieces.insert(2 * position + 1, person)
        return cls(prompt, tuple(pieces))


def check_everybody_is_placed(
    names: Sequence[str], prompts: Sequence[PlacedPrompt], say: Callable[[str], None]
) -> None:
    """`say` gets a line for each prompt that does not place every person. Raises ValueError for a person in no prompt."""
    for index, name in enumerate(names):
        if not any(index in prompt.pieces for prompt in prompts):
            raise ValueError(
                f"No prompt places '{quoted(name)}'. Write {{{quoted(name)}}} or {{{index + 1}}} where the person goes, or "
                "leave the token out."
            )
    for number, prompt in enumerate(prompts, start=1):
        absent = [quoted(name, 60) for index, name in enumerate(names) if index not in prompt.pieces]
        if absent:
            say(quoted(f"Prompt {number} does not place: {', '.join(absent)}.", _LONGEST_LINE))


@dataclass(frozen=True)
class Picture:
    """A picture to be made: of a prompt, from a seed, at a path."""

    prompt: PlacedPrompt
    seed: int
    path: Path


def plan_pictures(prompts: Sequence[PlacedPrompt], sampling: Sampling, folder: Path, layout: str) -> list[Picture]:
    """All pictures, those of one prompt after the other. The same command gives the same paths."""
    pictures = []
    taken: set[str] = set()
    for number, prompt in enumerate(prompts, start=1):
        home = _folder_name(prompt.text, taken) if layout == "published" else ""
        name = suggest_token_name(PLACE.sub("", prompt.text))[:80]
        for place in range(sampling.count):
            seed = sampling.seed + place
            path = folder / home / f"{place}.png" if home else folder / f"{number:03d}-{name}-{seed}.png"
            pictures.append(Picture(prompt, seed, path))
    return pictures


def _folder_name(prompt: str, taken: set[str]) -> str:
    """A prompt as the published script names its folder, `a_photo_of_a_{}_person`, and as every system takes it.

    A number follows if an earlier prompt has the same, upper and lower case being one, as on Windows and macOS. It is added to
    `taken`.
    """
    name = _NOT_IN_NAMES.sub("_", normal_form(prompt))
    name = name.encode()[:_LONGEST_FOLDER].decode(errors="ignore").rstrip(". ") or "_"
    name = f"_{name}" if is_windows_device(name) else name
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free


def sample(
    backbone: DiffusersBackbone,
    tokens: Sequence[LearnedToken],
    pictures: Sequence[Picture],
    sampling: Sampling,
    dtype: torch.dtype,
    *,
    again: bool = False,
) -> Iterator[Path]:
    """Write the pictures, each whole or not at all, and give their paths. `again` says that the same command goes on after an
    error.

    DPM-Solver++, as published. The VAE decodes in float32 if the model is in float16, in which SDXL's overflows. Each picture has a random generator of its own, so it does not depend on the others.
    Raises OSError that names the picture and says what to do if one cannot be written.
    """
    pipeline = _pipeline(backbone)
    vae = private_copy(backbone.vae, lambda name: torch.float32) if dtype == torch.float16 else backbone.vae
    nothing = encode_prompt(backbone, [])
    for prompt, of_one in groupby(pictures, key=lambda picture: picture.prompt):
        pieces = [piece if isinstance(piece, str) else tokens[piece].vectors for piece in prompt.pieces]
        encoded = encode_prompt(backbone, pieces)
        conditioning = _conditioning(encoded, nothing, backbone.device, dtype)
        for picture in of_one:
            latents = pipeline(
                **conditioning,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=torch.Generator().manual_seed(picture.seed),
                height=sampling.resolution,
                width=sampling.resolution,
                output_type="latent",
            ).images
            path = _free(picture.path)
            go_on = "run the same command again" if again else f"go on with --seed {picture.seed}"
            write_picture(
                _decode(vae, latents, pipeline.image_processor),
                path,
                f"Those before it are whole. Make room or choose another --out, then {go_on}.",
            )
            yield path


def write_picture(picture: Image, path: Path, way_out: str = "Make room or choose another place.") -> None:
    """Write a PNG file whole or not at all. Raises OSError that names it and ends in `way_out`."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise OSError(
            f"The picture '{quoted(path, 250)}' could not be written ({quoted(error.strerror or error)}). {way_out}"
        ) from error


@torch.no_grad()
def _decode(vae: Any, latents: Tensor, processor: Any) -> Image:
    decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return processor.postprocess(decoded, output_type="pil")[0]


def _free(path: Path) -> Path:
    """The path, or with a number at its end if there is a file already: pictures of earlier runs stay."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _conditioning(encoded: Encoded, nothing: Encoded, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The pipelines' arguments for a prompt, and for nothing in the place of a negative one."""
    # Attention over the same tokens again gives the same as once: ComfyUI makes both as long in this way, too.
    repeated = nothing.context.repeat(1, encoded.context.shape[1] // nothing.context.shape[1], 1)
    given = {"prompt_embeds": encoded.context, "negative_prompt_embeds": repeated}
    if encoded.pooled is not None and nothing.pooled is not None:
        given |= {"pooled_prompt_embeds": encoded.pooled, "negative_pooled_prompt_embeds": nothing.pooled}
    return {name: tensor.to(device, dtype) for name, tensor in given.items()}


def _pipeline(backbone: DiffusersBackbone) -> Any:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    config = dict(backbone.scheduler_config)
    if config.get("rescale_betas_zero_snr"):
        config["timestep_spacing"] = "trailing"  # begins at pure noise (Lin et al., 2023, arXiv 2305.08891)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the age of the model's own files
        scheduler = DPMSolverMultistepScheduler.from_config(config)
        if backbone.text_encoder_2 is not None:
            return StableDiffusionXLPipeline(
                vae=backbone.vae,
                text_encoder=backbone.text_encoder,
                text_encoder_2=backbone.text_encoder_2,
                tokenizer=backbone.tokenizer,
                tokenizer_2=backbone.tokenizer_2,
                unet=backbone.unet,
                scheduler=scheduler,  # pyright: ignore[reportArgumentType]
                add_watermarker=False,
            )
        return StableDiffusionPipeline(
            vae=backbone.vae,
            text_encoder=backbone.text_encoder,
            tokenizer=backbone.tokenizer,
            unet=backbone.unet,
            scheduler=scheduler,  # pyright: ignore[reportArgumentType]
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
