"""Learned tokens: their names, values that cannot be vectors, and the keys of their metadata."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from crossinit_core.tokens.learned_token import check_token_name, numbered, suggest_token_name
from crossinit_core.tokens.token_files import SUFFIXES
from tests.ann import VECTORS

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "../x",
        "a/b",
        "a\\b",
        "my face",
        "(ann)",
        "<ann>",
        "{ann}",
        "ann:1.2",
        "embedding:x",
        "a,b",
        "a\tb",
        "a\0b",
        "a\x7fb",
        "CON",
        "nul.txt",
        "com1",
        ".hidden",
        "ann.",
        "...",
        "???",
        "a" * 101,
        "a" * 99 + "." + "b",
        "李" * 90,
        "face\ud800",
    ],
)
def test_unusable_names_are_refused(name: str) -> None:
    """The message suggests a name that works in prompts and paths."""
    with pytest.raises(ValueError, match=r"The token name '(.|\n)*for example '"):
        LearnedToken(VECTORS, name, "sd2")
    assert check_token_name(suggest_token_name(name)) == suggest_token_name(name)
    with pytest.raises(ValueError, match=r"for example '") as caught:
        check_token_name(name)
    assert f"for example '{suggest_token_name(name)}'" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["ann", "Zoë", "李小龍", "Ann-Lee_2", "v1.5", "28017", "Николай", "a" * 100, "console"]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_of_every_language_can_be_saved(tmp_path: Path, name: str, suffix: str) -> None:
    path = save_learned_token(LearnedToken(VECTORS, name, "sd2"), tmp_path / f"{name}{suffix}")
    assert load_learned_token(path).name == name


def test_the_longest_names_can_be_saved(tmp_path: Path) -> None:
    for name in (suggest_token_name("李" * 200), suggest_token_name("a" * 200)):
        path = save_learned_token(LearnedToken(VECTORS, name, "sd2"), tmp_path / f"{name}.safetensors")
        assert load_learned_token(path).name == name


def test_a_suggestion_stays_close_to_the_name() -> None:
    assert suggest_token_name("../My Face (1)") == "My-Face-1"
    assert suggest_token_name("embedding:x") == "embedding-x"
    assert suggest_token_name("Zoë") == "Zoë"


def test_names_that_look_alike_are_one() -> None:
    """Composed or not, with format characters or without, with a file's suffix or without."""
    for name in (
        "jos\u00e9",
        "jose\u0301",
        "jos\u00e9\u200b",
        "\ufeffjos\u00e9",
        "jos\u00e9.safetensors",
        "jos\u00e9.PT.bin",
    ):
        assert (
            LearnedToken(VECTORS, name, "sd2").name == check_token_name(name) == suggest_token_name(name) == "jos\u00e9"
        )


def test_a_number_fits_behind_every_name() -> None:
    for name in ("ann", "a" * 100, "\u674e" * 66, "a" * 97 + ".b"):
        for number in (2, 31, 1000):
            assert check_token_name(numbered(name, number)) == numbered(name, number)
            assert numbered(name, number).endswith(f"-{number}")
    assert numbered("ann", 2) == "ann-2"


def test_the_message_about_a_huge_name_is_short() -> None:
    with pytest.raises(ValueError, match="5000000 characters long") as caught:
        check_token_name("a\n" * 2_500_000)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "vectors",
    [torch.zeros(1024), torch.zeros(2, 3, 4), torch.zeros(0, 1024), [[0.0]], torch.full((1, 4), torch.inf)],
)
def test_vectors_that_are_none_are_refused(vectors: Any) -> None:
    with pytest.raises(ValueError, match=r"1 to 75 vectors of shape \(K, d\)|not numbers"):
        LearnedToken(vectors, "ann", "sd2")


def test_a_token_keeps_its_own_values() -> None:
    """It does not change with the tensor and the metadata that it was made from."""
    vectors, facts = torch.ones(1, 4), {"a": "1"}
    token = LearnedToken(vectors, "ann", "width-4", facts)
    vectors.zero_()
    facts["a"] = "2"
    assert token.vectors.tolist() == [[1, 1, 1, 1]]
    assert json.dumps(dict(token.metadata)) == '{"a": "1"}'
    with pytest.raises(TypeError):
        token.metadata["a"] = "3"  # type: ignore[index]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda token: pickle.loads(pickle.dumps(token))])
def test_a_token_can_be_copied_and_pickled(copied: Callable[[LearnedToken], LearnedToken]) -> None:
    token = LearnedToken(VECTORS, "ann", "sd2", {"crossinit.steps": "3"})
    other = copied(token)
    assert torch.equal(other.vectors, VECTORS)
    assert (other.name, other.base, dict(other.metadata)) == ("ann", "sd2", {"crossinit.steps": "3"})


def test_a_token_says_which_checkpoint_it_needs() -> None:
    token = LearnedToken(VECTORS, "ann", "sd2")
    token.check_fits((1024,))
    with pytest.raises(ValueError, match=r"width 768 \(SD 1\.x\), but the token 'ann' .* width 1024 \(SD 2\.x\)"):
        token.check_fits((768,))
    assert token.renamed("bob").name == "bob"
    assert torch.equal(token.renamed("bob").vectors, VECTORS)


def test_metadata_keys_stand_in_one_file() -> None:
    """Code that writes or reads a key imports it from `tokens/metadata.py`."""
    key = re.compile(r"(crossinit|modelspec)\.[a-z_0-9]+")
    owner = REPOSITORY / "crossinit_core" / "tokens" / "metadata.py"
    files = [*(REPOSITORY / "crossinit_core").rglob("*.py"), *(REPOSITORY / "nodes").rglob("*.py")]
    spelled = {
        f"{file.relative_to(REPOSITORY).as_posix()}: {node.value}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if file != owner
        and isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and key.fullmatch(node.value)
    }
    events_of_the_page = {
        "nodes/errors.py: crossinit.error",
        "nodes/host/page.py: crossinit.text",
        "nodes/host/page.py: crossinit.queued",
    }
    assert spelled == events_of_the_page
