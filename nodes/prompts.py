"""Apply Learned Token, and Encode Prompt with Learned Token."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..crossinit_core import LearnedToken, load_learned_token
from ..crossinit_core.prompts import ANYBODY, PLACE, absent_people, fill_places, has_place, words_in_places
from ..crossinit_core.text import normal_form, quoted
from ..crossinit_core.tokens.blending import STRENGTHS, token_at_strength
from ..crossinit_core.tokens.learned_token import check_token_name
from ..crossinit_core.tokens.lineage import other_lineage
from .errors import tells_errors
from .host.folders import embedding_files
from .host.models import checkpoint_name
from .host.page import show_text
from .host.queued import saved_names
from .host.tokens import applied_token, clip_with_tokens, current_run, split_tokens, weights_of
from .learn.inputs import NAME
from .sockets import CATEGORY, SEARCH_ALIASES, LearnedTokenSocket
from .texts import LONGEST_LINE, check_box, check_prompt
from .token_inputs import connected, objection_to_wires, tokens_input

_NEEDLESS = re.compile(rf"\bembedding:\s*(?={PLACE.pattern})", re.IGNORECASE)
"""What people who are used to files write before `{}`."""

EARLIER_NAME = "learned-face"
"""What Learn Face called everybody before it had a name of its own to set."""

_LONGEST_WORD = 60
_MOST_WORDS = 3


def _strength_input() -> io.Float.Input:
    return io.Float.Input(
        "strength",
        display_name="likeness and prompt",
        default=1.0,
        min=STRENGTHS[0],
        max=STRENGTHS[1],
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        optional=True,
        tooltip=(
            "1 is the person as learned. Less goes back towards the average face that learning started at, and listens more to the "
            "prompt; more goes further away from it."
        ),
    )


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
                _strength_input(),
            ],
            outputs=[io.Clip.Output("clip", display_name="clip", tooltip="For your prompt nodes.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool:
        """Refuses a name that cannot be used when the graph is queued."""
        check_box(name, "name", LONGEST_LINE)
        if name and name.strip():
            check_token_name(name.strip())
        return True

    @classmethod
    def execute(cls, clip: Any, token: LearnedToken, name: str = "", strength: float = 1.0) -> io.NodeOutput:
        check_box(name, "name", LONGEST_LINE)
        name = check_token_name(name.strip() or token.name)
        token = token_at_strength(token, strength)
        text = f"Write embedding:{name} person in your prompts."
        other = applied_token(clip, name)
        if other is not None and not torch.equal(other.vectors, token.vectors):
            text += " It means this person, and no longer the one whom a node before this one applied under that name."
        if warning := other_lineage(token.metadata, checkpoint_name(clip.patcher)):
            text += f" {warning}"
        show_text(cls, text)
        watch = _LostWords(name, text, lambda said: show_text(cls, said))
        return io.NodeOutput(clip_with_tokens(clip, {name: token}, watch.read, watch.lost))


class _LostWords:
    """What CLIP leaves out of prompts because something stands behind the name of the person: said on the node.

    The note goes when a later run reads the name.
    """

    def __init__(self, name: str, text: str, say: Callable[[str], object]) -> None:
        self._name, self._text, self._say = name, text, say
        self._words: list[str] = []
        self._run: str | None = None

    def lost(self, word: str) -> None:
        if not self._is_meant(word):
            return
        if self._run != current_run():
            self._words = []
        self._run = current_run()
        if word not in self._words:
            self._words.append(word)
            self._say(f"{self._text} {left_out(self._words)}")

    def read(self, _name: str) -> None:
        if self._words and self._run != current_run():
            self._words = []
            self._say(self._text)

    def _is_meant(self, word: str) -> bool:
        word, name = normal_form(word).casefold(), normal_form(self._name).casefold()
        behind = word.removeprefix(name)
        return word.startswith(name) and not (behind[:1].isalnum() or behind[:1] in ("-", "_"))


def left_out(words: list[str]) -> str:
    """The sentence about words after `embedding:` that nobody has for a name."""
    shown = ", ".join(f"embedding:{quoted(word, _LONGEST_WORD)}" for word in words[:_MOST_WORDS])
    more = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
    return f"CLIP left out {shown}{more}: nobody has that name. Write it exactly, and a space after it."


@tells_errors
class CrossInitEncodePrompt(io.ComfyNode):
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
                        "{1} and {2} are the first and the second token. %person% is {} for where other nodes take braces away."
                    ),
                ),
                tokens_input("From Learn Face or Load Learned Token."),
                _strength_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="For KSampler, ControlNet and all other nodes."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, input_types: dict[str, str], text: str | None = None, tokens: Any = None) -> bool | str:
        """Finds a missing wire, or a prompt without a place, when the graph is queued, not after half a minute of learning.

        text: None if it comes by wire. tokens: not known before the graph runs; ComfyUI gives it all the same.
        """
        if objection := objection_to_wires(cls, input_types):
            return objection
        check_prompt(text)
        if text is not None and not has_place(text):
            return no_place(text)
        return True

    @classmethod
    def execute(
        cls, clip: Any, text: str, tokens: dict[str, LearnedToken | None], strength: float = 1.0
    ) -> io.NodeOutput:
        check_prompt(text)
        people = connected(tokens)
        if people and not has_place(text):
            raise ValueError(no_place(text, by_wire=True))
        also = _other_names(cls, text, tokens)
        prompt, used = fill_prompt(text, people, also)
        used = {alias: token_at_strength(token, strength) for alias, token in used.items()}
        read: set[str] = set()
        lost: list[str] = []
        clip = clip_with_tokens(clip, used, read.add, lost.append)
        tokens_of_prompt = clip.tokenize(prompt)
        if dropped := [token.name for alias, token in used.items() if alias not in read]:
            raise ValueError(
                f"CLIP did not take {quoted(' and '.join(dropped))} out of the prompt '{quoted(text)}', as if the words were "
                "not there. A node or a pack that reads prompts in its own way may be the reason: connect the checkpoint's "
                "own CLIP."
            )
        if not all(math.isfinite(weight) for weight in weights_of(tokens_of_prompt)):
            raise ValueError(
                f"The prompt '{quoted(text)}' has a weight that is not a number, which makes black pictures. Write one such "
                "as 1.2 after the colon."
            )
        absent = absent_people(text, [person.name for person in people], also)
        split = {used[alias].name for alias in split_tokens(tokens_of_prompt, used)}
        strangers = _of_other_lineages(used.values(), checkpoint_name(clip.patcher))
        warnings = [*_warnings(absent, split, lost), *strangers]
        show_text(cls, f"{_said(used)}. {' '.join(warnings)}" if warnings else _said(used))
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens_of_prompt))


def no_place(text: str, by_wire: bool = False) -> str:
    """What is wrong with a prompt that has no place for a person, and what to do."""
    eaten = (
        f" If {{}} was there, the page or the node that the text comes from took it for a dynamic prompt: write %{ANYBODY}% "
        "there instead, which they leave alone."
    )
    return (
        f"The prompt '{quoted(text)}' has no {{}} for the person. Write it where the person goes: a photo of a {{}} person"
        f"{'.' + eaten if by_wire else ''}"
    )


def _said(used: dict[str, LearnedToken]) -> str:
    """The people of a prompt, in the order in which they are written."""
    counts = {token.name: len(token.vectors) for token in used.values()}
    return ", ".join(f"{name} ({count} vector{'s' * (count > 1)})" for name, count in counts.items())


def _warnings(absent: Sequence[str], split: set[str], lost: list[str]) -> list[str]:
    """Sentences about people, and words, that are not in the picture as the prompt says."""
    said = []
    if absent:
        are = "is" if len(absent) == 1 else "are"
        said.append(f"{quoted(' and '.join(absent))} {are} connected, but not in the prompt.")
    if split:
        said.append(
            f"The vectors of {quoted(' and '.join(sorted(split)))} are split between two sections of 77 tokens, which CLIP "
            "reads one by one: move the place to the front."
        )
    if lost:
        said.append(left_out(list(dict.fromkeys(lost))))
    return said


def _of_other_lineages(people: Collection[LearnedToken], checkpoint: str) -> list[str]:
    """Sentences about people who were learned on another lineage of CLIP's family, such as Pony or Illustrious."""
    found = {token.name: warning for token in people if (warning := other_lineage(token.metadata, checkpoint))}
    return [f"{name}: {warning}" for name, warning in found.items()] if len(people) > 1 else list(found.values())


