"""Load Miniature Model, and Paint Drawn Person: everything that a trial needs, without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..crossinit_core import load_celebrity_names
from ..miniature.world.people import held_out_person, named_vectors, portrait
from .errors import tells_errors
from .files import stamp
from .host.miniature import load_miniature
from .host.page import show_text
from .sockets import CATEGORY, SEARCH_ALIASES

WEIGHTS = Path(__file__).resolve().parent.parent / "miniature" / "weights"


@tells_errors
class CrossInitMiniature(io.ComfyNode):
    """The model that comes with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitMiniature",
            display_name="Load Miniature Model (demo)",
            category=CATEGORY,
            description=(
                "A tiny model of Stable Diffusion 2's kind that comes with this pack and knows drawn faces only. With it "
                "everything can be tried in a minute or two, without a checkpoint. Its pictures are 128 x 128 px."
            ),
            search_aliases=[*SEARCH_ALIASES, "checkpoint", "demo", "tiny", "drawn"],
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="For Learn Face and KSampler."),
                io.Clip.Output(
                    "clip", display_name="CLIP", tooltip="For Cross Initialization, Learn Face and prompts."
                ),
                io.Vae.Output("vae", display_name="VAE", tooltip="For Learn Face, VAE Decode and VAE Encode."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        return "|".join(map(stamp, sorted(WEIGHTS.glob("*"))))

    @classmethod
    def execute(cls) -> io.NodeOutput:
        parts = load_miniature(WEIGHTS)
        show_text(cls, "Knows drawn faces. Set Empty Latent Image to 128 x 128.")
        return io.NodeOutput(*parts)


@tells_errors
class CrossInitDrawnPerson(io.ComfyNode):
    """Somebody whom the miniature has never seen."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitDrawnPerson",
            display_name="Paint Drawn Person (demo)",
            category=CATEGORY,
            description=(
                "Paints a portrait of somebody whom the miniature model has never seen, to learn from. Every seed is "
                "another person."
            ),
            search_aliases=[*SEARCH_ALIASES, "demo", "drawn", "photo"],
            # So that the portrait is there after every run, and without anything connected.
            is_output_node=True,
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    # Off, so that the page does not choose another person, and learn anew, at every run.
                    control_after_generate=False,
                    tooltip="Who it is. The same seed gives the same person and the same portrait.",
                )
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="A portrait of 128 x 128 px, for Learn Face.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, seed: int) -> io.NodeOutput:
        person = held_out_person(seed, named_vectors(load_celebrity_names().names))
        image = torch.tensor(portrait(person, seed)).float()[None] / 255
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
