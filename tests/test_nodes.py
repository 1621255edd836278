"""The nodes as the graph sees them: ids and sockets that saved workflows rely on, help on every input, settings and lists."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("text_without_a_page")

# Saved workflows name these. Adding an optional input is fine; a change here breaks somebody's graph.
CONTRACT = {
    "CrossInitCelebrityNames": (["list", "extra_names"], ["CELEBRITY_NAMES", "INT"]),
    "CrossInitInitialize": (["clip", "names", "vectors", "method", "layer"], ["CROSS_INIT"]),
    "CrossInitInitializeWords": (["clip", "words", "method", "layer"], ["CROSS_INIT"]),
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
            "name",
            "regularizer",
            "draw_picture",
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
    "CrossInitApply": (["clip", "token", "name", "strength"], ["CLIP"]),
    "CrossInitEncodePrompt": (["clip", "text", "tokens", "strength"], ["CONDITIONING"]),
    "CrossInitSave": (["token", "name", "if_exists", "format", "about", "author"], ["STRING", "LEARNED_TOKEN"]),
    "CrossInitLoad": (["file"], ["LEARNED_TOKEN"]),
    "CrossInitPromptList": (["prompts", "file", "folder"], ["STRING", "STRING", "STRING", "INT"]),
    "CrossInitBlend": (["token_a", "token_b", "weight", "name", "method"], ["LEARNED_TOKEN"]),
    "CrossInitRescale": (["token", "amount", "cross_init"], ["LEARNED_TOKEN"]),
    "CrossInitReport": (["clip", "tokens"], ["IMAGE", "STRING"]),
    "CrossInitLikeness": (["images", "photos", "recognizer", "keep"], ["IMAGE", "IMAGE", "FLOAT", "STRING"]),
    "CrossInitMiniature": ([], ["MODEL", "CLIP", "VAE"]),
    "CrossInitDrawnPerson": (["seed"], ["IMAGE"]),
}


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


@pytest.mark.parametrize("node_id", CONTRACT)
def test_a_tooltip_says_which_inputs_are_hidden(nodes: dict[str, Any], node_id: str) -> None:
    """Nodes 2.0 shows the advanced inputs on demand, so what is 'below' may not be there."""
    inputs = nodes[node_id].define_schema().inputs
    hidden = {entry.id for entry in inputs if getattr(entry, "advanced", False)}
    for entry in inputs:
        words = set(re.findall(r"\w+", getattr(entry, "tooltip", None) or ""))
        if entry.id not in hidden:
            assert not {"below", "above"} & words
            assert "advanced" in words or not {name for name in hidden & words if "_" in name}, entry.id


def test_the_page_does_not_draw_a_new_seed_by_itself(nodes: dict[str, Any]) -> None:
    seed = next(entry for entry in nodes["CrossInitLearn"].define_schema().inputs if entry.id == "seed")
    assert seed.control_after_generate is False


def test_presets_decide_steps_and_learning_rate_unless_custom(pack: ModuleType) -> None:
    settings = pack.nodes.learn.inputs.settings_of
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


@pytest.mark.parametrize("vectors", [torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 2)])
def test_a_refused_blend_names_another_method(pack: ModuleType, nodes: dict[str, Any], vectors: torch.Tensor) -> None:
    """People who cannot be blended are told a method that the node has."""
    make = pack.crossinit_core.LearnedToken
    people = make(torch.tensor([[1.0, 0.0]]), "anna", "width-2"), make(vectors, "ben", "width-2")
    node = nodes["CrossInitBlend"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with pytest.raises(ValueError, match="Blend these with the method") as caught:
        node.execute(*people, 0.5)
    options = next(entry for entry in node.define_schema().inputs if entry.id == "method").options
    proposed = next(option for option in options if f"'{option}'" in str(caught.value))
    assert node.execute(*people, 0.25, method=proposed).result[0].name == "anna-ben"


def test_the_folder_for_names_is_there(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for lists of names is there to put them in."""
    import folder_paths

    known = {name: paths for name, paths in folder_paths.folder_names_and_paths.items() if name != "celebrity_names"}
    for models in (tmp_path / "models", tmp_path / "no-folder"):
        (tmp_path / "no-folder").write_text("a file, in which no folder can be made", encoding="utf-8")
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(known))
        monkeypatch.setattr(folder_paths, "models_dir", str(models))
        assert pack.nodes.names.user_lists() == {}
    assert (tmp_path / "models" / "celebrity_names").is_dir()
