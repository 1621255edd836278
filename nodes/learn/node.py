"""Learn Face: regularized inversion on the graph's own MODEL, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...crossinit_core import invert
from ...crossinit_core.learning.settings import in_a_line
from ...crossinit_core.starts import Starts
from ...crossinit_core.tokens.learned_token import check_token_name
from ..errors import tells_errors
from ..host.backbone import ComfyBackbone
from ..host.folders import output_folder
from ..host.models import warnings_about
from ..sockets import CATEGORY, SEARCH_ALIASES, LearnedTokenSocket, single
from ..texts import check_prompt
from .display import Display
from .inputs import NAME, learn_inputs, settings_of
from .samples import SamplePictures, SampleSettings

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
                "Needs an SDXL, SD 2.x or SD 1.x checkpoint. Cancel keeps what was learned: the next run goes on."
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
    def validate_inputs(
        cls, name: list[str | None] | None = None, sample_prompt: list[str | None] | None = None
    ) -> bool:
        """Refuses an impossible name, and a prompt that cannot be read, when the graph is queued."""
        for given in name or ():
            if given is not None and given.strip():
                check_token_name(given.strip())
        for given in sample_prompt or ():
            check_prompt(given, "sample_prompt")
        return True

    @classmethod
    def execute(cls, image: list[Any], mask: list[Any] | None = None, **inputs: list[Any]) -> io.NodeOutput:
        one = {name: single(name, values) for name, values in inputs.items()}
        return _learn(cls, image, mask or None, **one)


def _learn(
    node: type[io.ComfyNode],
    photos: list[Any],
    masks: list[Any] | None,
    *,
    model: Any,
    clip: Any,
    vae: Any,
    cross_init: Starts,
    resume: bool = True,
    sample_every: int = SampleSettings.every,
    sample_prompt: str = SampleSettings.prompt,
    sample_steps: int = SampleSettings.steps,
    name: str = NAME,
    draw_picture: bool = True,
    **widgets: Any,
) -> io.NodeOutput:
    check_prompt(sample_prompt, "sample_prompt")
    name = check_token_name(name.strip() or NAME)
    backbone = ComfyBackbone(model, clip, vae)
    settings = settings_of(**widgets, base=backbone.base).sized(backbone.resolution)
    v0, facts = cross_init.of(settings.method)
    samples = SamplePictures(
        backbone,
        SampleSettings(sample_every, sample_prompt, sample_steps),
        len(v0),
        settings,
        portrait=draw_picture,
    )
    display = Display(node, backbone, settings.steps, samples)
    if backbone.base == "sdxl":
        display.note(in_a_line(settings, backbone.base))
    for warning in warnings_about(model):
        display.note(warning)
    remark = _enlarged(photos, settings.resolution or backbone.resolution)
    try:
        result = invert(
            backbone,
            v0,
            settings,
            images=photos,
            masks=masks,
            on_step=display.report,
            observe=display.observe,
            resume_folder=resume_folder(),
            resume=resume,
            name=name,
            metadata=facts,
            on_note=display.note,
        )
    except BaseException as error:
        display.stopped(error)
        raise
    return io.NodeOutput(display.finish(result.token, result.summary(), remark), {"loss": result.losses})


def resume_folder() -> Path:
    """Where resume files lie, under ComfyUI's output folder."""
    return output_folder() / "crossinit" / "resume"


def _enlarged(photos: list[Any], side: int) -> str:
    """Says by how much the smallest photo is enlarged to the side that is learned at; empty if that is not worth it."""
    sizes = [min(photo.shape[1:3]) for photo in photos if getattr(photo, "ndim", 0) == 4]
    times = side / min(sizes, default=side)
    return f"photo enlarged {times:.1f} times to {side} px" if times >= WORTH_SAYING else ""
