"""Load Miniature Model and Paint Drawn Person, on a model with the shipped layout, small and random."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from crossinit_core.diffusers_backbone import DiffusersBackbone
from miniature.training import pack as shipping
from miniature.training.judge import build_judges
from miniature.training.model import TOY, VOCABULARY, Sizes, build, configurations
from miniature.world.identity import similarity
from miniature.world.people import HELD_OUT_LIMIT, held_out_person, named_vectors

# As wide as the real one, because a token's width says what it was learned on.
SMALL = Sizes(unet=(64, 64), unet_layers=1, vae=(32, 32, 32, 64), width=256, text_inner=64, text_layers=2)
MODEL, CLIP, VAE = range(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped layout with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        configs = configurations(SMALL)
        parts, judges = build(configs), build_judges(TOY.judges)
    target = tmp_path_factory.mktemp("miniature")
    shipping.export(
        target,
        parts,
        judges,
        configs=configs,
        judge_widths=TOY.judges,
        used=torch.arange(VOCABULARY) % 16 == 0,
        other_row=torch.randn(SMALL.width, generator=torch.Generator().manual_seed(1)) * 0.02,
        training={},
    )
    return target


@pytest.fixture(autouse=True)
def inside_a_node(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode; and here there is no page to send text to."""
    import server

    nobody = SimpleNamespace(send_sync=lambda *_: None)
    monkeypatch.setattr(server.PromptServer, "instance", nobody, raising=False)
    with torch.inference_mode():
        yield


@pytest.fixture
def load(pack: ModuleType, nodes: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the node on this folder, or on another one."""

    def run(where: Path = folder) -> tuple[Any, Any, Any]:
        monkeypatch.setattr(pack.nodes.miniature, "WEIGHTS", where)
        node = nodes["CrossInitMiniature"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        return node.execute().result

    return run


@pytest.fixture
def parts(load: Any) -> tuple[Any, Any, Any]:
    return load()


@pytest.fixture(scope="module")
def diffusers(folder: Path) -> DiffusersBackbone:
    with torch.inference_mode(False):
        return DiffusersBackbone.from_pretrained(folder)


def test_comfyui_computes_what_diffusers_does(parts: tuple[Any, Any, Any], diffusers: DiffusersBackbone) -> None:
    model, clip, vae = parts
    text = "a photo of Anne Hathaway, smiling"
    (tokens,) = clip.tokenize(text).values()
    ids = [token for token, _ in tokens[0]]
    own = diffusers.tokenizer(text, padding="max_length", max_length=77)["input_ids"]
    assert ids == own and ids[-1] == 0
    context = clip.encode_from_tokens(clip.tokenize(text))
    torch.testing.assert_close(
        context, diffusers.last_states(diffusers.embed(torch.tensor(ids))[None]), atol=1e-4, rtol=0
    )

    generator = torch.Generator().manual_seed(0)
    latents, times = torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([3, 977])
    wanted = diffusers.unet(latents, times, encoder_hidden_states=context.expand(2, -1, -1)).sample
    unet = model.model.diffusion_model
    found = unet(latents, times.float(), context=context.expand(2, -1, -1), transformer_options={})
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)

    photo = torch.rand(1, 128, 128, 3, generator=generator)
    posterior = diffusers.vae.encode(photo.movedim(-1, 1) * 2 - 1).latent_dist
    torch.testing.assert_close(vae.encode(photo), posterior.mean, atol=1e-4, rtol=0)
    picture = (diffusers.vae.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(vae.decode(posterior.mean), picture, atol=1e-4, rtol=0)


def test_it_loads_under_dynamic_video_memory(
    load: Any, parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI's default on NVIDIA: its linear layers then have no weights until they are loaded."""
    memory = pytest.importorskip("comfy.memory_management")
    if not hasattr(memory, "aimdo_enabled"):
        pytest.skip("this ComfyUI has no dynamic video memory")
    monkeypatch.setattr(memory, "aimdo_enabled", True)
    found = load()
    assert memory.aimdo_enabled
    for one, other in zip(found[:2], parts[:2], strict=True):
        weights, expected = (getattr(part, "patcher", part).model.state_dict() for part in (one, other))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_learning_in_the_graph_is_learning_on_the_command_line(
    pack: ModuleType, parts: tuple[Any, Any, Any], diffusers: DiffusersBackbone
) -> None:
    import crossinit_core as core

    host = pack.nodes.host.backbone.ComfyBackbone(*parts)
    names = core.load_celebrity_names().names[:30]
    v0 = core.cross_initialize(diffusers, names)
    torch.testing.assert_close(pack.crossinit_core.cross_initialize(host, names), v0, atol=1e-4, rtol=0)
    photo = torch.rand(1, 100, 90, 3, generator=torch.Generator().manual_seed(7))
    settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "precision": "fp32"}
    one = core.invert(diffusers, v0, core.InversionSettings(**settings), images=photo)
    other = pack.crossinit_core.invert(host, v0, pack.crossinit_core.InversionSettings(**settings), images=photo)
    torch.testing.assert_close(other.token.vectors, one.token.vectors, atol=1e-4, rtol=0)
    for token in (one.token, other.token):
        assert token.base == "miniature"
        assert token.metadata["crossinit.checkpoint"] == "crossinit-miniature"
        assert token.metadata["modelspec.resolution"] == "128x128"
        assert "modelspec.architecture" not in token.metadata
        with pytest.raises(ValueError, match=r"width 1024 \(SD 2.x\).*learned on width 256 \(the drawn miniature\)"):
            token.check_fits((1024,))


