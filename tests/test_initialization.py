"""Where a learned token starts: from names, and from words."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from crossinit_core import (
    celebrity_mean,
    cross_initialize,
    cross_initialize_words,
    load_celebrity_names,
    lookup_words,
)
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.starts import PLAIN, Starts, start_from_names, start_from_words
from crossinit_core.tokens.metadata import INITIALIZATION, initialization_of

NAMES = ["Cher", "Angelina Jolie", "Arnold Schwarzenegger", "Björk Guðmundsdóttir"]


def _rows(backbone: DiffusersBackbone, text: str) -> torch.Tensor:
    return backbone.embed(torch.tensor(backbone.tokenize(text)))


def test_the_encoder_is_the_models_own(backbone: DiffusersBackbone) -> None:
    """It gives what the UNet was trained with."""
    ids = backbone.tokenizer("a photo of a person", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = backbone.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(backbone.last_states(backbone.embed(ids)), expected, atol=1e-5, rtol=0)


def test_each_place_has_its_mean(backbone: DiffusersBackbone) -> None:
    """The k-th vector is the mean over the names' k-th tokens."""
    rows = [_rows(backbone, name) for name in NAMES]
    mean = celebrity_mean(backbone, NAMES, 3)
    assert len(rows[0]) == 1, "a name of one token must be left out of the later places"
    for place in range(3):
        expected = torch.stack([row[place] for row in rows if len(row) > place]).mean(dim=0)
        torch.testing.assert_close(mean[place], expected)


def test_a_name_that_occurs_twice_counts_twice(backbone: DiffusersBackbone) -> None:
    cher, madonna = _rows(backbone, "Cher"), _rows(backbone, "Madonna")
    mean = celebrity_mean(backbone, ["Cher", "Madonna", "Cher"], 1)
    torch.testing.assert_close(mean, (2 * cher + madonna) / 3)
    assert not torch.equal(
        cross_initialize(backbone, ["Cher", "Madonna", "Cher"], 1), cross_initialize(backbone, ["Cher", "Madonna"], 1)
    )


