"""Apply Learned Token, and Encode Prompt with Learned Token."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io

from ..crossinit_core import LearnedToken
from ..crossinit_core.learned_token import check_token_name
from .comfy_tokens import clip_with_tokens
from .sockets import CATEGORY, SEARCH_ALIASES, LearnedTokenSocket, show_text

_PLACE = re.compile(r"\{([^{}\s|]*)\}")


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


class CrossInitEncodePrompt(io.ComfyNode):
    """A prompt with a place for the person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        tokens = io.Autogrow.TemplatePrefix(
            LearnedTokenSocket.Input("token", tooltip="From Learn Face or Load Learned Token."),
            prefix="token",
            min=1,
            max=10,
        )
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
                io.Autogrow.Input("tokens", template=tokens),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="For KSampler, ControlNet and all other nodes."
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, tokens: dict[str, LearnedToken]) -> io.NodeOutput:
        people = [token for token in tokens.values() if token is not None]
        prompt, used = fill_prompt(text, people)
        clip = clip_with_tokens(clip, used)
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)))


def fill_prompt(text: str, people: list[LearnedToken]) -> tuple[str, dict[str, LearnedToken]]:
    """`{}`, `{1}` and `{name}` in a prompt -> ComfyUI's `embedding:ALIAS`, and the tokens by alias.

    Raises ValueError where a place has no token, or where several tokens are there and the `{}` do not match them.
    """
    if not people:
        raise ValueError("No learned token is connected. Connect one from Learn Face or Load Learned Token.")
    open_places = sum(1 for match in _PLACE.finditer(text) if not match.group(1))
    if len(people) > 1 and open_places not in (0, len(people)):
        raise ValueError(
            f"The prompt has {open_places} times {{}}, but {len(people)} tokens are connected. Write {{}} once for each of "
            "them, in order, or use {1}, {2} and so on."
        )
    used: dict[str, LearnedToken] = {}
    following = iter(range(open_places))

    def place(match: re.Match[str]) -> str:
        wanted = match.group(1)
        index = next(following) % len(people) if not wanted else _index_of(wanted, people)
        alias = f"crossinit-{index + 1}"
        used[alias] = people[index]
        # ComfyUI finds embedding: at the start of a piece or after a space, and ends its name at a space.
        before = (
            "" if match.start() == 0 or text[match.start() - 1].isspace() or text[match.start() - 1] == "(" else " "
        )
        after = "" if match.end() == len(text) or text[match.end()].isspace() or text[match.end()] in ":)" else " "
        return f"{before}embedding:{alias}{after}"

    prompt = _PLACE.sub(place, text)
    if not used:
        raise ValueError(
            f"The prompt '{text}' has no {{}} for the person. Write it where the person goes: a photo of a {{}} person"
        )
    return prompt, used


def _index_of(wanted: str, people: list[LearnedToken]) -> int:
    if wanted.isdecimal() and 1 <= int(wanted) <= len(people):
        return int(wanted) - 1
    names = [person.name for person in people]
    if names.count(wanted) == 1:
        return names.index(wanted)
    reason = "is the name of several tokens" if wanted in names else "is no connected token"
    raise ValueError(
        f"{{{wanted}}} in the prompt {reason}. Connected: {', '.join(names)}. Use {{}}, a name, or {{1}} to {{{len(people)}}}."
    )
