"""Long prompts on the command line: nothing is dropped, and ComfyUI would read the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crossinit_core.backbone import Encoded
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.prompt_chunks import encode_prompt
from tests.tiny_people import with_embeddings
from tests.tiny_sdxl import tiny_sdxl_clip


class _Seen:
    """A real tokenizer, and vectors that are their ids: shows what the encoder gets."""

    def __init__(self, backbone: DiffusersBackbone) -> None:
        self.tokenize = backbone.tokenize
        self.bos, self.eos, self.pad, self.vocabulary_size = backbone.bos, backbone.eos, backbone.pad, 49408
        self.widths: tuple[int, ...] = (1,)
        self.pads: tuple[int, ...] = (backbone.pad,)

    def embed(self, token_ids: Tensor) -> Tensor:
        return token_ids[:, None].double()

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        return Encoded(embeddings, ends)


def _person(count: int) -> Tensor:
    return torch.arange(50000, 50000 + count, dtype=torch.float64)[:, None]


@pytest.fixture
def backbone(tiny_models: Path) -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps")


def _ids(backbone: DiffusersBackbone, *pieces: str | Tensor) -> list[list[int]]:
    return encode_prompt(_Seen(backbone), pieces).context.long().reshape(-1, 77).tolist()


def test_a_person_after_many_words_is_kept(backbone: DiffusersBackbone) -> None:
    words = "red " * 80
    first, second = _ids(backbone, words, _person(2), " on a beach")
    assert first[0] == second[0] == backbone.bos and first[-1] == backbone.eos
    assert second[1:9] == [*backbone.tokenize("red") * 5, 50000, 50001, *backbone.tokenize("on")]


def test_a_person_is_not_cut_in_two(backbone: DiffusersBackbone) -> None:
    first, second = _ids(backbone, "red " * 74, _person(2))
    assert 50000 not in first
    assert first[75:] == [backbone.eos, backbone.pad]
    assert second[1:4] == [50000, 50001, backbone.eos]


def test_75_vectors_and_words_are_all_there(backbone: DiffusersBackbone) -> None:
    ids = [token for chunk in _ids(backbone, "a photo of a ", _person(75), " person") for token in chunk]
    assert [token for token in ids if token >= 50000] == list(range(50000, 50075))
    assert backbone.tokenize("person")[0] in ids


def test_short_prompts_are_encoded_as_before(backbone: DiffusersBackbone) -> None:
    ids = backbone.tokenizer("a photo of a woman", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = backbone.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(encode_prompt(backbone, ["a photo of a woman"]).context, expected, atol=1e-5, rtol=1e-5)
    assert encode_prompt(backbone, []).context.shape == (1, 77, 32)


@pytest.mark.parametrize(
    ("before", "count", "after"),
    [
        ("a photo of a ", 2, " person"),
        ("red " * 74, 2, " on a beach"),
        ("red " * 80, 2, " person"),
        ("a ", 75, " b c d"),
    ],
)
def test_comfyui_encodes_it_the_same(
    tiny_comfy: Any, tiny_models: Path, backbone: DiffusersBackbone, tmp_path: Path, before: str, count: int, after: str
) -> None:
    """ComfyUI's own tokenizer and encoder, with the person as an embedding file."""
    vectors = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, tmp_path / "ann.safetensors")
    _, clip, _ = tiny_comfy(tiny_models / "tiny-eps")
    clip = clip.clone()
    tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip)
    folder, tokenizer.embedding_directory = tokenizer.embedding_directory, str(tmp_path)
    try:
        with torch.no_grad():
            ((expected, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(f"{before}embedding:ann{after}"))
    finally:
        tokenizer.embedding_directory = folder
    found = encode_prompt(backbone, [before, vectors, after])
    torch.testing.assert_close(found.context, expected.float().cpu(), atol=1e-5, rtol=1e-5)


# SDXL


@pytest.fixture(scope="module")
def xl(tiny_models: Path) -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(tiny_models / "tiny-xl")


@pytest.fixture(scope="module")
def xl_clip(pack: ModuleType, tiny_models: Path) -> Any:
    """ComfyUI's own CLIP of SDXL over the same weights."""
    with torch.inference_mode():
        return tiny_sdxl_clip(tiny_models / "tiny-xl")


@pytest.mark.parametrize(
    ("before", "count", "after"),
    [
        ("", 0, ""),
        ("a photo of a ", 2, " person"),
        ("red " * 74, 2, " on a beach"),
        ("red " * 80, 2, " person"),
        ("red " * 80 + "and a person of ", 8, " yellow" * 90),
        ("a ", 75, " b c d"),
    ],
    ids=["nothing", "short", "at the edge", "after it", "three chunks", "many vectors"],
)
def test_comfyui_encodes_it_the_same_on_sdxl(
    xl: DiffusersBackbone, xl_clip: Any, tmp_path: Path, before: str, count: int, after: str
) -> None:
    """Context and pooled output: that of the first chunk."""
    vectors = torch.randn(max(count, 1), sum(xl.widths), generator=torch.Generator().manual_seed(0)) / 10
    first, second = (part.contiguous() for part in vectors.split(xl.widths, dim=1))
    save_file({"clip_l": first, "clip_g": second}, tmp_path / "ann.safetensors")
    text = f"{before}embedding:ann{after}" if count else before + after
    with torch.inference_mode():
        tokens = with_embeddings(xl_clip, tmp_path).tokenize_with_weights(text)
        ((expected, more),) = xl_clip.encode_from_tokens_scheduled(tokens)
    found = encode_prompt(xl, [before, *([vectors] if count else []), after])
    torch.testing.assert_close(found.context, expected.float(), atol=1e-5, rtol=1e-5)
    assert found.pooled is not None
    torch.testing.assert_close(found.pooled, more["pooled_output"].float(), atol=1e-5, rtol=1e-5)
