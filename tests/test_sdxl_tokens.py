"""Files of SDXL's tokens: both text encoders' parts are written, read from every tool, and never taken for one another."""

from __future__ import annotations

import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from crossinit_core.tokens.token_files import FORMATS, SUFFIXES, files_of_token

L, G = torch.randn(2, 2, 1280, generator=torch.Generator().manual_seed(0)).unbind()
L = L[:, :768].contiguous()
BOTH = torch.cat([L, G], dim=1)
ANNA = LearnedToken(BOTH, "anna", "sdxl", {"crossinit.steps": "400"})
LORA = {"lora_unet_down.lora_up.weight": torch.ones(4, 4), "lora_unet_down.alpha": torch.tensor(1.0)}


def _is_anna(token: LearnedToken, name: str = "anna") -> bool:
    return (
        torch.equal(token.vectors, BOTH)
        and (token.name, token.base, token.widths) == (name, "sdxl", (768, 1280))
        and torch.equal(token.parts[0], L)
        and torch.equal(token.parts[1], G)
    )


# Written


@pytest.mark.parametrize("count", range(1, 9))
def test_the_file_holds_a_tensor_for_each_encoder(tmp_path: Path, count: int) -> None:
    vectors = torch.randn(count, 2048)
    path = save_learned_token(LearnedToken(vectors, "anna", "sdxl", ANNA.metadata), tmp_path / "anna.safetensors")
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"clip_l", "clip_g"}
        left, right = file.get_tensor("clip_l"), file.get_tensor("clip_g")
        assert (left.shape, right.shape) == ((count, 768), (count, 1280))
        assert left.dtype == right.dtype == torch.float32
        assert torch.equal(torch.cat([left, right], dim=1), vectors)
        assert file.metadata() == {"crossinit.steps": "400"}
    assert path.stat().st_size < count * 2048 * 4 + 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_saved_token_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    token = load_learned_token(save_learned_token(ANNA, tmp_path / f"anna{suffix}"))
    assert _is_anna(token)
    assert dict(token.metadata) == (dict(ANNA.metadata) if suffix == ".safetensors" else {})


def test_small_models_of_sdxls_structure_too(tmp_path: Path) -> None:
    token = LearnedToken(torch.randn(3, 80), "tiny", "width-32+48", {"crossinit.base": "width-32+48"}, widths=(32, 48))
    for suffix in SUFFIXES:
        back = load_learned_token(save_learned_token(token, tmp_path / f"tiny{suffix}"))
        assert torch.equal(back.vectors, token.vectors)
        assert (back.base, back.widths) == ("width-32+48", (32, 48))


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_holds_both_or_is_refused(tmp_path: Path, format: str) -> None:
    known = FORMATS[format]
    path = tmp_path / f"anna{known.suffix}"
    if known.sdxl_readers:
        assert _is_anna(load_learned_token(save_learned_token(ANNA, path, known.layout)))
        assert known.readers_of(ANNA.widths) == known.sdxl_readers
        return
    with pytest.raises(ValueError, match=r"'anna' is for two text encoders .*Choose 'safetensors'") as caught:
        save_learned_token(ANNA, path, known.layout)
    assert f"'{format}'" in str(caught.value) and len(str(caught.value)) < 600
    assert not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_comfyui_finds_each_encoders_vectors(pack: ModuleType, tmp_path: Path, suffix: str) -> None:
    from comfy.sd1_clip import load_embed

    save_learned_token(ANNA, tmp_path / f"anna{suffix}")
    assert torch.equal(load_embed("anna", [str(tmp_path)], 768, "clip_l"), L)
    assert torch.equal(load_embed("anna", [str(tmp_path)], 1280, "clip_g"), G)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_comfyuis_sdxl_tokenizer_reads_the_file(pack: ModuleType, tmp_path: Path, suffix: str) -> None:
    from comfy.sdxl_clip import SDXLTokenizer

    save_learned_token(ANNA, tmp_path / f"anna{suffix}")
    tokens = SDXLTokenizer(embedding_directory=[str(tmp_path)]).tokenize_with_weights(
        "a photo of embedding:anna person"
    )
    for key, part in (("l", L), ("g", G)):
        (section,) = tokens[key]
        found = [entry[0] for entry in section if isinstance(entry[0], torch.Tensor)]
        assert torch.equal(torch.stack(found), part)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_diffusers_takes_each_encoders_part(tiny_models: Path, tmp_path: Path, suffix: str) -> None:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        tiny_models / "tiny-xl", local_files_only=True, torch_dtype=torch.float32
    )
    token = LearnedToken(torch.randn(3, 192), "anna", "width-64+128", widths=(64, 128))
    path = save_learned_token(token, tmp_path / f"anna{suffix}")
    tensors = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    encoders = {
        "clip_l": (pipeline.text_encoder, pipeline.tokenizer),
        "clip_g": (pipeline.text_encoder_2, pipeline.tokenizer_2),
    }
    for (key, (encoder, tokenizer)), part in zip(encoders.items(), token.parts, strict=True):
        pipeline.load_textual_inversion(tensors[key], token="<anna>", text_encoder=encoder, tokenizer=tokenizer)
        ids = tokenizer.convert_tokens_to_ids(["<anna>", "<anna>_1", "<anna>_2"])
        assert torch.equal(encoder.get_input_embeddings().weight[ids].detach(), part)


