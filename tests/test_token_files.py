"""Files of learned tokens: every format that other tools write, and files that cannot be used."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from crossinit_core.learned_token import check_token_name, suggest_token_name
from crossinit_core.token_files import SUFFIXES

VECTORS = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def token() -> LearnedToken:
    facts = {"crossinit.steps": "320", "crossinit.checkpoint": "sd21", "modelspec.title": "Zoë"}
    return LearnedToken(VECTORS, "ann", "sd2", facts)


class Touch:
    """A pickle that, where it is obeyed, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


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
    torch.save({f"ann_v{number}": vectors[number] for number in order}, tmp_path / "x.bin")
    token = load_learned_token(tmp_path / "x.bin")
    assert torch.equal(token.vectors, vectors)
    assert (token.name, token.base) == ("ann", "sd1")


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


@pytest.mark.parametrize("tool", ["kohya", "onetrainer", "comfyui", "diffusers", "published"])
def test_safetensors_of_other_tools_are_read(tmp_path: Path, tool: str) -> None:
    path = tmp_path / "ann.safetensors"
    save_file({key: value.clone() for key, value in FORMATS[tool].items()}, path)
    token = load_learned_token(path)
    assert torch.equal(token.vectors, VECTORS)
    assert (token.name, token.base) == ("ann", "sd2")


@pytest.mark.parametrize("content", [{"<ann>": VECTORS[0].clone()}, VECTORS[0].clone(), {"emb_params": VECTORS[0]}])
def test_a_single_vector_without_a_row_is_one_vector(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "ann.pt")
    assert torch.equal(load_learned_token(tmp_path / "ann.pt").vectors, VECTORS[:1])


def test_a_pickle_of_the_old_torch_format_is_read(tmp_path: Path) -> None:
    torch.save({"ann_v0": VECTORS[0], "ann_v1": VECTORS[1]}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load_learned_token(tmp_path / "x.bin").vectors, VECTORS)


def test_the_name_is_the_callers_else_the_files_own(tmp_path: Path) -> None:
    torch.save({"emb_params": VECTORS}, tmp_path / "My Face (1).pt")
    assert load_learned_token(tmp_path / "My Face (1).pt").name == "My-Face-1"
    assert load_learned_token(tmp_path / "My Face (1).pt", name="bob").name == "bob"


# What is written


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_saved_token_comes_back_as_it_was(tmp_path: Path, suffix: str, count: int) -> None:
    token = LearnedToken(torch.randn(count, 768), "Zoë-李", "sd1", {"crossinit.steps": "25", "note": "née Å"})
    path = save_learned_token(token, tmp_path / "new folder" / f"x{suffix}")
    back = load_learned_token(path)
    assert torch.equal(back.vectors, token.vectors)
    assert (back.name, back.base) == (token.name, "sd1")
    if suffix != ".bin":
        assert dict(back.metadata) == dict(token.metadata)


def test_the_safetensors_file_holds_one_tensor_and_text(tmp_path: Path, token: LearnedToken) -> None:
    with safe_open(save_learned_token(token, tmp_path / "x.safetensors"), framework="pt") as file:
        assert list(file.keys()) == ["<ann>"]
        assert file.get_tensor("<ann>").dtype == torch.float32
        assert torch.equal(file.get_tensor("<ann>"), VECTORS)
        assert file.metadata() == dict(token.metadata)


def test_the_files_are_small(tmp_path: Path) -> None:
    """A view must not drag the table that it is a part of into the file."""
    token = LearnedToken(torch.randn(5000, 1024)[10:12], "ann", "sd2")
    for suffix in SUFFIXES:
        assert save_learned_token(token, tmp_path / f"x{suffix}").stat().st_size < 16_000


