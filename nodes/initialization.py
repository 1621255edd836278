"""Cross Initialization, from names and from words."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..crossinit_core import CelebrityNames
from ..crossinit_core.choices import StartStates
from ..crossinit_core.prompts import MAX_VECTORS
from ..crossinit_core.starts import CROSS, PLAIN, StartWay, start_from_names, start_from_words
from ..crossinit_core.text import quoted
from ..crossinit_core.tokens.report import describe_norms
from .errors import tells_errors
from .host.backbone import ComfyBackbone
from .host.page import show_text
from .sockets import CATEGORY, SEARCH_ALIASES, CelebrityNamesSocket, CrossInitSocket
from .texts import LONGEST_LINE, check_box

_CLIP = io.Clip.Input("clip", tooltip="CLIP of the checkpoint that you will learn on.")
_METHOD = io.Combo.Input(
    "method",
    options=[CROSS, PLAIN],
    default=CROSS,
    optional=True,
    advanced=True,
    tooltip=(
        f"'{CROSS}' sends the start through the text encoder, as published. '{PLAIN}' leaves that out, and is there to "
        "compare."
    ),
)

LAST, SEEN = "last layer", "what the UNet sees"
_STATES: dict[str, StartStates] = {LAST: "last", SEEN: "context"}
_LAYER = io.Combo.Input(
    "layer",
    options=[*_STATES],
    default=LAST,
    optional=True,
    advanced=True,
    tooltip=(
        f"For SDXL: which layer of the text encoders gives the start. '{LAST}' is the published way, '{SEEN}' the layer before "
        "it. Nobody knows yet which is better. On SD 1.x and 2.x both are the same."
    ),
)

_OUTPUT = CrossInitSocket.Output("cross_init", display_name="cross_init", tooltip="For the Learn Face node.")


@tells_errors
class CrossInitInitialize(io.ComfyNode):
    """The average celebrity as the start of a new face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitInitialize",
            display_name="Cross Initialization",
            category=CATEGORY,
            description="Computes where learning starts: what the text encoder makes of the average celebrity.",
            search_aliases=SEARCH_ALIASES,
            inputs=[
                _CLIP,
                CelebrityNamesSocket.Input("names", tooltip="From Load Celebrity Names."),
                io.Int.Input(
                    "vectors",
                    default=2,
                    min=1,
                    max=MAX_VECTORS,
                    tooltip=(
                        "How many word vectors describe the face. The published method uses 2; more hold more detail "
                        "and obey prompts less."
                    ),
                ),
                _METHOD,
                _LAYER,
            ],
            outputs=[_OUTPUT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, clip: Any, names: CelebrityNames, vectors: int, method: StartWay = CROSS, layer: str = LAST
    ) -> io.NodeOutput:
        backbone = ComfyBackbone(None, clip)
        start = start_from_names(backbone, names, vectors, states=_STATES[layer], way=method)
        norms = describe_norms(start.vectors, widths=backbone.widths)
        show_text(cls, f"{vectors} vectors from {len(names)} names, norm {norms}")
        return io.NodeOutput(start)


@tells_errors
class CrossInitInitializeWords(io.ComfyNode):
    """Words such as "human face" as the start of a new face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitInitializeWords",
            display_name="Cross Initialization from Words",
            category=CATEGORY,
            description="Computes where learning starts from words instead of names. Each token of the words gives one vector.",
            search_aliases=SEARCH_ALIASES,
            inputs=[
                _CLIP,
                io.String.Input(
                    "words",
                    default="human face",
                    tooltip="A word or two for what you teach. Each token of them gives one vector, at most 8.",
                ),
                _METHOD,
                _LAYER,
            ],
            outputs=[_OUTPUT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, words: str | None = None) -> bool:
        """Refuses words that cannot be sent when the graph is queued."""
        check_box(words, "words", LONGEST_LINE)
        return True

    @classmethod
    def execute(cls, clip: Any, words: str, method: StartWay = CROSS, layer: str = LAST) -> io.NodeOutput:
        check_box(words, "words", LONGEST_LINE)
        backbone = ComfyBackbone(None, clip)
        start = start_from_words(backbone, words, states=_STATES[layer], way=method)
        norms = describe_norms(start.vectors, widths=backbone.widths)
        show_text(cls, f"'{quoted(words)}' gives {len(start.vectors)} vectors, norm {norms}")
        return io.NodeOutput(start)
