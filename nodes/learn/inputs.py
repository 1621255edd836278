"""The inputs of Learn Face, and the settings that they stand for.

Their order is a contract: saved workflows hold the widgets' values by position.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...crossinit_core import PRESETS, InversionSettings
from ...crossinit_core.learning.settings import DEFAULT_PRESET, MEMORY_MODES, REGULARIZERS, presets_of
from ...crossinit_core.precision import PRECISIONS
from ..sockets import CrossInitSocket
from .samples import SampleSettings

CUSTOM = "custom"

FAMILYS = "as published"
"""The regularizer of the model's family."""

NAME = "my-face"
"""What a person is called who was not given a name."""

_FULL = PRESETS["full"]


def learn_inputs() -> list[io.Input]:
    """What everybody sets, then the optional and the advanced ones."""
    return [
        io.Model.Input("model", tooltip="MODEL of an SDXL, SD 2.x or SD 1.x checkpoint. LoRAs on it count."),
        io.Clip.Input("clip", tooltip="CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
        io.Image.Input(
            "image",
            tooltip=(
                "One photo of the person, or several as a batch or a list. The face should fill most of it; what "
                "is not square is cropped to its middle."
            ),
        ),
        CrossInitSocket.Input("cross_init", tooltip="From Cross Initialization, with the same CLIP."),
        io.Combo.Input(
            "preset",
            options=[*PRESETS, CUSTOM],
            default=DEFAULT_PRESET,
            tooltip=(
                "best: 100 steps that learn the direction alone, which learned people best in both of our drawn worlds; those are not "
                "Stable Diffusion. swift: 25 such steps. full: the published run, 320 steps, on SDXL 400. fast: 25 larger steps, on "
                "SDXL 50. fast-published: as many of the published size. custom: the values of the advanced inputs."
            ),
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            # Off, so that the page does not choose a new seed, and learn anew, at every run.
            control_after_generate=False,
            tooltip="The same seed and the same inputs give the same token.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="White where the person is: only that is learned. One mask for each photo, or one for all.",
        ),
        *_advanced_inputs(),
    ]


def _advanced_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=_FULL.steps,
            min=1,
            max=10000,
            optional=True,
            advanced=True,
            tooltip="For preset 'custom'. More steps come closer to the photo and obey prompts less.",
        ),
        io.Float.Input(
            "learning_rate",
            default=_FULL.learning_rate,
            min=0.00001,
            max=1.0,
            step=0.0001,
            round=0.00001,
            optional=True,
            advanced=True,
            tooltip="For preset 'custom'. The published method uses 0.005, and 0.02 on SDXL.",
        ),
        io.Float.Input(
            "regularization",
            default=_FULL.regularization,
            min=0.0,
            max=1.0,
            step=0.00001,
            round=0.0000001,
            optional=True,
            advanced=True,
            tooltip="How strongly the vectors are held near their start (lambda). The published method uses 0.00001.",
        ),
        io.Float.Input(
            "weight_decay",
            default=_FULL.weight_decay,
            min=0.0,
            max=1.0,
            step=0.001,
            optional=True,
            advanced=True,
            tooltip="AdamW's weight decay. The published method uses 0.01.",
        ),
        io.Int.Input(
            "batch_size",
            default=_FULL.batch_size,
            min=1,
            max=64,
            optional=True,
            advanced=True,
            tooltip=(
                "Noisy copies of the photo in each step. The published method uses 8, and 4 on SDXL. If this is left at 8, a "
                "preset takes 4 on SDXL."
            ),
        ),
        io.Int.Input(
            "micro_batch_size",
            default=0,
            min=0,
            max=64,
            optional=True,
            advanced=True,
            tooltip=(
                "How much of the batch goes through the model at once; 0 means all of it. 1 needs the least "
                "memory. The result is the same."
            ),
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=False,
            optional=True,
            advanced=True,
            tooltip=(
                "Needs half the video memory or less, and more time. The result is the same. 'memory' turns it on by itself "
                "if it is needed."
            ),
        ),
        io.Combo.Input(
            "precision",
            options=list(PRECISIONS),
            default="auto",
            optional=True,
            advanced=True,
            tooltip=(
                "What the model computes in. auto: fp16 if the GPU is good at it. If numbers do not fit, the "
                "node goes on in bf16 or fp32 by itself."
            ),
        ),
        io.Int.Input(
            "resolution",
            default=0,
            min=0,
            max=1024,
            step=64,
            optional=True,
            advanced=True,
            tooltip=(
                "The photo is learned at this size in pixels. 0 means the checkpoint's own: 512 for SD 1.x and 2.x, 768 for "
                "SD 2.1-768, 1024 for SDXL. On SDXL a preset takes 768 instead."
            ),
        ),
        io.Float.Input(
            "flip_probability",
            default=_FULL.flip_probability,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            advanced=True,
            tooltip=(
                "How often the photo is mirrored. 0 keeps a parting or a mole on its side. If this is left at 0.5, a preset "
                "does not mirror on SDXL."
            ),
        ),
        io.Boolean.Input(
            "resume",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Go on from a run with the same inputs that was cancelled or failed. Off: start anew.",
        ),
        io.Combo.Input(
            "memory",
            options=list(MEMORY_MODES),
            default="auto",
            optional=True,
            advanced=True,
            tooltip=(
                "auto: as fast as the free video memory allows. low: the least memory, and slower. normal: never slower to "
                "save memory. The result is the same."
            ),
        ),
        io.Int.Input(
            "sample_every",
            default=0,
            min=0,
            max=10000,
            optional=True,
            advanced=True,
            tooltip=(
                "Make a picture of sample_prompt after so many steps, and after the first and the last, to see the likeness grow. "
                "0: never. "
                "The result is the same; a picture takes half a second on a fast GPU, on SDXL longer. 40 is good for 'full', 5 for 'fast'."
            ),
        ),
        io.String.Input(
            "sample_prompt",
            default=SampleSettings.prompt,
            dynamic_prompts=False,
            optional=True,
            advanced=True,
            tooltip="For sample_every: the prompt of the sample pictures, in plain words. {} is the person.",
        ),
        io.Int.Input(
            "sample_steps",
            default=SampleSettings.steps,
            min=1,
            max=100,
            optional=True,
            advanced=True,
            tooltip="For sample_every: the sampler's steps for a picture. 8 show enough; more are cleaner and take longer.",
        ),
        io.String.Input(
            "name",
            default=NAME,
            dynamic_prompts=False,
            optional=True,
            tooltip="The person's name: of the saved file, after embedding: and between braces in prompts. No spaces.",
        ),
        io.Combo.Input(
            "regularizer",
            options=[FAMILYS, *REGULARIZERS],
            default=FAMILYS,
            optional=True,
            advanced=True,
            tooltip=(
                "What 'regularization' weighs. distance: how far the vectors are from their start. squared: the square of that. "
                "as published: squared on SDXL, distance on the others."
            ),
        ),
        io.Boolean.Input(
            "draw_picture",
            default=True,
            optional=True,
            advanced=True,
            tooltip=(
                "Draw one picture of the person at the end, in 8 steps: Save Learned Token puts it into the file, and lists show "
                "it. It is never the photo. The result is the same; it takes half a second on a fast GPU, on SDXL longer."
            ),
        ),
    ]


def settings_of(
    preset: str,
    seed: int,
    micro_batch_size: int = 0,
    resolution: int = 0,
    regularizer: str = FAMILYS,
    base: str = "",
    **widgets: Any,
) -> InversionSettings:
    """The settings of a run on a model of the family `base`.

    A preset is the family's own. Of the widgets, `steps` and `learning_rate` count for the custom preset alone, and the others
    if they are not at their defaults; zero is how a widget says None.
    """
    published = presets_of(base)["full"]
    given = {
        "seed": seed,
        "micro_batch_size": micro_batch_size or None,
        "resolution": resolution or None,
        "regularizer": published.regularizer if regularizer == FAMILYS else regularizer,
        **widgets,
    }
    if preset == CUSTOM:
        return InversionSettings(**given)
    changed = {key: value for key, value in given.items() if value != getattr(InversionSettings, key)}
    for key in ("steps", "learning_rate"):
        changed.pop(key, None)
    return replace(presets_of(base)[preset], **{**changed, "regularizer": given["regularizer"]})
