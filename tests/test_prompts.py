"""Prompts with people: what stands for whom, and that ComfyUI reads it as `embedding:NAME`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.tiny_people import conditioning, person, with_embeddings

pytestmark = pytest.mark.usefixtures("text_without_a_page")


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("a photo of a {} person", "a photo of a embedding:alice person"),
        ("{} person", "embedding:alice person"),
        ("a photo of a ({}:1.2) person", "a photo of a (embedding:alice:1.2) person"),
        ("a photo of a ({} person:0.7), smiling", "a photo of a (embedding:alice person:0.7), smiling"),
        ("a portrait of {}, smiling", "a portrait of embedding:alice, smiling"),
        ("a {alice} person", "a embedding:alice person"),
        ("a {1} person and a {} person", "a embedding:alice person and a embedding:alice person"),
        ("a word " * 40 + "and a {} person", "a word " * 40 + "and a embedding:alice person"),
        ("portrait-{}-person", "portrait- embedding:alice -person"),
        ("portrait of {}: cinematic light", "portrait of embedding:alice : cinematic light"),
        ("({}: smiling:1.2)", "(embedding:alice : smiling:1.2)"),
        ("{}:", "embedding:alice :"),
        ("{}) x", "embedding:alice ) x"),
        ("({}) x", "(embedding:alice) x"),
        (r"\({}\) x", r"\( embedding:alice \) x"),
        ("a\t{}\tperson\n{}\nperson", "a embedding:alice person embedding:alice person"),
        ("{}{}", "embedding:alice embedding:alice"),
        ("a embedding:{} person, (embedding:{alice}:0.8)", "a embedding:alice person, (embedding:alice:0.8)"),
    ],
)
def test_a_place_becomes_comfyuis_embedding(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, tmp_path: Path, text: str, typed: str
) -> None:
    """A prompt with places is what ComfyUI reads as embedding."""
    alice = person(pack, "alice")
    pack.crossinit_core.save_learned_token(alice, tmp_path / "alice.safetensors")
    with_folder = tiny_clip.clone()
    with_folder.tokenizer = with_embeddings(tiny_clip, tmp_path)
    by_comfyui = conditioning(with_folder, typed)
    with torch.inference_mode():
        applied = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"alice": alice})
        prompt, used = pack.nodes.prompts.fill_prompt(text, [alice])
        encoder = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, used)
    assert torch.equal(conditioning(applied, typed), by_comfyui)
    assert torch.equal(conditioning(encoder, prompt), by_comfyui)
    with torch.inference_mode():
        ready = nodes["CrossInitEncodePrompt"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        by_node = ready.execute(tiny_clip, text, {"token0": alice}).result[0][0][0]
    assert torch.equal(by_node, by_comfyui)
    assert not torch.equal(by_comfyui, conditioning(tiny_clip, typed.replace("embedding:alice", "someone")))


def test_a_person_whom_the_tokenizer_leaves_out_is_an_error(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any
) -> None:
    """As under packs with a syntax of their own for embeddings."""
    other = tiny_clip.clone()
    other.tokenizer = with_embeddings(tiny_clip, Path())
    other.tokenizer.clip_h.embedding_identifier = "emb:"
    ready = nodes["CrossInitEncodePrompt"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with pytest.raises(ValueError, match=r"CLIP did not take alice out of the prompt 'a \{\} person'"):
        ready.execute(other, "a {} person", {"token0": person(pack, "alice")})


def test_a_learned_token_wins_over_a_file_of_the_same_name(pack: ModuleType, tiny_clip: Any, tmp_path: Path) -> None:
    old, new = person(pack, "alice", seed=1), person(pack, "alice", seed=2)
    pack.crossinit_core.save_learned_token(old, tmp_path / "alice.safetensors")
    clip = tiny_clip.clone()
    clip.tokenizer = with_embeddings(tiny_clip, tmp_path)
    applied = pack.nodes.host.tokens.clip_with_tokens(clip, {"alice": new})
    plain = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"alice": new})
    text = "a embedding:alice person"
    assert torch.equal(conditioning(applied, text), conditioning(plain, text))
    assert not torch.equal(conditioning(applied, text), conditioning(clip, text))


def test_applied_tokens_add_up(pack: ModuleType, tiny_clip: Any) -> None:
    """Applied tokens add up and leave the first CLIP alone."""
    apply = pack.nodes.host.tokens.clip_with_tokens
    alice, bob = person(pack, "alice", seed=1), person(pack, "bob", seed=2)
    before = conditioning(tiny_clip, "a embedding:alice person")
    both = apply(apply(tiny_clip, {"alice": alice}), {"bob": bob})
    text = "a embedding:alice person and a embedding:bob person"
    prompt, used = pack.nodes.prompts.fill_prompt("a {} person and a {} person", [alice, bob])
    assert torch.equal(conditioning(both, text), conditioning(apply(tiny_clip, used), prompt))
    assert torch.equal(conditioning(tiny_clip, "a embedding:alice person"), before)


def test_people_can_be_named_in_any_order(pack: ModuleType) -> None:
    alice, bob = person(pack, "alice"), person(pack, "bob")
    prompt, used = pack.nodes.prompts.fill_prompt("{bob} and {alice}, {2}", [alice, bob])
    assert prompt.split() == ["embedding:crossinit-2", "and", "embedding:crossinit-1", ",", "embedding:crossinit-2"]
    assert used == {"crossinit-1": alice, "crossinit-2": bob}


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("a photo", ["alice"], "has no {}"),
        ("a {} and a {} and a {}", ["alice", "bob"], "3 times {}, but there are 2 tokens"),
        ("a {} person", ["alice", "bob"], "1 times {}, but there are 2 tokens"),
        ("a {carol} person", ["alice", "bob"], "{carol} in the prompt is no token"),
        ("a {3} person", ["alice"], "{3} in the prompt is no token"),
        ("a {alice} person", ["alice", "alice"], "is the name of several tokens"),
        ("a {} person", [], "There is no learned token"),
    ],
)
def test_a_prompt_that_cannot_be_filled_says_why(pack: ModuleType, text: str, names: list[str], message: str) -> None:
    people = [person(pack, name) for name in names]
    with pytest.raises(ValueError) as caught:
        pack.nodes.prompts.fill_prompt(text, people)
    assert message in str(caught.value)


def test_other_braces_in_a_prompt_stay(pack: ModuleType) -> None:
    prompt, _ = pack.nodes.prompts.fill_prompt("a {} person, {red|blue} { } {a b}", [person(pack, "alice")])
    assert prompt == "a embedding:crossinit-1 person, {red|blue} { } {a b}"


def test_a_token_of_another_width_is_refused_with_both_widths(pack: ModuleType, tiny_clip: Any) -> None:
    with pytest.raises(ValueError, match=r"width 32 .*learned on width 768 \(SD 1.x\)"):
        pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"alice": person(pack, "alice", width=768)})
