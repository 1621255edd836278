"""The nodes that save and load learned tokens: names, folders, who is somebody else, and when a file is read again."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from crossinit_core.tokens.layouts import FORMATS
from tests.tiny_page import hearing
from tests.tiny_people import conditioning, person, with_embeddings
from tests.tiny_sdxl import tiny_sdxl_clip

pytestmark = pytest.mark.usefixtures("text_without_a_page")


@pytest.mark.parametrize("name", ["../alice", "my face", "a[b]", ".pt", "embedding:alice", "a/b", "CON"])
def test_a_name_that_breaks_out_is_refused(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A name that would leave the folder or break a prompt is refused."""
    _use_folder(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="The token name"):
        nodes["CrossInitSave"].execute(person(pack, "alice"), name)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("typed", "file"),
    [("", "alice"), ("bob", "bob"), (" bob.safetensors ", "bob"), ("bob.PT", "bob"), ("bob.v2", "bob.v2")],
)
def test_a_typed_name_has_no_ending(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, file: str
) -> None:
    """An ending would make a later person of that name look like a file of this one; no name is the person's own."""
    _use_folder(monkeypatch, tmp_path)
    text, saved = (
        nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(person(pack, "alice"), typed).result
    )
    assert text == f"embedding:{file} person" and saved.name == file
    assert [path.name for path in tmp_path.iterdir()] == [f"{file}.safetensors"]


def test_folders_that_link_in_circles_end(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two links back to the top make 2^40 paths of one folder."""
    _use_folder(monkeypatch, tmp_path)
    (tmp_path / "people").mkdir()
    try:
        for link in ("again", "and-again"):
            (tmp_path / "people" / link).symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    pack.crossinit_core.save_learned_token(person(pack, "x", seed=1), tmp_path / "people" / "alice.safetensors")
    assert node.execute(person(pack, "x", seed=2), "alice").result[0] == "embedding:alice-2 person"


def test_a_full_embeddings_folder_loses_nobody(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place goes away while the person is learned: the node says where the token is instead."""
    import folder_paths

    _use_folder(monkeypatch, tmp_path / "embeddings")
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    (tmp_path / "embeddings").write_text("not a folder any more")
    alice = person(pack, "alice")
    with pytest.raises(RuntimeError, match="Nothing is lost") as caught:
        nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(alice, "")
    kept = tmp_path / "output" / "crossinit" / "tokens" / "alice.safetensors"
    assert str(kept) in str(caught.value)
    assert torch.equal(pack.crossinit_core.load_learned_token(kept).vectors, alice.vectors)


def test_a_place_that_cannot_be_written_is_refused_when_queued(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_folder(monkeypatch, tmp_path / "embeddings")
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    assert node.validate_inputs(name="alice") is True and not (tmp_path / "embeddings").exists()
    (tmp_path / "embeddings").write_text("not a folder any more")
    assert "embeddings folder" in node.validate_inputs(name="alice")


def test_saving_never_overwrites_somebody_else(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_folder(monkeypatch, tmp_path)
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    alice, bob = person(pack, "x", seed=1), person(pack, "x", seed=2)

    def save(token: Any, if_exists: str = "add a number") -> str:
        return node.execute(token, "face", if_exists).result[0]

    assert save(alice) == "embedding:face person"
    assert save(bob) == "embedding:face-2 person"
    assert save(alice) == "embedding:face person"
    assert save(bob) == "embedding:face-2 person"
    with pytest.raises(ValueError, match="already exists"):
        save(bob, "stop with an error")
    load = pack.crossinit_core.load_learned_token
    assert torch.equal(load(tmp_path / "face.safetensors").vectors, alice.vectors)
    save(bob, "replace it")
    assert torch.equal(load(tmp_path / "face.safetensors").vectors, bob.vectors)


@pytest.mark.parametrize("there", ["face.safetensors", "face.pt", "face.bin", "people/face.safetensors", "people/face"])
def test_the_text_for_a_prompt_never_means_somebody_else(
    pack: ModuleType,
    nodes: dict[str, Any],
    tiny_clip: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: str,
) -> None:
    """ComfyUI looks through all folders, and takes the first of several endings."""
    _use_folder(monkeypatch, tmp_path)
    said = _said(monkeypatch)
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "1"}})
    anna, bob = person(pack, "x", seed=1), person(pack, "x", seed=2)
    path = tmp_path / there
    pack.crossinit_core.save_learned_token(anna, path.with_suffix(path.suffix or ".bin")).rename(path)

    def save(token: Any, if_exists: str, format: str = "bin") -> torch.Tensor:
        text = node.execute(token, "face", if_exists, format).result[0]
        with_folder = tiny_clip.clone()
        with_folder.tokenizer = with_embeddings(tiny_clip, tmp_path)
        return conditioning(with_folder, text)

    def meant(token: Any) -> torch.Tensor:
        applied = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"somebody": token})
        return conditioning(applied, "embedding:somebody person")

    with pytest.raises(ValueError, match=f"'{there}' already exists"):
        save(bob, "stop with an error")
    assert torch.equal(save(bob, "add a number"), meant(bob)) and (tmp_path / "face-2.bin").is_file()
    assert torch.equal(save(anna, "add a number"), meant(anna)) and not (tmp_path / "face-3.bin").is_file()
    assert "somebody else" not in said[-1]
    save(bob, "replace it", "safetensors")
    beside = ", ".join(sorted({"face.bin", there} - {"face.safetensors"}))
    assert said[-1].endswith(f"somebody else under that name, whom a prompt may mean: rename or delete {beside}.")