# Read

READ: dict[str, dict[str, torch.Tensor]] = {
    "kohya": {"clip_l": L, "clip_g": G},
    "the other order": {"clip_g": G, "clip_l": L},
    "OneTrainer": {"clip_l": L, "clip_g": G, "clip_l_out": L + 1, "clip_g_out": G + 1},
    "OneTrainer, one output": {"clip_l": L, "clip_g": G, "clip_g_out": G + 1},
    "older diffusers": {"text_encoders_0": L, "text_encoders_1": G},
    "a bundle": {"bundle_emb.anna.clip_l": L, "bundle_emb.anna.clip_g": G},
    "a bundle beside a LoRA": {"bundle_emb.a.b.clip_g": G, "bundle_emb.a.b.clip_l": L, **LORA},
    "a bundle of OneTrainer": {
        **{f"bundle_emb.anna.{key}": part for key, part in (("clip_l", L), ("clip_g", G))},
        **{f"bundle_emb.anna.{key}_out": part + 1 for key, part in (("clip_l", L), ("clip_g", G))},
    },
}


@pytest.mark.parametrize("zipped", [None, True, False], ids=["safetensors", "zip", "old pickle"])
@pytest.mark.parametrize("layout", READ)
def test_every_tools_layout_gives_both_parts(tmp_path: Path, layout: str, zipped: bool | None) -> None:
    path = tmp_path / "anna.safetensors"
    if zipped is None:
        save_file({key: tensor.clone() for key, tensor in READ[layout].items()}, path)
    else:
        torch.save(READ[layout], path, _use_new_zipfile_serialization=zipped)
    assert _is_anna(load_learned_token(path))


@pytest.mark.parametrize(
    "content",
    [
        [{"clip_l": L, "clip_g": G}],
        [{"*": L}, {"*": G}],
        [{"*": G[:1]}, {"*": L}, {"*": G[1:]}],
        {"clip_l": L.double(), "clip_g": torch.nn.Parameter(G)},
    ],
)
def test_pickles_of_other_shapes_are_read(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "anna.pt")
    assert _is_anna(load_learned_token(tmp_path / "anna.pt"))


def test_half_precision_and_flat_vectors_are_read(tmp_path: Path) -> None:
    save_file({"clip_l": L[0].half(), "clip_g": G[:1].bfloat16()}, tmp_path / "anna.safetensors")
    token = load_learned_token(tmp_path / "anna.safetensors")
    assert torch.equal(token.vectors, torch.cat([L[:1].half().float(), G[:1].bfloat16().float()], dim=1))
    assert token.vectors.dtype == torch.float32


def test_parts_inside_vocabularies_are_read_alone(tmp_path: Path) -> None:
    left, right = torch.randn(3000, 768), torch.randn(3000, 1280)
    torch.save({"clip_l": left[10:12], "clip_g": right[10:12]}, tmp_path / "anna.pt")
    assert torch.equal(load_learned_token(tmp_path / "anna.pt").vectors, torch.cat([left, right], dim=1)[10:12])


# Two files, as diffusers' textual_inversion_sdxl.py and kunheek/dti write them


def _two_files(
    folder: Path, first: str, second: str, key: str = "<anna>", other: str = "", g: Any = G
) -> tuple[Path, Path]:
    save_file({key: L}, folder / first, {"format": "pt"})
    save_file({other or key: g}, folder / second, {"format": "pt"})
    return folder / first, folder / second


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("learned_embeds.safetensors", "learned_embeds_2.safetensors", "learned_embeds"),
        ("learned_embeds-steps-500.safetensors", "learned_embeds_2-steps-500.safetensors", "learned_embeds-steps-500"),
        (
            "learned_embeds-steps-9_dog.safetensors",
            "learned_embeds_2-steps-9_dog.safetensors",
            "learned_embeds-steps-9_dog",
        ),
        ("anna.safetensors", "anna_2.safetensors", "anna"),
    ],
)
def test_either_path_of_two_files_gives_the_token(tmp_path: Path, first: str, second: str, name: str) -> None:
    for path in _two_files(tmp_path, first, second):
        assert _is_anna(load_learned_token(path), name)
        assert load_learned_token(path, name="bob").name == "bob"
        assert set(files_of_token(path)) == {tmp_path / first, tmp_path / second}


