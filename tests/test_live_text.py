"""Texts that cannot be sent, in a live ComfyUI: they are refused with a sentence, and the next run works."""

from __future__ import annotations

from typing import Any

import pytest

from devtools.comfyui.answers import PromptError
from devtools.workflows.parts import CHECKPOINT, TOKEN_FILE
from tests.live_watch import Prompt

HALF_EMOJI = "a {} person \ud83d"


def _encode(prompt: Prompt, text: Any) -> None:
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    token = prompt.load(TOKEN_FILE)
    encoded = prompt.ref("CrossInitEncodePrompt", clip=clip, text=text, **{"tokens.token0": token})
    prompt.add("ProbeConditioning", conditioning=encoded, name="text")


def _list(prompt: Prompt, **texts: Any) -> None:
    node = prompt.add("CrossInitPromptList", **{"prompts": "a {} person", "file": "none", **texts})
    prompt.add("PreviewAny", source=[node, 2])


def _names(prompt: Prompt, **texts: Any) -> None:
    node = prompt.add("CrossInitCelebrityNames", **{"list": "bundled list", "extra_names": "", **texts})
    prompt.add("PreviewAny", source=[node, 1])


def _words(prompt: Prompt, text: Any) -> None:
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    prompt.add("PreviewAny", source=prompt.ref("CrossInitInitializeWords", clip=clip, words=text))


def _apply(prompt: Prompt, name: Any) -> None:
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    taught = prompt.ref("CrossInitApply", clip=clip, token=prompt.load(TOKEN_FILE), name=name)
    encoded = prompt.ref("CLIPTextEncode", clip=taught, text="a person")
    prompt.add("ProbeConditioning", conditioning=encoded, name="text")


WAYS = {
    "prompt": _encode,
    "prompts": lambda prompt, text: _list(prompt, prompts=text),
    "folder": lambda prompt, text: _list(prompt, folder=text),
    "file": lambda prompt, text: _list(prompt, file=text),
    "list": lambda prompt, text: _names(prompt, list=text),
    "extra names": lambda prompt, text: _names(prompt, extra_names=text),
    "words": _words,
    "name": _apply,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("by_wire", [False, True], ids=["typed", "by wire"])
def test_half_an_emoji_does_not_end_the_queue(live: Any, way: str, by_wire: bool) -> None:
    prompt = Prompt()
    text = prompt.ref("PrimitiveString", value=HALF_EMOJI) if by_wire else HALF_EMOJI
    WAYS[way](prompt, text)
    with pytest.raises(PromptError) as refused:
        live.client.run(prompt)
    message = refused.value.message
    assert message.isprintable() or "\n" in message
    assert not any("\ud800" <= character <= "\udfff" for character in message)
    assert len(message.splitlines()[-1]) <= 600
    after = Prompt()
    _names(after, extra_names=f"Somebody {way} {by_wire}")
    live.client.run(after)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a photo of a person", "has no {} for the person"),
        ("a {} person" + " and more" * 20_000, "180,011 characters"),
        ("(" * 500 + "{}" + ")" * 500, "more than 100 parentheses"),
        ("a {} \0 person", "NUL"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused_when_queued(live: Any, text: str, said: str) -> None:
    prompt = Prompt()
    _encode(prompt, text)
    with pytest.raises(PromptError, match="Custom validation failed") as refused:
        live.client.run(prompt)
    assert said in refused.value.message


def test_an_eaten_place_says_who_may_have_eaten_it(live: Any) -> None:
    prompt = Prompt()
    _encode(prompt, prompt.ref("PrimitiveString", value="a photo of a  person"))
    with pytest.raises(PromptError, match="took it for a dynamic prompt: write %person% there instead"):
        live.client.run(prompt)
