"""The nodes as the graph sees them: ids and sockets that saved workflows rely on, help on every input, prompts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

# Saved workflows name these. Adding an optional input is fine; a change here breaks somebody's graph.
CONTRACT = {
    "CrossInitCelebrityNames": (["list", "extra_names"], ["CELEBRITY_NAMES", "INT"]),
    "CrossInitInitialize": (["clip", "names", "vectors", "method"], ["CROSS_INIT"]),
    "CrossInitInitializeWords": (["clip", "words", "method"], ["CROSS_INIT"]),
    "CrossInitLearn": (
        [
            "model",
            "clip",
            "vae",
            "image",
            "cross_init",
            "preset",
            "seed",
            "mask",
            "steps",
            "learning_rate",
            "regularization",
            "weight_decay",
            "batch_size",
            "micro_batch_size",
            "gradient_checkpointing",
            "precision",
            "resolution",
            "flip_probability",
            "resume",
            "memory",
            "sample_every",
            "sample_prompt",
            "sample_steps",
        ],
        ["LEARNED_TOKEN", "LOSS_MAP"],
    ),
    "CrossInitPrepareFace": (
        [
            "image",
            "framing",
            "face",
            "resolution",
            "mask",
            "bounding_box",
            "straighten",
            "zoom",
            "center_x",
            "center_y",
            "crop_size",
            "roll",
        ],
        ["IMAGE", "MASK", "STRING"],
    ),
    "CrossInitApply": (["clip", "token", "name"], ["CLIP"]),
    "CrossInitEncodePrompt": (["clip", "text", "tokens"], ["CONDITIONING"]),
    "CrossInitSave": (["token", "name", "if_exists", "format"], ["STRING"]),
    "CrossInitLoad": (["file"], ["LEARNED_TOKEN"]),
    "CrossInitPromptList": (["prompts", "file", "folder"], ["STRING", "STRING", "STRING", "INT"]),
    "CrossInitBlend": (["token_a", "token_b", "weight", "name", "method"], ["LEARNED_TOKEN"]),
    "CrossInitRescale": (["token", "amount", "cross_init"], ["LEARNED_TOKEN"]),
    "CrossInitReport": (["clip", "tokens"], ["IMAGE", "STRING"]),
    "CrossInitMiniature": ([], ["MODEL", "CLIP", "VAE"]),
    "CrossInitDrawnPerson": (["seed"], ["IMAGE"]),
}


@pytest.fixture(scope="module")
def nodes(pack: ModuleType) -> dict[str, Any]:
    """The pack's node classes by id, as ComfyUI's loader gets them."""
    extension = asyncio.run(pack.comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in classes}


@pytest.fixture(scope="module")
def tiny_clip(tiny_comfy: Any, tiny_models: Path) -> Any:
    with torch.inference_mode():
        return tiny_comfy(tiny_models / "tiny-eps")[1]


def person(pack: ModuleType, name: str, seed: int = 0, vectors: int = 2, width: int = 32) -> Any:
    values = torch.randn(vectors, width, generator=torch.Generator().manual_seed(seed))
    return pack.crossinit_core.LearnedToken(values, name, "sd2")


def conditioning(clip: Any, text: str) -> torch.Tensor:
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text)).clone()


@pytest.mark.parametrize("node_id", CONTRACT)
def test_saved_workflows_find_the_same_sockets(nodes: dict[str, Any], node_id: str) -> None:
    schema = nodes[node_id].define_schema()
    inputs, outputs = CONTRACT[node_id]
    assert [entry.id for entry in schema.inputs] == inputs
    assert [entry.io_type for entry in schema.outputs] == outputs


def test_no_node_is_without_a_contract(nodes: dict[str, Any]) -> None:
    assert set(nodes) == set(CONTRACT)


@pytest.mark.parametrize("node_id", CONTRACT)
def test_every_socket_and_widget_explains_itself(nodes: dict[str, Any], node_id: str) -> None:
    schema = nodes[node_id].define_schema()
    assert schema.description and schema.category == "CrossInit"
    for entry in (*schema.inputs, *schema.outputs):
        template = getattr(entry, "template", None)
        assert (template.input if template else entry).tooltip, f"{node_id}.{entry.id} has no tooltip"


def test_the_page_does_not_draw_a_new_seed_by_itself(nodes: dict[str, Any]) -> None:
    seed = next(entry for entry in nodes["CrossInitLearn"].define_schema().inputs if entry.id == "seed")
    assert seed.control_after_generate is False


def test_presets_decide_steps_and_learning_rate_unless_custom(pack: ModuleType) -> None:
    settings = pack.nodes.learn._settings
    full = settings(preset="full", seed=1, steps=7, learning_rate=0.5)
    assert (full.steps, full.learning_rate, full.micro_batch_size) == (320, 0.005, None)
    fast, published = settings(preset="fast", seed=1), settings(preset="fast-published", seed=1)
    assert (fast.steps, published.steps, published.learning_rate) == (25, 25, 0.005)
    assert fast.learning_rate == 0.02  # docs/paper-claims.md
    custom = settings(preset="custom", seed=1, steps=7, learning_rate=0.5, micro_batch_size=2)
    assert (custom.steps, custom.learning_rate, custom.micro_batch_size) == (7, 0.5, 2)


def test_a_list_where_one_value_belongs_is_refused(pack: ModuleType, nodes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'seed' got a list of 2"):
        nodes["CrossInitLearn"].execute(image=[torch.rand(1, 64, 64, 3)], seed=[1, 2])


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
    ],
)
def test_a_prompt_with_places_is_what_comfyui_reads_as_embedding(
    pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any, tmp_path: Path, text: str, typed: str
) -> None:
    alice = person(pack, "alice")
    pack.crossinit_core.save_learned_token(alice, tmp_path / "alice.safetensors")
    with_folder = tiny_clip.clone()
    with_folder.tokenizer = _with_embeddings(tiny_clip, tmp_path)
    by_comfyui = conditioning(with_folder, typed)
    with torch.inference_mode():
        applied = pack.nodes.comfy_tokens.clip_with_tokens(tiny_clip, {"alice": alice})
        prompt, used = pack.nodes.prompts.fill_prompt(text, [alice])
        encoder = pack.nodes.comfy_tokens.clip_with_tokens(tiny_clip, used)
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
    other.tokenizer = _with_embeddings(tiny_clip, Path())
    other.tokenizer.clip_h.embedding_identifier = "emb:"
    ready = nodes["CrossInitEncodePrompt"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with pytest.raises(ValueError, match=r"CLIP did not take alice out of the prompt 'a \{\} person'"):
        ready.execute(other, "a {} person", {"token0": person(pack, "alice")})


def test_a_learned_token_wins_over_a_file_of_the_same_name(pack: ModuleType, tiny_clip: Any, tmp_path: Path) -> None:
    old, new = person(pack, "alice", seed=1), person(pack, "alice", seed=2)
    pack.crossinit_core.save_learned_token(old, tmp_path / "alice.safetensors")
    clip = tiny_clip.clone()
    clip.tokenizer = _with_embeddings(tiny_clip, tmp_path)
    applied = pack.nodes.comfy_tokens.clip_with_tokens(clip, {"alice": new})
    plain = pack.nodes.comfy_tokens.clip_with_tokens(tiny_clip, {"alice": new})
    text = "a embedding:alice person"
    assert torch.equal(conditioning(applied, text), conditioning(plain, text))
    assert not torch.equal(conditioning(applied, text), conditioning(clip, text))


def test_applied_tokens_add_up_and_leave_the_first_clip_alone(pack: ModuleType, tiny_clip: Any) -> None:
    apply = pack.nodes.comfy_tokens.clip_with_tokens
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
        ("a {} person", [], "There is no learned token"),
    ],
)
def test_a_prompt_that_cannot_be_filled_says_why(pack: ModuleType, text: str, names: list[str], message: str) -> None:
    people = [person(pack, name) for name in names]
    with pytest.raises(ValueError) as caught:
        pack.nodes.prompts.fill_prompt(text, people)
    assert message in str(caught.value)


def test_other_braces_in_a_prompt_stay(pack: ModuleType) -> None:
    prompt, _ = pack.nodes.prompts.fill_prompt("a {} person, {red|blue} { } {a b}", [person(pack, "alice")])
    assert prompt == "a embedding:crossinit-1 person, {red|blue} { } {a b}"


def test_a_token_of_another_width_is_refused_with_both_widths(pack: ModuleType, tiny_clip: Any) -> None:
    with pytest.raises(ValueError, match=r"width 32 .*learned on width 768 \(SD 1.x\)"):
        pack.nodes.comfy_tokens.clip_with_tokens(tiny_clip, {"alice": person(pack, "alice", width=768)})


def test_the_bundled_and_the_users_lists_are_offered(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    (tmp_path / "friends.txt").write_text("Ada Lovelace\nAlan Turing\n", encoding="utf-8")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, pack.nodes.names.FOLDER, ([str(tmp_path)], {".txt"}))
    node = nodes["CrossInitCelebrityNames"]
    options = node.define_schema().inputs[0].options
    assert options[0] == "bundled list" and "friends.txt" in options
    assert node.execute("friends.txt").result[0].names == ("Ada Lovelace", "Alan Turing")
    assert node.execute("friends.txt", "Grace Hopper").result[1] == 3
    assert node.execute("only the extra names", "Grace Hopper\n\n# nobody").result[0].names == ("Grace Hopper",)
    assert node.execute("bundled list").result[1] >= 600
    with pytest.raises(ValueError, match="holds no name"):
        node.execute("only the extra names", "# nobody")
    before = node.fingerprint_inputs("friends.txt")
    (tmp_path / "friends.txt").write_text("Ada Lovelace\n", encoding="utf-8")
    assert node.fingerprint_inputs("friends.txt") != before


@pytest.mark.parametrize("name", ["../alice", "my face", "a[b]", "", "embedding:alice", "a/b", "CON"])
def test_a_name_that_would_leave_the_folder_or_break_a_prompt_is_refused(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _use_folder(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="The token name"):
        nodes["CrossInitSave"].execute(person(pack, "alice"), name)
    assert not list(tmp_path.rglob("*"))


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
        with_folder.tokenizer = _with_embeddings(tiny_clip, tmp_path)
        return conditioning(with_folder, text)

    def meant(token: Any) -> torch.Tensor:
        applied = pack.nodes.comfy_tokens.clip_with_tokens(tiny_clip, {"somebody": token})
        return conditioning(applied, "embedding:somebody person")

    with pytest.raises(ValueError, match=f"'{there}' already exists"):
        save(bob, "stop with an error")
    assert torch.equal(save(bob, "add a number"), meant(bob)) and (tmp_path / "face-2.bin").is_file()
    assert torch.equal(save(anna, "add a number"), meant(anna)) and not (tmp_path / "face-3.bin").is_file()
    assert "somebody else" not in said[-1]
    save(bob, "replace it", "safetensors")
    beside = ", ".join(sorted({"face.bin", there} - {"face.safetensors"}))
    assert said[-1].endswith(f"somebody else under that name, whom a prompt may mean: rename or delete {beside}.")


def test_a_file_of_which_prompts_read_only_a_part_is_somebody_else(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code's: ComfyUI takes the first of its two vectors."""
    _use_folder(monkeypatch, tmp_path)
    alice = person(pack, "x")
    torch.save({"id_v0": alice.vectors[0], "id_v1": alice.vectors[1]}, tmp_path / "face.bin")
    node = nodes["CrossInitSave"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    assert torch.equal(pack.crossinit_core.load_learned_token(tmp_path / "face.bin").vectors, alice.vectors)
    assert node.execute(alice, "face").result[0] == "embedding:face-2 person"


@pytest.mark.parametrize("vectors", [torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 2)])
def test_people_who_cannot_be_blended_are_told_a_method_that_the_node_has(
    pack: ModuleType, nodes: dict[str, Any], vectors: torch.Tensor
) -> None:
    make = pack.crossinit_core.LearnedToken
    people = make(torch.tensor([[1.0, 0.0]]), "anna", "width-2"), make(vectors, "ben", "width-2")
    node = nodes["CrossInitBlend"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with pytest.raises(ValueError, match="Blend these with the method") as caught:
        node.execute(*people, 0.5)
    options = next(entry for entry in node.define_schema().inputs if entry.id == "method").options
    proposed = next(option for option in options if f"'{option}'" in str(caught.value))
    assert node.execute(*people, 0.25, method=proposed).result[0].name == "anna-ben"


def test_the_folder_for_lists_of_names_is_there_to_put_them_in(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    known = {name: paths for name, paths in folder_paths.folder_names_and_paths.items() if name != "celebrity_names"}
    for models in (tmp_path / "models", tmp_path / "no-folder"):
        (tmp_path / "no-folder").write_text("a file, in which no folder can be made", encoding="utf-8")
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(known))
        monkeypatch.setattr(folder_paths, "models_dir", str(models))
        assert pack.nodes.names.user_lists() == {}
    assert (tmp_path / "models" / "celebrity_names").is_dir()


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

    monkeypatch.setitem(comfyui_nodes.NODE_CLASS_MAPPINGS, "CrossInitLoad", nodes["CrossInitLoad"])
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
    page = SimpleNamespace(send_progress_text=lambda text, _node: said.append(text), send_sync=lambda *_: None)
    monkeypatch.setattr(server.PromptServer, "instance", page, raising=False)
    return said


def _use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import folder_paths

    extensions = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(folder)], extensions))


def _with_embeddings(clip: Any, folder: Path) -> Any:
    import copy

    tokenizer = copy.copy(clip.tokenizer)
    tokenizer.clip_h = copy.copy(clip.tokenizer.clip_h)
    tokenizer.clip_h.embedding_directory = [str(folder)]
    return tokenizer


@pytest.fixture(autouse=True)
def text_without_a_page(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes send text to the page; here there is none."""
    import server

    monkeypatch.setattr(
        server.PromptServer,
        "instance",
        SimpleNamespace(send_progress_text=lambda *_: None, send_sync=lambda *_: None),
        raising=False,
    )
