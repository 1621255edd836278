"""Prompts with people: what stands for whom, and that ComfyUI reads it as `embedding:NAME`."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.tiny_page import hearing
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
        ("a Embedding: {} person, (EMBEDDING:%alice%:0.8)", "a embedding:alice person, (embedding:alice:0.8)"),
        ("a photo of a %person% person", "a photo of a embedding:alice person"),
        ("a photo of a {person}, (%1%:1.2)", "a photo of a embedding:alice, (embedding:alice:1.2)"),
        (r"a photo of a \{\} person", "a photo of a embedding:alice person"),
        ("50% wool, 50% silk, 20%-30% %alice%", "50% wool, 50% silk, 20%-30% embedding:alice"),
        ("{best quality}, {{soft light}}, {}", "{best quality}, {{soft light}}, embedding:alice"),
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
        ("a {1} person", ["2", "1"], "{1} in the prompt is the name of several tokens or another one's number"),
        ("a {2} person", ["2", "1"], "{2} in the prompt is the name of several tokens or another one's number"),
        ("a {Anna Smith} person", ["Anna-Smith", "Anna_Smith"], "is the name of several tokens"),
        ("a %carol% person", ["alice", "bob"], "%carol% in the prompt is no token"),
        ("a {Alice} person", ["alice", "bob"], "Did you mean {alice}?"),
        ("{Ana Smith} and {Bob}", ["Anna-Smith", "Bob"], "Did you mean {Anna-Smith}?"),
        ("a {alice|bob} person", ["alice", "bob"], "{alice|bob} in the prompt is a choice of dynamic prompts"),
        ("a { } person", ["alice"], "has no {}"),
        ("a {" + "9" * 5000 + "} person", ["alice"], "is no token"),
        ("a {} \ud83d", ["alice"], "half of a character"),
        ("a {} \0", ["alice"], "NUL"),
        ("a {} person", [], "There is no learned token"),
    ],
)
def test_a_prompt_that_cannot_be_filled_says_why(pack: ModuleType, text: str, names: list[str], message: str) -> None:
    people = [person(pack, name) for name in names]
    with pytest.raises(ValueError) as caught:
        pack.nodes.prompts.fill_prompt(text, people)
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 600 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "names", "people"),
    [
        ("{jos\u00e9}", ["jose\u0301", "bob"], [0]),
        ("{jose\u0301}", ["jos\u00e9", "bob"], [0]),
        ("{an\u200bna}", ["anna", "bob"], [0]),
        ("{anna}", ["an\ufeffna", "bob"], [0]),
        ("{Anna Smith} beside {Bob}", ["Anna-Smith", "Bob"], [0, 1]),
        ("{ Anna  Smith (1) } beside {Bob}", ["Anna-Smith-1", "Bob"], [0, 1]),
        ("%Anna Smith% beside %Bob%", ["Anna-Smith", "Bob"], [0, 1]),
        ("{../my face}", ["bob", "my-face"], [1]),
        ("{2}", ["anna", "2"], [1]),
        ("{2024}", ["2024", "bob"], [0]),
        ("{person}", ["anna", "person"], [1]),
        ("%person% and %person%", ["anna", "bob"], [0, 1]),
        ("{} and %person%", ["anna", "bob"], [0, 1]),
        ("{} and {}", ["anna", "anna"], [0, 1]),
        ("{1} and {2}", ["anna", "anna"], [0, 1]),
        ("{\u200b} and {\ufeff}", ["anna", "bob"], [0, 1]),
        ("\u674e\u96f7%\u674e\u96f7%\u674e\u96f7", ["\u674e\u96f7", "bob"], [0]),
    ],
)
def test_a_place_means_the_person_whose_name_it_is(
    pack: ModuleType, text: str, names: list[str], people: list[int]
) -> None:
    """Names are compared as people see them, and as files are called."""
    found: list[int] = []

    def note(index: int, place: re.Match[str]) -> str:
        found.append(index)
        return place[0]

    pack.crossinit_core.prompts.fill_places(text, names, note)
    assert found == people
    absent = [name for index, name in enumerate(names) if index not in people]
    assert list(pack.crossinit_core.prompts.absent_people(text, names)) == absent


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, text_without_a_page: None) -> list[str]:
    """What nodes write on themselves."""
    import server

    written: list[str] = []
    monkeypatch.setattr(server.PromptServer, "instance", hearing(written))
    return written


def _encode(nodes: dict[str, Any], clip: Any, text: str, *people: Any) -> torch.Tensor:
    ready = nodes["CrossInitEncodePrompt"].PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "1"}})
    with torch.inference_mode():
        tokens = {f"token{index}": one for index, one in enumerate(people)}
        return ready.execute(clip, text, tokens).result[0][0][0]


def test_a_connected_person_without_a_place_is_said(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, said: list[str]
) -> None:
    anna, bob, eve = (person(pack, name) for name in ("anna", "bob", "eve"))
    _encode(nodes, tiny_clip, "a {bob} person", anna, bob)
    assert said[-1] == "bob (2 vectors). anna is connected, but not in the prompt."
    _encode(nodes, tiny_clip, "a %bob% person", anna, bob, eve)
    assert said[-1] == "bob (2 vectors). anna and eve are connected, but not in the prompt."
    _encode(nodes, tiny_clip, "a {} person and a {} person", anna, bob)
    assert said[-1] == "anna (2 vectors), bob (2 vectors)"


@pytest.mark.parametrize(
    ("words", "vectors", "split"), [(70, 7, False), (70, 9, True), (0, 75, False), (1, 75, True), (75, 8, False)]
)
def test_a_person_in_two_sections_is_said(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, said: list[str], words: int, vectors: int, split: bool
) -> None:
    """ComfyUI moves a person of up to seven vectors to the next section as a whole, and cuts others in two."""
    text = "x " * words + "{}"
    out = _encode(nodes, tiny_clip, text, person(pack, "anna", vectors=vectors))
    assert out.shape[1] == (154 if words + vectors > 75 else 77)
    assert ("The vectors of anna are split between two sections" in said[-1]) is split


def test_a_lost_embedding_is_said_on_encode_prompt(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, said: list[str]
) -> None:
    _encode(nodes, tiny_clip, "a {} person, embedding:nobody,smiling embedding:", person(pack, "anna"))
    assert said[-1].startswith("anna (2 vectors). CLIP left out embedding:nobody,smiling, embedding:")


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e999"])
def test_a_weight_that_is_not_a_number_is_refused(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, weight: str
) -> None:
    with pytest.raises(ValueError, match="has a weight that is not a number"):
        _encode(nodes, tiny_clip, f"a ({{}}:{weight}) person", person(pack, "anna"))


@pytest.mark.parametrize("ending", ["", ".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("behind", [" person", ", person", "<tag> person"])
def test_an_applied_person_has_the_names_of_a_file(
    pack: ModuleType, tiny_clip: Any, tmp_path: Path, ending: str, behind: str
) -> None:
    anna = person(pack, "anna")
    pack.crossinit_core.save_learned_token(anna, tmp_path / f"anna{ending or '.safetensors'}")
    clip = tiny_clip.clone()
    clip.tokenizer = with_embeddings(tiny_clip, tmp_path)
    text = f"a embedding:anna{ending}{behind}"
    applied = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"anna": anna})
    assert torch.equal(conditioning(applied, text), conditioning(clip, text))
    assert not torch.equal(conditioning(applied, text), conditioning(tiny_clip, text))


def _apply(nodes: dict[str, Any], clip: Any, token: Any, name: str = "") -> Any:
    ready = nodes["CrossInitApply"].PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "1"}})
    return ready.execute(clip, token, name).result[0]


def test_what_follows_an_applied_name_without_a_space_is_said(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI says it in its log alone. The note goes when a later run reads the name."""
    runs = ["1"]
    monkeypatch.setattr(pack.nodes.prompts, "current_run", lambda: runs[-1])
    clip = _apply(nodes, tiny_clip, person(pack, "anna"))
    conditioning(clip, "embedding:anna person")
    conditioning(clip, "embedding:annabelle, embedding:other")
    assert said == ["Write embedding:anna person in your prompts."]
    for lost in ("anna,smiling", "anna.", "Anna"):
        conditioning(clip, f"a embedding:{lost} person")
        assert f"embedding:{lost}" in said[-1] and "CLIP left out" in said[-1]
    conditioning(clip, "embedding:anna person")
    assert "CLIP left out" in said[-1]
    runs.append("2")
    conditioning(clip, "embedding:anna person")
    assert said[-1] == "Write embedding:anna person in your prompts."


