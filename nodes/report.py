"""Learned Token Report."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..crossinit_core import LearnedToken
from ..crossinit_core.tokens.report import describe_tokens
from ..crossinit_core.tokens.report_figure import draw_report
from ..crossinit_core.tokens.vocabulary import percentiles
from .errors import tells_errors
from .host.backbone import tables
from .sockets import CATEGORY, SEARCH_ALIASES
from .token_inputs import TakesTokens, connected, tokens_input


@tells_errors
class CrossInitReport(TakesTokens):
    """How tokens were learned, at a glance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitReport",
            display_name="Learned Token Report",
            category=CATEGORY,
            description=(
                "Shows how a face was learned: the loss, how far the vectors moved and turned from their start, how long they "
                "are beside the vocabulary's, the photo, and what the model made of it on the way. Several tokens are compared."
            ),
            search_aliases=[*SEARCH_ALIASES, "loss", "plot", "chart", "compare", "norm", "statistics"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="For tokens from files alone: the vocabulary whose norms theirs are compared with.",
                ),
                tokens_input(
                    "From Learn Face. A token from Load Learned Token has no history: what its file says is shown."
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The charts and pictures, for Save Image."),
                io.String.Output("report", display_name="report", tooltip="The same facts as text."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, tokens: dict[str, LearnedToken | None], clip: Any = None) -> io.NodeOutput:
        people = connected(tokens)
        norms: tuple[float, ...] = ()
        if clip is not None:
            found = [table.to("cpu", torch.float32, copy=True) for table in tables(clip)]
            for token in people:
                token.check_fits([table.shape[1] for table in found])
            norms = tuple(norm for table in found for norm in percentiles(table.norm(dim=1)))
        picture = torch.from_numpy(draw_report(people, norms)).float()[None] / 255
        return io.NodeOutput(picture, describe_tokens(people, norms), ui=ui.PreviewImage(picture, cls=cls))
