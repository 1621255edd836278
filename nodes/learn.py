"""Learn Face: regularized inversion on the graph's own MODEL, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..crossinit_core import PRESETS, InversionSettings, invert
from .errors import tells_errors
from .host.backbone import ComfyBackbone
from .learn_display import Display, Samples
from .learn_inputs import learn_inputs
from .sockets import CATEGORY, SEARCH_ALIASES, CrossInit, LearnedTokenSocket

WORTH_SAYING = 1.1
"""How many times a photo has to be enlarged before the node says so."""


@tells_errors
class CrossInitLearn(io.ComfyNode):
    """Learns a face from a photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitLearn",
            display_name="Learn Face (train)",
            category=CATEGORY,
            description=(
                "Learns the person on a photo as a few word vectors, which then stand for that person in any prompt. "
                "Needs a Stable Diffusion 2.x or 1.x checkpoint. Cancel keeps what was learned: the next run goes on."
            ),
            search_aliases=SEARCH_ALIASES,
            # The photos may come as a list of different sizes, so this node takes whole lists.
            is_input_list=True,
            inputs=learn_inputs(),
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
        chosen = {name: one.pop(f"sample_{name}") for name in ("every", "prompt", "steps") if f"sample_{name}" in one}
        settings = _settings(**one)
        display = Display(cls, backbone, settings.steps, Samples(**chosen), len(start.vectors), settings.seed)
        remark = _enlarged(image, settings.resolution or backbone.resolution)
        result = invert(
            backbone,
            start.vectors,
            settings,
            images=image,
            masks=mask or None,
            on_step=display.report,
            observe=display.observe,
            resume_folder=resume_folder(),
            resume=resume,
            metadata=start.facts,
        )
        return io.NodeOutput(display.finish(result.token, result.summary(), remark), {"loss": result.losses})


def resume_folder() -> Path:
    """Where resume files lie, under ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()) / "crossinit" / "resume"


def _enlarged(photos: list[Any], side: int) -> str:
    """Says by how much the smallest photo is enlarged to the side that is learned at; nothing where that is not worth it."""
    sizes = [min(photo.shape[1:3]) for photo in photos if getattr(photo, "ndim", 0) == 4]
    times = side / min(sizes, default=side)
    return f"photo enlarged {times:.1f} times to {side} px" if times >= WORTH_SAYING else ""


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
