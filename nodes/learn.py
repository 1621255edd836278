"""Learn Face: regularized inversion on the graph's own MODEL, CLIP and VAE."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..crossinit_core import PRESETS, InversionSettings, StepReport, invert
from ..crossinit_core.backbone import PRECISIONS
from ..crossinit_core.settings import MEMORY_MODES
from .comfy_backbone import ComfyBackbone
from .comfy_previews import Previews
from .errors import tells_errors
from .sockets import CATEGORY, SEARCH_ALIASES, CrossInit, CrossInitSocket, LearnedTokenSocket, show_text

CUSTOM = "custom"

_FULL = PRESETS["full"]


@tells_errors
class CrossInitLearn(io.ComfyNode):
    """Learns a face from a photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitLearn",
            display_name="Learn Face",
            category=CATEGORY,
            description=(
                "Learns the person on a photo as a few word vectors, which then stand for that person in any prompt. "
                "Needs a Stable Diffusion 2.x or 1.x checkpoint. Cancel keeps what was learned: the next run goes on."
            ),
            search_aliases=SEARCH_ALIASES,
            # The photos may come as a list of different sizes, so this node takes whole lists.
            is_input_list=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="MODEL of a Stable Diffusion 2.x or 1.x checkpoint. LoRAs on it count."
                ),
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
                    default="full",
                    tooltip=(
                        "full: 320 steps, the best likeness. fast: 25 steps, a first impression. custom: the steps and "
                        "the learning rate below."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    # Off, so that the page does not draw a new seed, and learn anew, at every run.
                    control_after_generate=False,
                    tooltip="The same seed and the same inputs give the same token.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the person is: only that is learned. One mask for each photo, or one for all.",
                ),
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
                    tooltip="For preset 'custom'. The published method uses 0.005.",
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
                    tooltip="Samples in each step. The published method uses 8.",
                ),
                io.Int.Input(
                    "micro_batch_size",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How many samples go through the model at once; 0 means all of the batch. 1 needs the least "
                        "memory. The result is the same."
                    ),
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Needs about half the video memory and a third more time. The result is the same. 'memory' turns it "
                        "on by itself where it is needed."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What the model computes in. auto: fp16 where the GPU is good at it. Where numbers do not fit, the "
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
                        "The photo is learned at this size in pixels. 0: the checkpoint's own, 512 for most and 768 for SD "
                        "2.1-768."
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
                    tooltip="How often the photo is mirrored. 0 keeps a parting or a mole on its side.",
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
                        "auto: as fast as the free video memory allows. low: at most about 4 GB, a third slower. normal: "
                        "never slower to save memory. The result is the same."
                    ),
                ),
            ],
            outputs=[
                LearnedTokenSocket.Output(
                    "token", display_name="token", tooltip="For Save, Apply and Encode Prompt with Learned Token."
                ),
                io.LossMap.Output("loss", display_name="loss", tooltip="For ComfyUI's Plot Loss Graph node."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: list[Any], mask: list[Any] | None = None, **inputs: list[Any]) -> io.NodeOutput:
        one = {name: _single(name, values) for name, values in inputs.items()}
        start: CrossInit = one.pop("cross_init")
        backbone = ComfyBackbone(one.pop("model"), one.pop("clip"), one.pop("vae"))
        resume: bool = one.pop("resume", True)
        settings = _settings(**one)
        result = invert(
            backbone,
            start.vectors,
            settings,
            images=image,
            masks=mask or None,
            on_step=_reporter(cls, backbone, settings.steps),
            resume_folder=resume_folder(),
            resume=resume,
            metadata=start.facts,
        )
        show_text(cls, result.summary())
        return io.NodeOutput(result.token, {"loss": result.losses})


def resume_folder() -> Path:
    """Where resume files lie, under ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()) / "crossinit" / "resume"


def _settings(
    preset: str,
    seed: int,
    micro_batch_size: int = 0,
    steps: int | None = None,
    learning_rate: float | None = None,
    resolution: int = 0,
    **more: Any,
) -> InversionSettings:
    """The node's inputs as settings; steps and learning rate count for the custom preset alone."""
    chosen: dict[str, Any] = {}
    if preset in PRESETS:
        chosen = {"steps": PRESETS[preset].steps, "learning_rate": PRESETS[preset].learning_rate}
    else:
        chosen |= {} if steps is None else {"steps": steps}
        chosen |= {} if learning_rate is None else {"learning_rate": learning_rate}
    # Zero is how a widget says None.
    chosen |= {"micro_batch_size": micro_batch_size or None, "resolution": resolution or None}
    return InversionSettings(**chosen, seed=seed, **more)


def _single(name: str, values: list[Any]) -> Any:
    if len(values) != 1:
        raise ValueError(
            f"'{name}' got a list of {len(values)}, but Learn Face learns one token from all photos together. "
            f"Connect a single value to '{name}'."
        )
    return values[0]


def _reporter(node: type[io.ComfyNode], backbone: ComfyBackbone, steps: int) -> Callable[[StepReport], None]:
    """Progress bar, a live picture of what the model sees, and the loss as text on the node."""
    bar = comfy.utils.ProgressBar(steps)
    previews = Previews(backbone)
    first: tuple[int, float] | None = None

    def report(step: StepReport) -> None:
        nonlocal first
        # The progress bar looks for a cancel now and then; a step is short enough to look each time.
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.perf_counter()
        preview = None
        if step.step == steps or previews.due():
            show_text(
                node,
                f"step {step.step} of {steps} · loss {step.loss:.4f} · moved {step.regularization:.2f}{_pace(step, first, now)}",
            )
            preview = previews.picture(step.denoised)
        first = first or (step.step, now)
        bar.update_absolute(step.step, steps, preview)

    return report


def _pace(step: StepReport, first: tuple[int, float] | None, now: float) -> str:
    """Steps a second since the first step, which loading delays, and what that leaves to wait."""
    if first is None:
        return ""
    rate = (step.step - first[0]) / max(now - first[1], 1e-6)
    pace = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s a step"
    return f" · {pace} · {(step.steps - step.step) / rate:.0f} s left"
