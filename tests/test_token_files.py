"""Files of learned tokens: every format that other tools write, and what comes back of those that are written here."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from crossinit_core.tokens.token_files import SUFFIXES
from tests.ann import ANN, VECTORS

# What is read


@pytest.mark.parametrize("person", ["28017", "28021"])
def test_the_published_embeddings_load_with_both_vectors(reference: Path, person: str) -> None:
    path = reference / "learned-embeddings" / f"{person}.bin"
    published = torch.load(path, weights_only=True)
    token = load_learned_token(path)
    assert torch.equal(token.vectors, torch.stack([published[f"{person}_v0"], published[f"{person}_v1"]]))
    assert (token.name, token.base, token.width) == (person, "sd2", 1024)
    assert all(32.9 <= norm <= 34.6 for norm in token.vectors.norm(dim=1).tolist())


def test_the_order_of_numbered_keys_is_their_number(tmp_path: Path) -> None:
    vectors = torch.randn(12, 768)
    order = [10, 3, 0, 11, 1, 2, 9, 8, 4, 5, 7, 6]
    torch.save({f"ann_v{number}": vectors[number] for number in order}, tmp_path / "ben.bin")
    token = load_learned_token(tmp_path / "ben.bin")
    assert torch.equal(token.vectors, vectors)
    assert (token.name, token.base) == ("ben", "sd1")


FORMATS: dict[str, Any] = {
    "a1111": {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": VECTORS},
        "name": "ann",
        "step": 320,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    },
    "a1111-trained": {"string_to_param": {"*": torch.nn.Parameter(VECTORS.clone())}, "name": "ann"},
    "kohya": {"emb_params": VECTORS},
    "onetrainer": {"emp_params": VECTORS, "emp_params_out": VECTORS + 1},
    "comfyui": {"clip_h": VECTORS},
    "diffusers": {"<ann>": VECTORS},
    "diffusers-no-brackets": {"ann": VECTORS},
    "published": {"ann_v0": VECTORS[0], "ann_v1": VECTORS[1]},
    "ordered-dict": OrderedDict(ann_v0=VECTORS[0], ann_v1=VECTORS[1]),
    "bare-tensor": VECTORS,
    "half-precision": {"<ann>": VECTORS.half().float().half()},
}


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
@pytest.mark.parametrize("tool", FORMATS)
def test_pickles_of_other_tools_are_read(tmp_path: Path, tool: str, suffix: str) -> None:
    path = tmp_path / f"ann{suffix}"
    torch.save(FORMATS[tool], path)
    token = load_learned_token(path)
    expected = VECTORS.half().float() if tool == "half-precision" else VECTORS
    assert torch.equal(token.vectors, expected)
    assert token.vectors.dtype == torch.float32
    assert not token.vectors.requires_grad
    assert (token.name, token.base) == ("ann", "sd2")


@pytest.mark.parametrize("older", [False, True], ids=["torch of today", "torch before 1.12"])
def test_files_of_the_original_textual_inversion_are_read(tmp_path: Path, older: bool) -> None:
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS.clone())})
    if older:
        del parameters._keys  # kept in `_parameters` alone
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, tmp_path / "ann.pt")
    token = load_learned_token(tmp_path / "ann.pt")
    assert torch.equal(token.vectors, VECTORS)
    assert not token.vectors.requires_grad
    assert (token.name, token.base) == ("ann", "sd2")


@pytest.mark.parametrize("tool", ["kohya", "onetrainer", "comfyui", "diffusers", "published"])
def test_safetensors_of_other_tools_are_read(tmp_path: Path, tool: str) -> None:
    path = tmp_path / "ann.safetensors"
    save_file({key: value.clone() for key, value in FORMATS[tool].items()}, path)
    token = load_learned_token(path)
    assert torch.equal(token.vectors, VECTORS)
    assert (token.name, token.base) == ("ann", "sd2")


@pytest.mark.parametrize("content", [{"<ann>": VECTORS[0].clone()}, VECTORS[0].clone(), {"emb_params": VECTORS[0]}])
def test_a_flat_vector_is_one_row(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "ann.pt")
    assert torch.equal(load_learned_token(tmp_path / "ann.pt").vectors, VECTORS[:1])


def test_torchs_old_pickles_are_read(tmp_path: Path) -> None:
    torch.save({"ann_v0": VECTORS[0], "ann_v1": VECTORS[1]}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load_learned_token(tmp_path / "x.bin").vectors, VECTORS)


def test_where_the_name_comes_from(tmp_path: Path) -> None:
    """The caller's name first, then the file's own, as people see it; never the one inside."""
    torch.save({"string_to_param": {"*": VECTORS}, "name": "inside"}, tmp_path / "My Face (1).pt")
    assert load_learned_token(tmp_path / "My Face (1).pt").name == "My-Face-1"
    assert load_learned_token(tmp_path / "My Face (1).pt", name="bob").name == "bob"


# What is written


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_saved_token_comes_back_as_it_was(tmp_path: Path, suffix: str, count: int) -> None:
    token = LearnedToken(torch.randn(count, 768), "Zoë-李", "sd1", {"crossinit.steps": "25", "note": "née Å"})
    path = save_learned_token(token, tmp_path / "new folder" / f"Zoë-李{suffix}")
    back = load_learned_token(path)
    assert torch.equal(back.vectors, token.vectors)
    assert (back.name, back.base) == (token.name, "sd1")
    if suffix != ".bin":
        assert dict(back.metadata) == dict(token.metadata)


def test_the_safetensors_file_holds_one_tensor_and_text(tmp_path: Path) -> None:
    with safe_open(save_learned_token(ANN, tmp_path / "x.safetensors"), framework="pt") as file:
        assert list(file.keys()) == ["<ann>"]
        assert file.get_tensor("<ann>").dtype == torch.float32
        assert torch.equal(file.get_tensor("<ann>"), VECTORS)
        assert file.metadata() == dict(ANN.metadata)


def test_the_files_are_small(tmp_path: Path) -> None:
    """A view must not drag the table that it is a part of into the file."""
    token = LearnedToken(torch.randn(5000, 1024)[10:12], "ann", "sd2")
    for suffix in SUFFIXES:
        assert save_learned_token(token, tmp_path / f"x{suffix}").stat().st_size < 16_000


def test_a1111_finds_what_it_looks_for(tmp_path: Path) -> None:
    content = torch.load(save_learned_token(ANN, tmp_path / "x.pt"), weights_only=True)
    assert list(content["string_to_param"]) == ["*"]
    assert torch.equal(content["string_to_param"]["*"], VECTORS)
    assert (content["name"], content["step"], content["sd_checkpoint_name"]) == ("ann", 320, "sd21")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # the tiny model's scheduler is as old as the published code
def test_diffusers_reads_all_vectors(tiny_models: Path, tmp_path: Path, suffix: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_models / "tiny-eps", safety_checker=None, local_files_only=True
    )
    vectors = torch.randn(3, 32)
    path = save_learned_token(LearnedToken(vectors, "zoe-face", "width-32"), tmp_path / f"x{suffix}")
    word = "zoe-face" if suffix == ".pt" else "<zoe-face>"
    pipeline.load_textual_inversion(path)
    ids = pipeline.tokenizer.convert_tokens_to_ids([word, f"{word}_1", f"{word}_2"])
    assert ids == [49408, 49409, 49410]
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids].detach(), vectors)
    prompt = pipeline.maybe_convert_prompt(f"a photo of a {word} person", pipeline.tokenizer)
    assert [number for number in pipeline.tokenizer(prompt).input_ids if number >= 49408] == ids


def test_metadata_of_another_tool_does_not_stop_saving(tmp_path: Path) -> None:
    token = LearnedToken(VECTORS, "ann", "sd2", {"crossinit.steps": "many"})
    assert torch.equal(load_learned_token(save_learned_token(token, tmp_path / "x.pt")).vectors, VECTORS)
    torch.save({"string_to_param": {"*": VECTORS}, "name": "ann", "crossinit": "no json"}, tmp_path / "y.pt")
    assert torch.equal(load_learned_token(tmp_path / "y.pt").vectors, VECTORS)


@pytest.mark.parametrize("name", ["x.txt", "x", "x.safetensors.zip"])
def test_a_suffix_that_names_no_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.safetensors, \.pt, \.bin"):
        save_learned_token(ANN, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = save_learned_token(ANN, tmp_path / f"x{suffix}")
    before = path.read_bytes()

    def full(file: int) -> None:
        assert path.read_bytes() == before, "the new file is not known to be on the disk yet"
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_learned_token(LearnedToken(VECTORS + 1, "ann", "sd2"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_files_are_readable_by_others(tmp_path: Path, suffix: str) -> None:
    """Its permissions are those of any other file that is written."""
    (tmp_path / "any").touch()
    path = save_learned_token(ANN, tmp_path / f"x{suffix}")
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