def test_the_start_is_the_text_encoders_output(backbone: DiffusersBackbone) -> None:
    """For a single name, T(BOS name EOS ...) without BOS: what the encoder makes of the name itself."""
    ids = backbone.tokenizer("Angelina Jolie", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = backbone.text_encoder(ids).last_hidden_state[0, 1:3]
    v0 = cross_initialize(backbone, ["Angelina Jolie"], 2)
    assert v0.shape == (2, 32)
    assert v0.dtype == torch.float32
    torch.testing.assert_close(v0, expected, atol=1e-5, rtol=0)


def test_every_number_of_vectors_that_the_names_allow(backbone: DiffusersBackbone) -> None:
    names = load_celebrity_names().names
    longest = max(names, key=lambda name: len(backbone.tokenize(name)))
    most = min(8, len(backbone.tokenize(longest)))
    starts = [cross_initialize(backbone, names, count) for count in range(1, most + 1)]
    assert [len(v0) for v0 in starts] == list(range(1, most + 1))
    # Attention is causal, so more vectors leave the first ones as they were.
    torch.testing.assert_close(starts[-1][:2], starts[1], atol=1e-6, rtol=0)
    if most < 8:
        with pytest.raises(ValueError, match=rf"{most + 1} vectors were asked for, but the longest name, '"):
            cross_initialize(backbone, names, most + 1)


def test_more_vectors_than_any_name_has_tokens(backbone: DiffusersBackbone) -> None:
    with pytest.raises(
        ValueError, match=r"3 vectors were asked for, but the longest name, 'Angelina Jolie', has 2 tok"
    ):
        cross_initialize(backbone, ["Cher", "Angelina Jolie"], 3)


@pytest.mark.parametrize("vectors", [0, -1, 9])
def test_a_number_of_vectors_out_of_range(backbone: DiffusersBackbone, vectors: int) -> None:
    with pytest.raises(ValueError, match=rf"vectors is {vectors}, but must be from 1 to 8"):
        cross_initialize(backbone, NAMES, vectors)


@pytest.mark.parametrize("names", [[], (), ""])
def test_an_empty_list_of_names(backbone: DiffusersBackbone, names: list[str]) -> None:
    with pytest.raises(ValueError, match="no name to start from"):
        cross_initialize(backbone, names, 2)


def test_a_string_is_not_a_list(backbone: DiffusersBackbone) -> None:
    """A single name as a string is not a list of letters."""
    with pytest.raises(ValueError, match="Give a list"):
        cross_initialize(backbone, "Angelina Jolie", 2)


def test_names_longer_than_the_context(backbone: DiffusersBackbone) -> None:
    """What a name holds beyond the encoder's length does not matter."""
    long = " ".join(["photo"] * 75)
    torch.testing.assert_close(
        cross_initialize(backbone, [long + " of Cher and many more"], 8), cross_initialize(backbone, [long], 8)
    )


def test_the_padding_of_sd1_gives_the_same_start(backbone: DiffusersBackbone) -> None:
    sd1 = copy.copy(backbone)
    sd1.pad = sd1.eos
    assert sd1.pad != backbone.pad
    torch.testing.assert_close(cross_initialize(sd1, NAMES, 2), cross_initialize(backbone, NAMES, 2), atol=1e-6, rtol=0)


def test_words_give_one_vector_for_each_token(backbone: DiffusersBackbone) -> None:
    words = "a human face"
    v0 = cross_initialize_words(backbone, words)
    assert len(v0) == len(backbone.tokenize(words)) == 3
    torch.testing.assert_close(v0, cross_initialize(backbone, [words], 3), atol=1e-6, rtol=0)
    word = "Björk"
    assert len(cross_initialize_words(backbone, word)) == len(backbone.tokenize(word)) > 1


def test_the_plain_start_is_table_rows(backbone: DiffusersBackbone) -> None:
    """They are the rows of the words' tokens."""
    ids = backbone.tokenizer("human face", add_special_tokens=False).input_ids
    table = backbone.text_encoder.get_input_embeddings().weight
    assert torch.equal(lookup_words(backbone, "human face"), table[ids].detach())


@pytest.mark.parametrize("start", [cross_initialize_words, lookup_words])
def test_wrong_words(backbone: DiffusersBackbone, start: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="'human face' is 2 tokens long, but 3 vectors were asked for"):
        start(backbone, "human face", 3)
    with pytest.raises(ValueError, match=r"is 9 tokens long.*at most 8"):
        start(backbone, "a b c d e f g h i")
    for nothing in ("", "   "):
        with pytest.raises(ValueError, match="no word to start from"):
            start(backbone, nothing)


def test_each_method_has_its_start(backbone: DiffusersBackbone) -> None:
    """The direction starts at rows of the table, as published; Cross Initialization at what the encoder makes of them."""
    names = load_celebrity_names()
    start = start_from_names(backbone, names, 2)
    crossed, facts = start.of("published")
    assert torch.equal(crossed, cross_initialize(backbone, names.names, 2))
    assert facts[INITIALIZATION] == "cross initialization from names"
    rows, turned = start.of("direction")
    assert torch.equal(rows, celebrity_mean(backbone, names.names, 2))
    assert turned == {**facts, INITIALIZATION: "token rows from names"}

    start = start_from_words(backbone, "human face", states="context")
    assert torch.equal(start.of("published")[0], cross_initialize_words(backbone, "human face"))
    rows, turned = start.of("direction")
    assert torch.equal(rows, lookup_words(backbone, "human face"))
    assert initialization_of(turned) == "token rows from 'human face'"

    plain = start_from_names(backbone, names, 3, way=PLAIN)
    assert torch.equal(plain.vectors, celebrity_mean(backbone, names.names, 3))
    assert plain.facts[INITIALIZATION] == "plain textual inversion from names"
    alone = Starts(torch.ones(2, 4))
    assert alone.of("direction") == (alone.vectors, {}), "nothing else is known"
