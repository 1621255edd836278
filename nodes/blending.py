"""Blend Learned Tokens, and Rescale Learned Token."""

from __future__ import annotations

from comfy_api.latest import io

from ..crossinit_core import LearnedToken
from ..crossinit_core.starts import Starts
from ..crossinit_core.tokens.blending import ARC, LINE, blend_tokens, rescale_token
from ..crossinit_core.tokens.learned_token import check_token_name
from ..crossinit_core.tokens.metadata import method_of
from ..crossinit_core.tokens.report import describe_norms
from .errors import tells_errors
from .host.page import show_text
from .sockets import CATEGORY, SEARCH_ALIASES, CrossInitSocket, LearnedTokenSocket

METHODS = {"keep the length": ARC, "straight": LINE}

_OUTPUT = LearnedTokenSocket.Output(
    "token", display_name="token", tooltip="For Save, Apply and Encode Prompt with Learned Token."
)


@tells_errors
class CrossInitBlend(io.ComfyNode):
    """Somebody between two people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitBlend",
            display_name="Blend Learned Tokens",
            category=CATEGORY,
            description="Mixes two learned people into one who looks like both.",
            search_aliases=[*SEARCH_ALIASES, "mix", "merge", "interpolate"],
            inputs=[
                LearnedTokenSocket.Input("token_a", tooltip="From Learn Face or Load Learned Token."),
                LearnedTokenSocket.Input(
                    "token_b", tooltip="Another, learned on the same family with as many vectors as the first."
                ),
                io.Float.Input(
                    "weight",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 is the first person, 1 the second, 0.5 the middle.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="The new token's name. Empty: both names with a hyphen between.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=next(iter(METHODS)),
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "'keep the length' turns one person's vectors into the other's. 'straight' averages the numbers, "
                        "which shortens the vectors: the person comes out weaker."
                    ),
                ),
            ],
            outputs=[_OUTPUT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool:
        """Refuses an impossible name when the graph is queued."""
        if name and name.strip():
            check_token_name(name.strip())
        return True

    @classmethod
    def execute(
        cls,
        token_a: LearnedToken,
        token_b: LearnedToken,
        weight: float,
        name: str = "",
        method: str = next(iter(METHODS)),
    ) -> io.NodeOutput:
        blended = blend_tokens(token_a, token_b, weight, method=METHODS[method], name=name.strip())
        show_text(cls, f"{blended.name}: {1 - weight:.0%} {token_a.name}, {weight:.0%} {token_b.name}")
        return io.NodeOutput(blended)


@tells_errors
class CrossInitRescale(io.ComfyNode):
    """The same person, who listens more to the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitRescale",
            display_name="Rescale Learned Token",
            category=CATEGORY,
            description=(
                "Brings the length of a learned person's vectors back towards the length that they started with. A token "
                "that drowns the rest of the prompt obeys it better."
            ),
            search_aliases=[*SEARCH_ALIASES, "norm", "normalize", "strength", "editability"],
            inputs=[
                LearnedTokenSocket.Input("token", tooltip="From Learn Face or Load Learned Token."),
                io.Float.Input(
                    "amount",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 leaves the token as it is, 1 makes its vectors as long as those that it started from.",
                ),
                CrossInitSocket.Input(
                    "cross_init",
                    optional=True,
                    tooltip=(
                        "Needed for a token of another tool, whose file does not record its start: from Cross Initialization "
                        "with the same CLIP and number of vectors."
                    ),
                ),
            ],
            outputs=[_OUTPUT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, token: LearnedToken, amount: float, cross_init: Starts | None = None) -> io.NodeOutput:
        rescaled = rescale_token(
            token, amount, start=cross_init.of(method_of(token.metadata))[0] if cross_init else None
        )
        before, after = (describe_norms(each.vectors, widths=each.widths) for each in (token, rescaled))
        show_text(cls, f"{rescaled.name}: norm {before} -> {after}")
        return io.NodeOutput(rescaled)