def test_two_people_applied_under_one_name_are_said(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, said: list[str]
) -> None:
    anna, bob = person(pack, "anna", seed=1), person(pack, "bob", seed=2)
    clip = _apply(nodes, tiny_clip, anna, "face")
    _apply(nodes, clip, anna, "face")
    assert said[-1] == "Write embedding:face person in your prompts."
    both = _apply(nodes, clip, bob, "face")
    assert "no longer the one whom a node before this one applied" in said[-1]
    only = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"face": bob})
    assert torch.equal(conditioning(both, "embedding:face"), conditioning(only, "embedding:face"))


def test_a_prompt_without_a_place_is_refused_when_queued(nodes: dict[str, Any]) -> None:
    node = nodes["CrossInitEncodePrompt"]
    wires = {"clip": "CLIP", "tokens.token0": "LEARNED_TOKEN"}
    assert "has no {} for the person" in node.validate_inputs(wires, "a photo of a person")
    assert node.validate_inputs(wires, "a photo of a %anna%") is True
    assert node.validate_inputs({**wires, "text": "STRING"}) is True
    assert "No learned token is connected" in node.validate_inputs({"clip": "CLIP"}, "a photo of a {}")


def test_other_braces_in_a_prompt_stay(pack: ModuleType) -> None:
    prompt, _ = pack.nodes.prompts.fill_prompt("a {} person, {red|blue} { } {a b}", [person(pack, "alice")])
    assert prompt == "a embedding:crossinit-1 person, {red|blue} { } {a b}"