def _other_names(node: type[io.ComfyNode], text: str, tokens: dict[str, LearnedToken | None]) -> list[set[str]]:
    """What else each connected person is called in this graph and in its files, so that the name on Save works here too."""
    graph, own_id = (node.hidden.prompt, node.hidden.unique_id) if node.hidden else (None, None)
    names = []
    for socket, token in tokens.items():
        if token is not None:
            saved = saved_names(graph, own_id, f"tokens.{socket}", saver="CrossInitSave", socket="token")
            names.append({*saved, *([EARLIER_NAME] if token.name == NAME else [])})
    people = connected(tokens)
    for word in words_in_places(text):
        for path in embedding_files(word):
            try:
                vectors = load_learned_token(path).vectors
            except (OSError, ValueError):
                continue
            for person, also in zip(people, names, strict=True):
                if torch.equal(person.vectors, vectors):
                    also.add(word)
    return names


def fill_prompt(
    text: str, people: list[LearnedToken], also: Sequence[Collection[str]] = ()
) -> tuple[str, dict[str, LearnedToken]]:
    """`{}`, `{1}`, `{name}` and `%name%` in a prompt -> ComfyUI's `embedding:ALIAS`, and the tokens by alias.

    `also` has other names for each of the people. Raises ValueError as `fill_places` does.
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

    return fill_places(text, [person.name for person in people], write, also), used