def _pickle(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def _bomb(path: Path) -> None:
    torch.save({"<face>": torch.zeros(2, 32)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(50_000_000) if name.endswith("/data/0") else content)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"somebody")
    path.chmod(0)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "photo.png").write_bytes(b"somebody")


NEIGHBOURS: dict[str, Callable[[Path], object]] = {
    "the original textual inversion": _pickle(
        {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.ones(2, 32))})}
    ),
    "a bare tensor": _pickle(torch.ones(2, 32)),
    "a list": _pickle([{"<face>": torch.ones(2, 32)}]),
    "a folder": Path.mkdir,
    "a full folder": _full_folder,
    "a pipe": lambda path: os.mkfifo(path),
    "a dead link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "an unreadable file": _unreadable,
    "a zip bomb": _bomb,
    "a huge header": lambda path: path.write_bytes(struct.pack("<Q", 2**40) + b"{"),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders, and lets few people make links")
@pytest.mark.parametrize("if_exists", ["add a number", "replace it", "stop with an error"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_nothing_in_the_folder_stops_a_save(
    pack: ModuleType,
    nodes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    neighbour: str,
    suffix: str,
    if_exists: str,
) -> None:
    """Under the very name, or beside it with another ending."""
    _use_folder(monkeypatch, tmp_path)
    path = tmp_path / f"face{suffix}"
    NEIGHBOURS[neighbour](path)
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    alice = person(pack, "x")
    if if_exists == "stop with an error" and (suffix == ".safetensors" or path.is_file()):
        with pytest.raises(ValueError, match=f"'face{suffix}' already exists"):
            node.execute(alice, "face", if_exists)
        assert [there.name for there in tmp_path.iterdir()] == [path.name]
        return
    name = node.execute(alice, "face", if_exists).result[1].name
    saved = tmp_path / f"{name}.safetensors"
    assert torch.equal(pack.crossinit_core.load_learned_token(saved).vectors, alice.vectors)
    if if_exists == "replace it":
        assert name == ("face-2" if path.is_dir() and path == tmp_path / "face.safetensors" else "face")
    elif suffix == ".safetensors" or path.is_file():
        assert name == "face-2"
    assert path == saved or os.path.lexists(path)


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_loaded_again(
    pack: ModuleType,
    nodes: dict[str, Any],
    tiny_clip: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
) -> None:
    """By Load, and, if it is said to be ComfyUI's, by a prompt with all vectors."""
    _use_folder(monkeypatch, tmp_path)
    alice = person(pack, "alice", vectors=3)
    text, _ = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(alice, "", format=format).result
    file = f"alice{FORMATS[format].suffix}"
    loaded = nodes["CrossInitLoad"].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(file).result[0]
    assert torch.equal(loaded.vectors, alice.vectors) and loaded.name == "alice"
    clip = tiny_clip.clone()
    clip.tokenizer = with_embeddings(tiny_clip, tmp_path)
    applied = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {"somebody": alice})
    same = torch.equal(conditioning(clip, text), conditioning(applied, "embedding:somebody person"))
    assert same == ("ComfyUI" in FORMATS[format].readers)


@pytest.fixture(scope="module")
def sdxl_clip(pack: ModuleType, tiny_models: Path) -> Any:
    """A tiny CLIP of SDXL, of widths 64 and 128."""
    with torch.inference_mode():
        return tiny_sdxl_clip(tiny_models / "tiny-xl")


SDXL_WIDTHS = (64, 128)


@pytest.mark.parametrize("format", [name for name, one in FORMATS.items() if one.sdxl_readers])
def test_a_format_for_sdxl_is_loaded_again(
    pack: ModuleType,
    nodes: dict[str, Any],
    sdxl_clip: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
) -> None:
    """By Load, by a prompt with all vectors in both text encoders, and as the same person by the next save."""
    _use_folder(monkeypatch, tmp_path)
    alice = person(pack, "alice", vectors=3, widths=SDXL_WIDTHS)
    save = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    text, _ = save.execute(alice, "", format=format).result
    loaded = nodes["CrossInitLoad"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    token = loaded.execute(f"alice{FORMATS[format].suffix}").result[0]
    assert torch.equal(token.vectors, alice.vectors) and token.widths == SDXL_WIDTHS and token.name == "alice"
    reader = sdxl_clip.clone()
    reader.tokenizer = with_embeddings(sdxl_clip, tmp_path)
    applied = pack.nodes.host.tokens.clip_with_tokens(sdxl_clip, {"somebody": alice})
    with torch.inference_mode():
        by_file, by_us = (
            one.encode_from_tokens(one.tokenize(prompt), return_pooled=True)
            for one, prompt in ((reader, text), (applied, "embedding:somebody person"))
        )
    assert torch.equal(by_file[0], by_us[0]) and torch.equal(by_file[1], by_us[1])
    assert save.execute(alice, "", format=format).result[0] == text
    assert len([path for path in tmp_path.iterdir() if path.suffix != ".json"]) == 1


@pytest.mark.parametrize("format", [name for name, one in FORMATS.items() if not one.sdxl_readers])
def test_a_format_that_cannot_hold_sdxl_is_refused(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """With a format that can; nothing is written."""
    _use_folder(monkeypatch, tmp_path)
    save = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with pytest.raises(ValueError, match=rf"'{format}' holds the vectors of one. Choose 'safetensors'"):
        save.execute(person(pack, "alice", widths=SDXL_WIDTHS), "", format=format)
    assert not list(tmp_path.iterdir())


def test_a_person_of_another_family_is_somebody_else(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's alice and SD 1.x's whose vectors are the same as one half of hers."""
    _use_folder(monkeypatch, tmp_path)
    save = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    xl = person(pack, "alice", widths=(768, 1280))
    half = pack.crossinit_core.LearnedToken(xl.parts[0], "alice", "sd1")
    names = [save.execute(token, "").result[1].name for token in (xl, half, xl, half)]
    assert names == ["alice", "alice-2", "alice", "alice-2"]


def test_the_other_half_in_a_file_of_its_own(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' script writes two files: Load takes both, sees when either changes, and a save is not confused with them."""
    _use_folder(monkeypatch, tmp_path)
    said = _said(monkeypatch)
    load = nodes["CrossInitLoad"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    xl = person(pack, "alice", widths=(768, 1280))
    files = [tmp_path / f"learned_embeds{end}.safetensors" for end in ("", "_2")]
    save_file({"<alice>": xl.parts[0].clone()}, files[0])
    stamps = [load.fingerprint_inputs(files[0].name)]
    for part in (xl.parts[1], xl.parts[1].repeat(2, 1)):
        save_file({"<alice>": part.clone()}, files[1])
        stamps.append(load.fingerprint_inputs(files[0].name))
    assert len(set(stamps)) == 3
    save_file({"<alice>": xl.parts[1].clone()}, files[1])
    for file in files:
        token = load.execute(file.name).result[0]
        assert torch.equal(token.vectors, xl.vectors) and token.base == "sdxl"
    assert said[-1].endswith(": 2 vectors of width 768 + 1280 (SDXL)")
    save = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    assert save.execute(xl, "learned_embeds").result[1].name == "learned_embeds-2", (
        "a prompt reads one half of them alone"
    )


def test_people_of_sdxl_are_blended_rescaled_and_reported(
    pack: ModuleType,
    nodes: dict[str, Any],
    sdxl_clip: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each text encoder's part by itself, and the result is a person that a prompt takes."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    run = {name: node.PREPARE_CLASS_CLONE({"hidden_inputs": {}}) for name, node in nodes.items()}
    anna, ben = (person(pack, name, seed, widths=SDXL_WIDTHS) for seed, name in enumerate(("anna", "ben")))
    both = run["CrossInitBlend"].execute(anna, ben, 0.5).result[0]
    start = pack.crossinit_core.starts.Starts(person(pack, "start", 2, widths=SDXL_WIDTHS).vectors * 0.1)
    short = run["CrossInitRescale"].execute(both, 1.0, cross_init=start).result[0]
    assert both.widths == short.widths == SDXL_WIDTHS and both.base == short.base == anna.base
    for part, blended, first, begun in zip(
        short.parts, both.parts, anna.parts, start.vectors.split(SDXL_WIDTHS, dim=1), strict=True
    ):
        torch.testing.assert_close(part.norm(dim=1), begun.norm(dim=1))
        torch.testing.assert_close(torch.cosine_similarity(part, blended), torch.ones(2))
        assert bool((torch.cosine_similarity(blended, first) > 0.5).all())
    with torch.inference_mode():
        prompt = run["CrossInitEncodePrompt"].execute(sdxl_clip, "a {} person", {"token0": short}).result[0]
        picture, text = run["CrossInitReport"].execute({"token0": short, "token1": anna}, clip=sdxl_clip).result
    assert prompt[0][0].shape == (1, 77, 192) and picture.ndim == 4
    assert text.count("norm of the vocabulary in CLIP-L") == text.count("norm of the vocabulary in CLIP-G") == 2
    with pytest.raises(ValueError, match="width 32"):
        run["CrossInitBlend"].execute(anna, person(pack, "tiny"), 0.5)


@pytest.mark.parametrize("if_exists", ["add a number", "stop with an error"])
def test_people_saved_at_once_are_all_kept(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, if_exists: str
) -> None:
    """Under one name, by four threads that start together. To stop means that one is saved, and the others are told."""
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    people = [person(pack, "x", seed=seed) for seed in range(4)]
    for round in range(20):
        folder = tmp_path / str(round)
        _use_folder(monkeypatch, folder)
        start = threading.Barrier(len(people))

        def save(token: Any, start: threading.Barrier = start) -> str:
            start.wait()
            try:
                return node.execute(token, "face", if_exists).result[1].name
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(len(people)) as pool:
            said = list(pool.map(save, people))
        for token, name in zip(people, said, strict=True):
            if "already exists" not in name:
                there = pack.crossinit_core.load_learned_token(folder / f"{name}.safetensors").vectors
                assert torch.equal(there, token.vectors)
        kept = 4 if if_exists == "add a number" else 1
        assert len(list(folder.glob("*.safetensors"))) == kept == sum("already exists" not in name for name in said)


def test_a_file_read_in_part_is_somebody_else(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code's: ComfyUI takes the first of its two vectors."""
    _use_folder(monkeypatch, tmp_path)
    alice = person(pack, "x")
    torch.save({"id_v0": alice.vectors[0], "id_v1": alice.vectors[1]}, tmp_path / "face.bin")
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    assert torch.equal(pack.crossinit_core.load_learned_token(tmp_path / "face.bin").vectors, alice.vectors)
    assert node.execute(alice, "face").result[0] == "embedding:face-2 person"


def test_a_file_that_comes_by_wire_is_no_reason_to_run_again(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI asks with None; where that fails, it runs the node, and all after it, each time."""
    from comfy_execution.graph import DynamicPrompt
    from execution import IsChangedCache

    _use_folder(monkeypatch, tmp_path)
    prompt = {
        "1": {"class_type": "StringNode", "inputs": {}},
        "2": {"class_type": "CrossInitLoad", "inputs": {"file": ["1", 0]}},
    }
    import nodes as comfyui_nodes

    monkeypatch.setitem(comfyui_nodes.NODE_CLASS_MAPPINGS, "CrossInitLoad", nodes["CrossInitLoad"])  # type: ignore[attr-defined]
    asked = [asyncio.run(IsChangedCache("p", DynamicPrompt(prompt), None).get("2")) for _ in range(2)]
    assert asked[0] == asked[1] and "by wire" in asked[0]


def test_a_file_that_changed_is_read_again(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_folder(monkeypatch, tmp_path)
    node = nodes["CrossInitLoad"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    path = tmp_path / "alice.safetensors"
    pack.crossinit_core.save_learned_token(person(pack, "alice", vectors=1), path)
    first = node.fingerprint_inputs("alice.safetensors")
    assert len(node.execute("alice.safetensors").result[0].vectors) == 1
    pack.crossinit_core.save_learned_token(person(pack, "alice", vectors=3), path)
    assert node.fingerprint_inputs("alice.safetensors") != first
    assert len(node.execute("alice.safetensors").result[0].vectors) == 3


def _said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes write on themselves from here on."""
    import server

    said: list[str] = []
    page = hearing(said)
    monkeypatch.setattr(server.PromptServer, "instance", page, raising=False)
    return said


def _use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import folder_paths

    extensions = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(folder)], extensions))


@pytest.mark.parametrize(
    ("about", "files", "facts"),
    [
        ("all", ["alice.metadata.json", "alice.preview.png", "alice.safetensors"], {"title", "thumbnail"}),
        ("in the file", ["alice.safetensors"], {"title", "thumbnail"}),
        ("no picture", ["alice.safetensors"], {"title"}),
        ("nothing", ["alice.safetensors"], set()),
    ],
)
def test_a_file_says_as_much_as_is_wanted(
    pack: ModuleType,
    nodes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    about: str,
    files: list[str],
    facts: set[str],
) -> None:
    """Also if another amount was wanted before: what the pack wrote then goes."""
    _use_folder(monkeypatch, tmp_path)
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    core = pack.crossinit_core.tokens
    pixels = numpy.full((64, 64, 3), 99, numpy.uint8)
    history = core.history.History((0.1,), (0.0, 0.1), (0.0, 1.0), portrait=core.small_pictures.Picture(1, pixels))
    token = replace(person(pack, "x"), history=history)
    node.execute(token, "alice", about="all")
    node.execute(token, "alice", about=about, author="Ann Lee")
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    with safe_open(tmp_path / "alice.safetensors", framework="pt") as file:
        written = file.metadata() or {}
    assert {key for key in ("title", "thumbnail") if f"modelspec.{key}" in written} == facts
    assert written.get("modelspec.author") == ("Ann Lee" if facts else None) and (facts or not written)


def test_a_long_author_is_refused_before_learning(nodes: dict[str, Any]) -> None:
    assert "The author 'aaa" in str(nodes["CrossInitSave"].validate_inputs(name="", author="a" * 500))