def test_a_token_of_another_width_is_refused_with_both_widths(pack: ModuleType, tiny_clip: Any) -> None:
    with pytest.raises(ValueError, match=r"width 32 .*learned on width 768 \(SD 1.x\)"):
        pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"alice": person(pack, "alice", widths=(768,))})


def test_the_name_of_the_file_is_the_person(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the person is called on the way: by Learn Face, by a Save in this graph, or by a file that is there."""
    import folder_paths

    extensions = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], extensions))
    alice, bob = person(pack, "my-face", seed=1), person(pack, "bob", seed=2)
    pack.crossinit_core.save_learned_token(alice, tmp_path / "in-a-file.safetensors")
    pack.crossinit_core.save_learned_token(person(pack, "x", seed=3), tmp_path / "stranger.safetensors")
    graph = {
        "1": {"class_type": "CrossInitLearn", "inputs": {}},
        "2": {"class_type": "CrossInitSave", "inputs": {"token": ["1", 0], "name": "Anna Smith"}},
        "3": {"class_type": "CrossInitSave", "inputs": {"token": ["9", 0], "name": "carol"}},
        "5": {"class_type": "CrossInitEncodePrompt", "inputs": {"tokens.token0": ["1", 0], "tokens.token1": ["7", 0]}},
    }
    node = nodes["CrossInitEncodePrompt"].PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "5", "PROMPT": graph}})
    tokens = {"token0": alice, "token1": bob}

    def encoded(text: str) -> torch.Tensor:
        return node.execute(tiny_clip, text, tokens).result[0][0][0]

    meant = encoded("a {my-face} person and {bob}")
    for name in ("Anna-Smith", "Anna Smith", "in-a-file", "learned-face"):
        assert torch.equal(encoded(f"a {{{name}}} person and {{bob}}"), meant), name
    assert torch.equal(encoded("a %in-a-file% person and {bob}"), meant)
    for name in ("carol", "stranger"):
        with pytest.raises(ValueError, match=f"{name}.* no token that is there"):
            encoded(f"a {{{name}}} person and {{bob}}")
