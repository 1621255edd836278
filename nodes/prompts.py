"""Apply Learned Token, and Encode Prompt with Learned Token."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io

from ..crossinit_core import LearnedToken
from ..crossinit_core.prompts import fill_places
from ..crossinit_core.tokens.learned_token import check_token_name
from .errors import tells_errors
from .host.page import show_text
from .host.tokens import clip_with_tokens
from .sockets import CATEGORY, SEARCH_ALIASES, LearnedTokenSocket
from .token_inputs import TakesTokens, connected, tokens_input

_NEEDLESS = re.compile(r"\bembedding:\s*(?=\{[^{}\s|]*\})")
"""What people who are used to files write before `{}`."""


@tells_errors
class CrossInitApply(io.ComfyNode):
    """A CLIP that knows the person by name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitApply",
            display_name="Apply Learned Token",
            category=CATEGORY,
            description=(
                "Teaches CLIP the name of a learned person. Every prompt node after this one understands embedding:NAME, "
                "without a file on disk."
            ),
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Clip.Input("clip", tooltip="CLIP of a checkpoint of the family that the token was learned on."),
                LearnedTokenSocket.Input("token", tooltip="From Learn Face or Load Learned Token."),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="What stands after embedding: in your prompts. Empty: the token's own name.",
                ),
            ],
            outputs=[io.Clip.Output("clip", display_name="clip", tooltip="For your prompt nodes.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip: Any, token: LearnedToken, name: str = "") -> io.NodeOutput:
        name = check_token_name(name.strip() or token.name)
        show_text(cls, f"Write embedding:{name} person in your prompts.")
        return io.NodeOutput(clip_with_tokens(clip, {name: token}))


@tells_errors
class CrossInitEncodePrompt(TakesTokens):
    """A prompt with a place for the person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitEncodePrompt",
            display_name="Encode Prompt with Learned Token",
            category=CATEGORY,
            description=(
                "Encodes a prompt in which {} stands for the learned person. With several tokens, each {} takes the next "
                "one, or write their names: {alice} and {bob}."
            ),
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Clip.Input("clip", tooltip="CLIP of a checkpoint of the family that the token was learned on."),
                io.String.Input(
                    "text",
                    default="a photo of a {} person",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip=(
                        "The prompt. {} is the person, and the word 'person' after it helps. Weights work: ({}:1.2). "
                        "{1} and {2} are the first and the second token."
                    ),
                ),
                tokens_input("From Learn Face or Load Learned Token."),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="For KSampler, ControlNet and all other nodes."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, tokens: dict[str, LearnedToken | None]) -> io.NodeOutput:
        prompt, used = fill_prompt(text, connected(tokens))
        read: set[str] = set()
        clip = clip_with_tokens(clip, used, read.add)
        tokens_of_prompt = clip.tokenize(prompt)
        if dropped := [token.name for alias, token in used.items() if alias not in read]:
            raise ValueError(
                f"CLIP did not take {' and '.join(dropped)} out of the prompt '{text}', as if the words were not there. A node "
                "or a pack that reads prompts in its own way may be the reason: connect the checkpoint's own CLIP."
            )
        show_text(cls, _said(used))
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens_of_prompt))


def _said(used: dict[str, LearnedToken]) -> str:
    """The people of a prompt, in the order in which they are written."""
    counts = {token.name: len(token.vectors) for token in used.values()}
    return ", ".join(f"{name} ({count} vector{'s' * (count > 1)})" for name, count in counts.items())


def fill_prompt(text: str, people: list[LearnedToken]) -> tuple[str, dict[str, LearnedToken]]:
    """`{}`, `{1}` and `{name}` in a prompt -> ComfyUI's `embedding:ALIAS`, and the tokens by alias.

    Raises ValueError as `fill_places` does.
    """
    used: dict[str, LearnedToken] = {}
    text = _NEEDLESS.sub("", text)

    def write(index: int, match: re.Match[str]) -> str:
        alias = f"crossinit-{index + 1}"
        used[alias] = people[index]
        # ComfyUI finds embedding: at the start of a piece or after a space or a new line, and ends its name at a space.
        before = "" if match.start() == 0 or text[match.start() - 1] in " \n" else " "
        after = "" if match.end() == len(text) or text[match.end()].isspace() else " "
        return f"{before}embedding:{alias}{after}"

    return fill_places(text, [person.name for person in people], write), used