def test_the_command_line_learns_and_draws_with_it(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    from crossinit_core.cli import main

    photo, token = tmp_path / "me.png", tmp_path / "me.safetensors"
    Image.new("RGB", (90, 100), "orange").save(photo)
    with torch.inference_mode(False):
        small = ["--steps", "1", "--batch-size", "1", "--device", "cpu"]
        assert main(["train", str(folder), str(photo), "--out", str(token), *small]) == 0
        out = tmp_path / "pictures"
        assert main(["generate", str(folder), str(token), "--steps", "1", "--device", "cpu", "--out", str(out)]) == 0
    (picture,) = out.iterdir()
    with Image.open(picture) as image:
        assert image.size == (128, 128)


def test_photos_at_the_size_of_sd_are_refused_before_learning(pack: ModuleType, parts: tuple[Any, Any, Any]) -> None:
    host, core = pack.nodes.host.backbone.ComfyBackbone(*parts), pack.crossinit_core
    settings = pack.nodes.learn.inputs.settings_of(preset="full", seed=0, resolution=512)
    with pytest.raises(ValueError, match="resolution is 512, but this model draws 128 px"):
        core.invert(host, torch.zeros(2, 256), settings, images=torch.rand(1, 64, 64, 3))


def test_a_saved_face_is_found_by_embedding_name(
    pack: ModuleType, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    suffixes = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], suffixes))
    clip = load()[CLIP]
    vectors = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    token = pack.crossinit_core.LearnedToken(vectors, "somebody", "miniature")
    pack.crossinit_core.save_learned_token(token, tmp_path / "somebody.safetensors")
    text = "a photo of embedding:somebody person"
    by_file = clip.encode_from_tokens(clip.tokenize(text))
    applied = pack.nodes.host.tokens.clip_with_tokens(clip, {"somebody": token})
    assert torch.equal(applied.encode_from_tokens(applied.tokenize(text)), by_file)
    assert not torch.equal(clip.encode_from_tokens(clip.tokenize("a photo of person")), by_file)


def test_stock_samplers_and_lora_nodes_accept_it(parts: tuple[Any, Any, Any]) -> None:
    import comfy.sample

    model, clip, vae = parts
    empty = [[clip.encode_from_tokens(clip.tokenize("")), {}]]
    latent = torch.zeros(1, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 0)

    def sampled(patcher: Any) -> torch.Tensor:
        more = {"cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal", "latent_image": latent, "seed": 0}
        return comfy.sample.sample(patcher, noise, 2, positive=empty, negative=empty, disable_pbar=True, **more)

    samples = sampled(model)
    assert vae.decode(samples).shape == (1, 128, 128, 3)
    # Nodes that train or merge ask for a second copy of the weights.
    if "force_deepcopy" not in inspect.signature(model.clone).parameters:
        return  # an older ComfyUI
    copy = model.clone(disable_dynamic=True, force_deepcopy=True)
    assert copy.model is not model.model
    assert torch.equal(sampled(copy), samples)
    assert clip.patcher.clone(disable_dynamic=True, force_deepcopy=True).model is not clip.cond_stage_model


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda folder: shutil.rmtree(folder), FileNotFoundError, "holds no miniature.*download the pack again"),
        (
            lambda folder: (folder / "model-1.safetensors").unlink(),
            ValueError,
            "lacks weights.*download the pack again",
        ),
        (lambda folder: _cut(folder / "model-1.safetensors"), ValueError, "is damaged.*download the pack again"),
        (lambda folder: _other_sizes(folder / "config.json"), ValueError, "does not fit its config.json"),
    ],
    ids=["no folder", "no weights", "cut short", "other sizes"],
)
def test_files_that_are_gone_or_damaged_are_named(
    load: Any, folder: Path, tmp_path: Path, harm: Any, error: type[Exception], message: str
) -> None:
    harmed = Path(shutil.copytree(folder, tmp_path / "weights"))
    harm(harmed)
    with pytest.raises(error, match=message):
        load(harmed)
    with torch.inference_mode(False), pytest.raises(error):
        DiffusersBackbone.from_pretrained(harmed)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _other_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'), encoding="utf-8")


def test_new_weights_are_loaded_anew(pack: ModuleType, nodes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    fingerprint = nodes["CrossInitMiniature"].fingerprint_inputs
    with pytest.MonkeyPatch.context() as change:
        change.setattr(pack.nodes.miniature, "WEIGHTS", folder)
        before = fingerprint()
        change.setattr(pack.nodes.miniature, "WEIGHTS", tmp_path)
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        assert fingerprint() != before


def test_a_seed_is_a_person_whom_no_name_has(
    pack: ModuleType, nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    import crossinit_core as core

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    node = nodes["CrossInitDrawnPerson"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})

    def painted(seed: int) -> torch.Tensor:
        return node.execute(seed).result[0]

    first = painted(0)
    assert first.shape == (1, 128, 128, 3) and first.dtype == torch.float32
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(painted(0), first)
    assert not torch.equal(painted(1), first)
    assert painted(2**64 - 1).shape == first.shape
    named = named_vectors(core.load_celebrity_names().names)
    person = held_out_person(0, named)
    assert float(np.max(similarity(person.to_vector(), named))) < HELD_OUT_LIMIT