def test_a1111_finds_what_it_looks_for(tmp_path: Path, token: LearnedToken) -> None:
    content = torch.load(save_learned_token(token, tmp_path / "x.pt"), weights_only=True)
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
def test_a_suffix_that_names_no_format_is_refused(tmp_path: Path, token: LearnedToken, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.safetensors, \.pt, \.bin"):
        save_learned_token(token, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, token: LearnedToken, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = save_learned_token(token, tmp_path / f"x{suffix}")
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
def test_others_may_read_a_saved_file_as_any_other(tmp_path: Path, token: LearnedToken, suffix: str) -> None:
    (tmp_path / "any").touch()
    path = save_learned_token(token, tmp_path / f"x{suffix}")
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


# What cannot be used


def _sdxl(path: Path) -> None:
    save_file({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, path)


def _unrelated(path: Path) -> None:
    save_file({"conv.weight": torch.zeros(2, 3), "conv.bias": torch.zeros(2)}, path)


def _nan(path: Path) -> None:
    save_file({"<x>": torch.full((2, 768), torch.nan)}, path)


def _picture(path: Path) -> None:
    save_file({"<x>": torch.zeros(3, 64, 64)}, path)


def _no_vectors(path: Path) -> None:
    save_file({"<x>": torch.zeros(0, 768)}, path)


def _no_width(path: Path) -> None:
    save_file({"<x>": torch.zeros(2, 0)}, path)


def _mixed_widths(path: Path) -> None:
    save_file({"x_v0": torch.zeros(768), "x_v1": torch.zeros(1024)}, path)


def _whole_table(path: Path) -> None:
    save_file({"<x>": torch.zeros(76, 8)}, path)


def _nothing(path: Path) -> None:
    save_file({}, path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_sdxl, "is an SDXL embedding"),
        (_unrelated, r"is no token file: its keys are conv\.bias, conv\.weight"),
        (_nan, "not numbers"),
        (_picture, r"tensors of shape \(3, 64, 64\)"),
        (_no_vectors, r"tensors of shape \(0, 768\)"),
        (_no_width, r"tensors of shape \(2, 0\)"),
        (_mixed_widths, r"\(768,\), \(1024,\)"),
        (_whole_table, r"1 to 75 vectors .* got \(76, 8\)"),
        (_nothing, "is no token file: its keys are none"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "thing.safetensors"
    write(path)
    with pytest.raises(ValueError, match=rf"'thing\.safetensors'.* {reason}"):
        load_learned_token(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([VECTORS], "holds a list"),
        ({"string_to_param": {}}, "holds 0 tensors"),
        ({"string_to_param": {"*": VECTORS, "+": VECTORS}}, "holds 2 tensors"),
        ({"string_to_param": 3}, "holds 0 tensors"),
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, "is no token file: its keys are epoch, optimizer"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    torch.save(content, tmp_path / "thing.pt")
    with pytest.raises(ValueError, match=rf"'thing\.pt'.* {reason}"):
        load_learned_token(tmp_path / "thing.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, token: LearnedToken, suffix: str) -> None:
    path = save_learned_token(token, tmp_path / f"x{suffix}")
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"'x\{suffix}' is damaged or no "):
            load_learned_token(path)


def test_an_old_pickle_that_was_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"<ann>": torch.ones(2, 16)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"'x\.pt' (is damaged or no token file|holds more than tensors)"):
            load_learned_token(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"Dear diary,\n", b"<html><body>Not found</body></html>", b"{}", b"\0" * 64])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_text_with_the_suffix_of_a_token_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"'x\{suffix}' is damaged or no ") as caught:
        load_learned_token(path)
    assert "weights_only" not in str(caught.value), "torch's advice to trust the file must not reach the user"


@pytest.mark.parametrize("plain", [True, False], ids=["plain pickle", "torch file"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_does_not_run(tmp_path: Path, plain: bool) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "x.pt"
    content = {"<ann>": VECTORS, "extra": Touch(marker)}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"'x\.pt' holds more than tensors.* was not opened"):
        load_learned_token(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if not plain else pickle.loads(path.read_bytes())
    assert marker.exists(), "the file of this test is harmless, so the test shows nothing"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="no token file at"):
            load_learned_token(path)


# Names and values


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
def test_a_name_that_breaks_prompts_or_paths_is_refused_with_one_that_does_not(name: str) -> None:
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


def test_the_longest_names_that_are_allowed_can_be_saved(tmp_path: Path) -> None:
    for name in (suggest_token_name("李" * 200), suggest_token_name("a" * 200)):
        path = save_learned_token(LearnedToken(VECTORS, name, "sd2"), tmp_path / f"{name}.safetensors")
        assert load_learned_token(path).name == name


def test_a_suggestion_stays_close_to_the_name() -> None:
    assert suggest_token_name("../My Face (1)") == "My-Face-1"
    assert suggest_token_name("embedding:x") == "embedding-x"
    assert suggest_token_name("Zoë") == "Zoë"


@pytest.mark.parametrize(
    "vectors",
    [torch.zeros(1024), torch.zeros(2, 3, 4), torch.zeros(0, 1024), [[0.0]], torch.full((1, 4), torch.inf)],
)
def test_vectors_that_are_none_are_refused(vectors: Any) -> None:
    with pytest.raises(ValueError, match=r"1 to 75 vectors of shape \(K, d\)|not numbers"):
        LearnedToken(vectors, "ann", "sd2")


def test_a_token_does_not_change_with_what_it_was_made_from() -> None:
    vectors, facts = torch.ones(1, 4), {"a": "1"}
    token = LearnedToken(vectors, "ann", "width-4", facts)
    vectors.zero_()
    facts["a"] = "2"
    assert token.vectors.tolist() == [[1, 1, 1, 1]]
    assert json.dumps(dict(token.metadata)) == '{"a": "1"}'
    with pytest.raises(TypeError):
        token.metadata["a"] = "3"  # type: ignore[index]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda token: pickle.loads(pickle.dumps(token))])
def test_a_token_can_be_copied_and_sent_to_another_process(copied: Callable[[LearnedToken], LearnedToken]) -> None:
    token = LearnedToken(VECTORS, "ann", "sd2", {"crossinit.steps": "3"})
    other = copied(token)
    assert torch.equal(other.vectors, VECTORS)
    assert (other.name, other.base, dict(other.metadata)) == ("ann", "sd2", {"crossinit.steps": "3"})


def test_a_token_says_which_checkpoint_it_needs() -> None:
    token = LearnedToken(VECTORS, "ann", "sd2")
    token.check_fits(1024)
    with pytest.raises(ValueError, match=r"width 768 \(SD 1\.x\), but the token 'ann' .* width 1024 \(SD 2\.x\)"):
        token.check_fits(768)
    assert token.renamed("bob").name == "bob"
    assert torch.equal(token.renamed("bob").vectors, VECTORS)
