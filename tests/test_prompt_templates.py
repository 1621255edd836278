"""Training prompts and prompt files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.prompts import TEMPLATES, load_prompts, token_ids_with_placeholders, training_prompts


def _ids(backbone: DiffusersBackbone, prompt: str, vectors: int = 2) -> list[int]:
    return token_ids_with_placeholders(backbone, prompt, vectors)


def test_the_templates_are_the_published_ones_in_number() -> None:
    assert len(TEMPLATES) == 81
    assert len(set(TEMPLATES)) == 57
    for word, count in (("photo", 42), ("illustration", 15), ("depiction", 15)):
        assert sum(word in template for template in TEMPLATES) == count
    assert sum("rendering" in template or "rendition" in template for template in TEMPLATES) == 9


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_the_published_training_drew_exactly_these_prompts(
    backbone: DiffusersBackbone, reference: Path, kind: str
) -> None:
    drawn = {tuple(ids) for ids in np.load(reference / f"trace-{kind}.npz")["input_ids"].reshape(-1, 77).tolist()}
    ours = {tuple(_ids(backbone, prompt)) for prompt in training_prompts()}
    assert len(ours) == 57
    assert drawn <= ours


def test_no_template_is_missing_from_the_published_training(backbone: DiffusersBackbone, reference: Path) -> None:
    traces = [np.load(reference / f"trace-{kind}.npz")["input_ids"].reshape(-1, 77) for kind in ("eps", "v")]
    drawn = {tuple(ids) for ids in np.concatenate(traces).tolist()}
    assert drawn == {tuple(_ids(backbone, prompt)) for prompt in training_prompts()}


def test_the_person_stands_in_each_prompt() -> None:
    prompts = training_prompts()
    assert len(prompts) == 81
    assert "a photo of my face of {} person" in prompts
    assert all(prompt.endswith("face of {} person") for prompt in prompts)
    assert training_prompts(["a {} on a wall"], "portrait of {}") == ("a portrait of {} on a wall",)


@pytest.mark.parametrize("vectors", [1, 2, 8])
def test_the_vectors_stand_between_the_words(backbone: DiffusersBackbone, vectors: int) -> None:
    ids = _ids(backbone, "a photo of a {} person", vectors)
    placeholders = list(range(49408, 49408 + vectors))
    before, after = backbone.tokenize("a photo of a"), backbone.tokenize("person")
    padding = [backbone.pad] * (77 - len(before) - len(after) - vectors - 2)
    assert ids == [backbone.bos, *before, *placeholders, *after, backbone.eos, *padding]


def test_the_person_alone_or_twice(backbone: DiffusersBackbone) -> None:
    assert _ids(backbone, "{}", 1)[:3] == [backbone.bos, 49408, backbone.eos]
    assert _ids(backbone, "{} and {}", 1).count(49408) == 2


def test_a_prompt_without_a_place_for_the_person(backbone: DiffusersBackbone) -> None:
    with pytest.raises(ValueError, match=r"'a photo' has no \{\} for the person"):
        _ids(backbone, "a photo")
    with pytest.raises(ValueError, match=r"exactly one \{\} for the person, but got: 'a photo'"):
        training_prompts(["a photo"])
    with pytest.raises(ValueError, match=r"exactly one \{\} .*'\{\} and \{\}'"):
        training_prompts(["a photo of a {}"], "{} and {}")
    with pytest.raises(ValueError, match="no training template"):
        training_prompts([])


def test_a_prompt_that_is_too_long(backbone: DiffusersBackbone) -> None:
    fits = " ".join(["photo"] * 73) + " {}"
    assert _ids(backbone, fits)[-1] == backbone.eos
    with pytest.raises(ValueError, match="takes 78 tokens with 2 learned vectors, but the text encoder reads 77"):
        _ids(backbone, "photo " + fits)


def test_a_prompt_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa photo of a {} person\r\n\r\n# styles\r\ncubism painting of a {} café\r\n".encode())
    assert load_prompts(path) == ("a photo of a {} person", "cubism painting of a {} café")


def test_a_prompt_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    with pytest.raises(FileNotFoundError, match=r"no prompt file at '.*prompts\.txt'"):
        load_prompts(path)
    path.write_bytes(b"# nothing\n\n")
    with pytest.raises(ValueError, match=r"'prompts\.txt' holds no prompt"):
        load_prompts(path)
    path.write_bytes("a {} in a café".encode("cp1252"))
    with pytest.raises(ValueError, match=r"'prompts\.txt' is not UTF-8"):
        load_prompts(path)
