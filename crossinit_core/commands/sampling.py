"""Pictures of learned people, sampled as the published script does it: DPM-Solver++."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbone import Encoded
from ..models.private_copy import private_copy
from ..prompt_chunks import encode_prompt
from ..tokens.learned_token import LearnedToken
from .control import Control
from .pictures import Picture, PlacedPrompt, write_picture
from .sampling_settings import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..diffusers_backbone import DiffusersBackbone


class Sampler:
    """Makes pictures on a backbone. The VAE decodes in float32 if the model is in float16, in which SDXL's overflows.

    Each picture has a random generator of its own, so it does not depend on the others; torch's own random numbers are not used.
    """

    def __init__(
        self,
        backbone: DiffusersBackbone,
        sampling: Sampling,
        dtype: torch.dtype,
        *,
        control: Control | None = None,
        silent: bool = False,
    ) -> None:
        """`dtype` is the UNet's. `silent` shows no progress bar."""
        self._backbone, self._sampling, self._dtype = backbone, sampling, dtype
        self._pipeline = _pipeline(backbone, control)
        self._control = {"image": control.picture, "controlnet_conditioning_scale": control.strength} if control else {}
        if silent:
            self._pipeline.set_progress_bar_config(disable=True)
        half = backbone.vae.dtype == torch.float16
        self._vae = private_copy(backbone.vae, lambda name: torch.float32) if half else backbone.vae
        self._nothing = encode_prompt(backbone, [])

    def conditioning(self, prompt: PlacedPrompt, people: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the pipeline is told of a prompt; `people` are the vectors (K, d) of each person."""
        pieces = [piece if isinstance(piece, str) else people[piece] for piece in prompt.pieces]
        encoded = encode_prompt(self._backbone, pieces)
        return _conditioning(encoded, self._nothing, self._backbone.device, self._dtype)

    @torch.no_grad()
    def pictures(self, conditioning: dict[str, Tensor], seeds: Sequence[int]) -> list[Image]:
        """A picture for each seed, all at once."""
        many = {name: tensor.expand(len(seeds), *tensor.shape[1:]) for name, tensor in conditioning.items()}
        latents = self._pipeline(
            **many,
            **self._control,
            num_inference_steps=self._sampling.steps,
            guidance_scale=self._sampling.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=self._sampling.resolution,
            width=self._sampling.resolution,
            output_type="latent",
        ).images
        return [_decode(self._vae, one, self._pipeline.image_processor) for one in latents.split(1)]


def sample(
    backbone: DiffusersBackbone,
    tokens: Sequence[LearnedToken],
    pictures: Sequence[Picture],
    sampling: Sampling,
    dtype: torch.dtype,
    *,
    control: Control | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Path]:
    """Write the pictures, each whole or not at all, and give their paths. `again` says that the same command goes on after an
    error. `say` gets a line if the memory is too small for a batch: the rest is made one by one.

    Raises OSError that names the picture and says what to do if one cannot be written.
    """
    sampler = Sampler(backbone, sampling, dtype, control=control)
    at_once = sampling.batch_size
    for prompt, of_one in groupby(pictures, key=lambda picture: picture.prompt):
        conditioning = sampler.conditioning(prompt, [token.vectors for token in tokens])
        waiting = list(of_one)
        while waiting:
            batch = waiting[:at_once]
            try:
                made = sampler.pictures(conditioning, [picture.seed for picture in batch])
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                at_once = 1
                say(f"There is not enough memory for {len(batch)} pictures at once: going on one by one.")
                continue
            waiting = waiting[at_once:]
            for picture, image in zip(batch, made, strict=True):
                path = _free(picture.path)
                go_on = "run the same command again" if again else f"go on with --seed {picture.seed}"
                write_picture(
                    image, path, f"Those before it are whole. Make room or choose another --out, then {go_on}."
                )
                yield path


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


def _pipeline(backbone: DiffusersBackbone, control: Control | None) -> Any:
    import diffusers

    config = dict(backbone.scheduler_config)
    if config.get("rescale_betas_zero_snr"):
        config["timestep_spacing"] = "trailing"  # begins at pure noise (Lin et al., 2023, arXiv 2305.08891)
    parts: dict[str, Any] = {"controlnet": control.model} if control else {}
    kind: Any
    if backbone.text_encoder_2 is not None:
        kind = diffusers.StableDiffusionXLControlNetPipeline if control else diffusers.StableDiffusionXLPipeline
        parts |= {
            "text_encoder_2": backbone.text_encoder_2,
            "tokenizer_2": backbone.tokenizer_2,
            "add_watermarker": False,
        }
    else:
        kind = diffusers.StableDiffusionControlNetPipeline if control else diffusers.StableDiffusionPipeline
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the age of the model's own files
        return kind(
            vae=backbone.vae,
            text_encoder=backbone.text_encoder,
            tokenizer=backbone.tokenizer,
            unet=backbone.unet,
            scheduler=diffusers.DPMSolverMultistepScheduler.from_config(config),
            **parts,
        )
