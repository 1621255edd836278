"""Which tensors of a file are a token: every tool's layout is read, and what is not one whole token is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from crossinit_core import load_learned_token
from devtools.hostile.token_files import picture
from tests.ann import VECTORS

FIRST, SECOND = VECTORS[0].clone(), VECTORS[1].clone()
LORA = {"lora_unet_down.lora_up.weight": torch.ones(4, 4), "lora_unet_down.alpha": torch.tensor(1.0)}

READ: dict[str, dict[str, torch.Tensor]] = {
    "diffusers": {"<anna>": FIRST, "<anna>_1": SECOND},
    "diffusers without brackets": {"anna": FIRST, "anna_1": SECOND},
    "diffusers in rows": {"<anna>_1": VECTORS[1:].clone(), "<anna>": VECTORS[:1].clone()},
    "published": {"a_v1_v1": SECOND, "a_v1_v0": FIRST},
    "a bundle alone": {"bundle_emb.anna.clip_h": VECTORS},
    "a bundle of a dotted name": {"bundle_emb.anna.v1.5.clip_h": VECTORS},
    "a bundle beside a LoRA": {"bundle_emb.anna.string_to_param.*": VECTORS, **LORA},
    "a bundle of OneTrainer": {"bundle_emb.anna.clip_h": VECTORS, "bundle_emb.anna.clip_h_out": VECTORS + 1},
}


@pytest.mark.parametrize("zipped", [None, True, False], ids=["safetensors", "zip", "old pickle"])
@pytest.mark.parametrize("layout", READ)
def test_every_layout_gives_all_vectors(tmp_path: Path, layout: str, zipped: bool | None) -> None:
    path = tmp_path / "Ben.safetensors"
    if zipped is None:
        save_file({key: tensor.clone() for key, tensor in READ[layout].items()}, path)
    else:
        torch.save(READ[layout], path, _use_new_zipfile_serialization=zipped)
    token = load_learned_token(path)
    assert torch.equal(token.vectors, VECTORS)
    assert token.name == "Ben"


@pytest.mark.parametrize("key", ["anna_v2", "anna_v0", "v1", "_v0", "anna_1"])
def test_one_numbered_key_is_an_ordinary_name(tmp_path: Path, key: str) -> None:
    torch.save({key: FIRST}, tmp_path / "Ben.bin")
    token = load_learned_token(tmp_path / "Ben.bin")
    assert torch.equal(token.vectors, VECTORS[:1])
    assert token.name == "Ben"


@pytest.mark.parametrize(
    "content",
    [[{"<anna>": VECTORS}], [{"<anna>": FIRST}, {"<anna>_1": SECOND}], [{"*": VECTORS[:1]}, {"*": VECTORS[1:]}]],
)
def test_lists_of_dictionaries_are_read(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "Ben.pt")
    assert torch.equal(load_learned_token(tmp_path / "Ben.pt").vectors, VECTORS)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"anna_v0": FIRST, "anna_v2": SECOND}, "but 'anna_v1' is missing"),
        ({"anna_v1": FIRST, "anna_v2": SECOND}, "but 'anna_v0' is missing"),
        ({"<anna>": FIRST, "<anna>_2": SECOND}, "but '<anna>_1' is missing"),
        ({"<s1>": FIRST, "<s2>": SECOND}, "holds 2 tokens, '<s1>' and '<s2>'"),
        ({"a_v0": FIRST, "b_v1": SECOND}, "holds 2 tokens, 'a_v0' and 'b_v1'"),
        ({"bundle_emb.a.clip_h": FIRST, "bundle_emb.b.clip_h": SECOND}, "holds 2 tokens, 'a' and 'b'"),
        ({"bundle_emb.a.clip_g": FIRST}, "but 'bundle_emb.a.clip_l' is missing"),
        ({"emp_params_out": VECTORS}, "is an output embedding of OneTrainer"),
        (LORA, "is no token file: its keys are lora_unet_down.alpha"),
        ({"k" * 5000: FIRST}, "has a key of 5000 characters"),
        ({"a\u2028\n<b>": FIRST, "c": SECOND}, "holds 2 tokens, 'a??<b>' and 'c'"),
    ],
)
def test_what_is_not_one_token_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    path = tmp_path / "Ben.safetensors"
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    with pytest.raises(ValueError, match=r"^'Ben\.safetensors' ") as caught:
        load_learned_token(path)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_a_vector_inside_a_vocabulary_is_read_alone(tmp_path: Path) -> None:
    """The published code on a CPU saves a view, and with it the whole table: only the view's numbers are read."""
    table = torch.randn(3000, 1024)
    torch.save({"ann_v0": table[10], "ann_v1": table[2999]}, tmp_path / "Ben.bin")
    assert torch.equal(load_learned_token(tmp_path / "Ben.bin").vectors, table[[10, 2999]])


def _picture(path: Path, found: object) -> Path:
    path.write_bytes(picture(found))
    return path


def test_a_picture_of_automatic1111_is_read(tmp_path: Path) -> None:
    rows = VECTORS.tolist()
    found = {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": rows}}, "name": "x", "step": 5}
    token = load_learned_token(_picture(tmp_path / "ann.png", found))
    assert torch.equal(token.vectors, VECTORS) and token.name == "ann"


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0], [3.0]],
        [["a"]],
        [[None]],
        [[]],
        [],
        [[10**400]],
        [[float("nan")]],
        [[1e300]],
        5,
        [[[1.0]]],
        [[True]],
        {},
    ],
)
def test_a_broken_picture_gives_one_line(tmp_path: Path, rows: object) -> None:
    path = _picture(tmp_path / "ann.png", {"string_to_param": {"*": {"TORCHTENSOR": rows}}})
    with pytest.raises(ValueError, match=r"^'ann\.png'[ :]") as caught:
        load_learned_token(path)
    assert len(str(caught.value)) <= 600 and str(caught.value).isprintable()


def test_a_cut_or_changed_picture_gives_one_line(tmp_path: Path) -> None:
    found = {"string_to_param": {"*": {"TORCHTENSOR": VECTORS[:, :8].tolist()}}}
    whole = _picture(tmp_path / "ann.png", found).read_bytes()
    place = whole.index(b"sd-ti-embedding") + 60
    for content in (
        whole[:place],
        whole[:place] + b"A" + whole[place + 1 :] if whole[place] != 65 else whole[:place] + b"B" + whole[place + 1 :],
        whole[:8] + b"\xff\xff\xff\xfftEXtsd-ti-embedding\0" + bytes(50),
    ):
        (tmp_path / "ann.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"^'ann\.png'[ :]") as caught:
            load_learned_token(tmp_path / "ann.png")
        assert len(str(caught.value)) <= 600


def test_a_picture_without_an_embedding_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "ann.png")
    with pytest.raises(ValueError, match=r"is a picture \(PNG\), not a token file"):
        load_learned_token(tmp_path / "ann.png")