def test_the_longest_name_has_no_neighbour(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 243}.safetensors"
    save_file({"<anna>": L}, path)
    assert load_learned_token(path).base == "sd1" and files_of_token(path) == (path,)


def test_two_pickles_and_small_models_too(tmp_path: Path) -> None:
    torch.save({"<anna>": torch.ones(2, 32)}, tmp_path / "learned_embeds.bin")
    torch.save({"<anna>": torch.zeros(2, 48)}, tmp_path / "learned_embeds_2.bin")
    token = load_learned_token(tmp_path / "learned_embeds_2.bin")
    assert token.widths == (32, 48) and torch.equal(token.vectors, torch.tensor([1.0] * 32 + [0.0] * 48).expand(2, -1))


def test_a_lone_768_wide_file_stays_sd_1(tmp_path: Path) -> None:
    for key in ("<anna>", "clip_l", "text_encoders_0", "bundle_emb.anna.clip_l"):
        save_file({key: L}, tmp_path / "learned_embeds.safetensors")
        token = load_learned_token(tmp_path / "learned_embeds.safetensors")
        assert (token.base, token.widths) == ("sd1", (768,)) and torch.equal(token.vectors, L)


@pytest.mark.parametrize(
    ("other", "tensor"),
    [
        ("<anna>", L + 1),
        ("<anna>", torch.ones(2, 1024)),
        ("<bob>", G),
        ("<bob>", torch.ones(3, 1280)),
        ("<anna>", torch.ones(3, 1280)),
    ],
)
def test_a_neighbour_of_its_own_is_left_alone(tmp_path: Path, other: str, tensor: torch.Tensor) -> None:
    first, _ = _two_files(tmp_path, "anna.safetensors", "anna_2.safetensors", other=other, g=tensor)
    token = load_learned_token(first)
    assert (token.base, token.name) == ("sd1", "anna") and torch.equal(token.vectors, L)


def test_a_neighbour_of_1280_columns_is_left_alone(tmp_path: Path) -> None:
    save_file({"emb_params": G}, tmp_path / "anna.safetensors")
    save_file({"emb_params": L}, tmp_path / "anna_2.safetensors")
    assert load_learned_token(tmp_path / "anna_2.safetensors").base == "sd1"
    with pytest.raises(ValueError, match="the other way round"):
        load_learned_token(tmp_path / "anna.safetensors")


def test_a_damaged_neighbour_is_left_alone(tmp_path: Path) -> None:
    first, second = _two_files(tmp_path, "anna.safetensors", "anna_2.safetensors")
    second.write_bytes(second.read_bytes()[:-4])
    assert load_learned_token(first).base == "sd1"
    first, second = _two_files(tmp_path, "learned_embeds.safetensors", "learned_embeds_2.safetensors")
    second.write_bytes(second.read_bytes()[:-4])
    with pytest.raises(
        ValueError, match=r"'learned_embeds\.safetensors' has another half .*_2\.safetensors' is damaged"
    ):
        load_learned_token(first)


def test_two_files_of_different_trainings_are_refused(tmp_path: Path) -> None:
    for path in _two_files(
        tmp_path, "learned_embeds.safetensors", "learned_embeds_2.safetensors", g=torch.ones(3, 1280)
    ):
        with pytest.raises(
            ValueError, match=r"'learned_embeds\.safetensors' holds 2 vectors and '.*_2\.safetensors' 3"
        ):
            load_learned_token(path)
    for path in _two_files(tmp_path, "learned_embeds_2.safetensors", "learned_embeds.safetensors"):
        with pytest.raises(ValueError, match=r"the other way round: '.*embeds\.safetensors' has width 1280 and .* 768"):
            load_learned_token(path)


def test_a_third_encoders_file_is_of_another_family(tmp_path: Path) -> None:
    """kunheek/dti writes it for SD 3.5, whose first two encoders are SDXL's."""
    paths = _two_files(tmp_path, "learned_embeds.safetensors", "learned_embeds_2.safetensors")
    save_file({"<anna>": torch.ones(2, 4096)}, tmp_path / "learned_embeds_3.safetensors")
    for path in paths:
        with pytest.raises(ValueError, match=r"another model family: 'learned_embeds_3\.safetensors' beside it"):
            load_learned_token(path)


# Refused


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"clip_g": G}, "one half of an SDXL token, 'clip_g', but 'clip_l' is missing"),
        ({"clip_g": G, "clip_g_out": G + 1}, "'clip_l' is missing"),
        ({"text_encoders_1": G}, "'text_encoders_0' is missing"),
        ({"bundle_emb.anna.clip_g": G, **LORA}, "'bundle_emb.anna.clip_l' is missing"),
        ({"clip_l": L, "clip_g_out": G}, "of the other only 'clip_g_out'"),
        ({"clip_l_out": L, "clip_g_out": G}, "is an output embedding of OneTrainer ('clip_l_out' and 'clip_g_out')"),
        ({"<anna>": G}, "one half of an SDXL token: vectors of width 1280"),
        ({"emb_params": G}, "Put the file of the first, 'thing_2.safetensors', beside it"),
        ({"clip_l": G, "clip_g": L}, "the wrong way round: 'clip_l' has width 1280 and 'clip_g' 768"),
        ({"clip_l": L, "clip_g": G[:1]}, "holds 2 vectors in 'clip_l' and 1 in 'clip_g'"),
        ({"clip_l": L, "clip_g": L + 1}, "'clip_l' has width 768 and 'clip_g' 768, but SDXL's have 768 + 1280"),
        ({"clip_l": torch.ones(2, 1024), "clip_g": G}, "'clip_l' has width 1024 and 'clip_g' 1280"),
        ({"clip_l": torch.ones(2, 48), "clip_g": torch.ones(2, 32)}, "'clip_l' has width 48 and 'clip_g' 32"),
        ({"clip_l": L, "clip_g": G, "t5xxl": torch.ones(2, 4096)}, "beside 'clip_l' and 'clip_g' it holds 't5xxl'"),
        ({"bundle_emb.a.clip_l": L, "bundle_emb.b.clip_g": G}, "holds 2 tokens, 'a' and 'b'"),
        ({"clip_l": L, "clip_g": G.clone().fill_(torch.inf)}, "not numbers"),
        ({"clip_l": L, "clip_g": torch.zeros(2, 1280, dtype=torch.long)}, "'clip_g' as I64"),
        ({"clip_l": L, "clip_g": torch.zeros(0, 1280)}, "shape (0, 1280)"),
        ({"clip_l": L, "clip_g": torch.zeros(1, 2, 1280)}, "shape (1, 2, 1280)"),
        ({"clip_l": torch.zeros(76, 768), "clip_g": torch.zeros(76, 1280)}, "1 to 75 vectors"),
        ({"clip_l": torch.zeros(1, 5000), "clip_g": torch.zeros(1, 6000)}, "width 8192 at most, but got 5000 + 6000"),
    ],
)
def test_halves_and_strangers_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    path = tmp_path / "thing.safetensors"
    for write in (save_file, torch.save):
        write({key: tensor.clone() for key, tensor in tensors.items()}, path)
        with pytest.raises(ValueError, match=r"^'thing\.safetensors'[: ]") as caught:
            load_learned_token(path)
        said = str(caught.value)
        assert reason in said or (write is torch.save and "I64" in reason and "'clip_g' as I64" in said)
        assert len(said) <= 600 and said.isprintable()


def test_nothing_is_read_if_one_part_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header may claim gigabytes for the second part: they are refused before the first is read."""
    from crossinit_core.tokens import containers

    read: list[str] = []
    monkeypatch.setattr(containers, "_numbers", lambda *_: read.append("numbers"))
    one = torch.zeros(1, 1)
    for name, second in {
        "stride 0": one.expand(2, 1280),
        "a view": torch.zeros(400, 2000)[::399, :1280],
        "whole numbers": torch.zeros(2, 1280, dtype=torch.long),
    }.items():
        torch.save({"clip_l": L, "clip_g": second}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"^'x\.pt' holds 'clip_g' as"):
            load_learned_token(tmp_path / "x.pt")
        assert not read, name


def test_sizes_of_gigabytes_are_refused_at_once(tmp_path: Path) -> None:
    header = (
        b'{"clip_l":{"dtype":"F32","shape":[2,768],"data_offsets":[0,6144]},'
        b'"clip_g":{"dtype":"F32","shape":[2,500000000],"data_offsets":[6144,4000006144]}}'
    )
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4_000_006_144)
    with pytest.raises(ValueError, match=r"'clip_g' 500000000, but SDXL's have"):
        load_learned_token(path)


def test_a_files_claim_of_a_base_does_not_count(tmp_path: Path) -> None:
    save_file({"<x>": torch.ones(2, 2048)}, tmp_path / "x.safetensors", {"crossinit.base": "sdxl"})
    token = load_learned_token(tmp_path / "x.safetensors")
    assert (token.base, token.widths) == ("width-2048", (2048,))
    with pytest.raises(ValueError, match=r"learned on width 2048 \(another family\)"):
        token.check_fits((768, 1280))
