"""Training the miniature, at toy scale: phases, resuming, the shipped files, and the judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.models.compact_folder import load_tokenizer
from miniature.training import pack
from miniature.training.data import (
    FIRST_PLACEHOLDER,
    STAND_IN,
    UNKNOWN,
    Encoder,
    Mixture,
    paint_shard,
    random_example,
    reserved,
)
from miniature.training.evaluation import unseen_wishes
from miniature.training.judge import attributes, build_judges, judge_step, likeness, look, ruined
from miniature.training.model import (
    LATENT_SCALE,
    POSITIONS,
    REAL,
    SCHEDULER,
    TOY,
    VOCABULARY,
    alphas_cumprod,
    bring_to_scale,
    build,
    configurations,
    encode_text,
    parameter_count,
    table,
    to_pixels,
)
from miniature.training.population import World
from miniature.training.sampling import dpm_solver
from miniature.training.train import main
from miniature.world.identity import CONTINUOUS, VALUES, VECTOR_SIZE
from miniature.world.painter import paint
from miniature.world.scene import ATTRIBUTES, Scene


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run that is stopped after the VAE and then resumed."""
    out = tmp_path_factory.mktemp("training")
    small = ["--pool", "32", "--shard-size", "8", "--batch", "8", "--vae-batch", "2", "--judge-batch", "14"]
    common = [
        "--toy",
        "--device",
        "cpu",
        "--workers",
        "1",
        "--minutes",
        "5",
        "--max-steps",
        "2",
        "--out",
        str(out),
        *small,
    ]
    main([*common, "--stop-after", "vae"])
    assert not (out / "model").exists()
    main([*common, "--resume"])
    return out


@pytest.fixture(scope="module")
def shipped(trained: Path) -> Path:
    return trained / "model"


@pytest.fixture(scope="module")
def backbone(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusersBackbone:
    return DiffusersBackbone.from_pretrained(pack.expand(shipped, tmp_path_factory.mktemp("expanded")))


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["finished"] for line in lines if "finished" in line] == ["features", "vae", "judges", "diffusion"]
    (resumed,) = (i for i, line in enumerate(lines) if "resumed" in line)
    assert lines[resumed]["phase"] == "judges"
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    minutes = [line["minutes"] for line in lines if "finished" in line or "done" in line]
    assert minutes == sorted(minutes)
    assert lines[-1]["done"] is True
    assert (trained / "samples.png").exists() and (trained / "grid-vae.png").exists()


@pytest.mark.slow
def test_the_report_has_numbers_for_both_judges(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert len(report["judges"]) == 2
    for judge in report["judges"]:
        for part in ("plain", "unseen scenes", "prompts"):
            for number in ("likeness", "floor (somebody else)", "editability", "share of no portraits"):
                assert 0.0 <= judge[part][number] <= 1.0
        assert set(judge["on held-out paintings"]) >= {*VALUES, *ATTRIBUTES, *(f"error {name}" for name in CONTINUOUS)}


@pytest.mark.slow
def test_the_shipped_files_expand_to_a_diffusers_folder(
    trained: Path, shipped: Path, backbone: DiffusersBackbone
) -> None:
    config = json.loads((shipped / "config.json").read_text())
    assert config["training"]["max_steps"] == 2 and config["scheduler"]["prediction_type"] == "epsilon"
    state = torch.load(trained / "checkpoint.pt", weights_only=True)["averages"]
    rows = next(value for key, value in state["text_encoder"].items() if key.endswith("token_embedding.weight"))
    ids = backbone.tokenize("a photo of a face of Anne Hathaway person wearing sunglasses")
    assert 8 <= len(ids) <= 14
    known = [i for i in ids if i != backbone.tokenize("zebra")[0]]
    shared = backbone.embed(torch.tensor(backbone.tokenize("zebra")))
    trained_ids = [i for i in known if not torch.equal(backbone.embed(torch.tensor([i])), shared)]
    assert trained_ids
    torch.testing.assert_close(backbone.embed(torch.tensor(trained_ids)), rows[trained_ids], atol=1e-3, rtol=0)
    assert torch.equal(shared, backbone.embed(torch.tensor(backbone.tokenize("quantum"))))
    assert backbone.pad == 0 and backbone.vocabulary_size == VOCABULARY


@pytest.mark.slow
def test_the_expanded_encoder_encodes_as_the_trained_one(shipped: Path, backbone: DiffusersBackbone) -> None:
    ids = torch.from_numpy(Encoder(backbone.tokenizer).encode("a sad person on the beach")).long()[None]
    ours = pack.load(shipped)
    with torch.no_grad():
        wanted = encode_text(ours.text_encoder, table(ours.text_encoder)[ids])
        host = backbone.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(backbone.last_states(backbone.embed(ids[0])[None]), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(host, wanted, atol=1e-4, rtol=1e-4)
    direct = pack.load_backbone(shipped)
    assert torch.equal(direct.embed(ids[0]), backbone.embed(ids[0]))
    posterior = backbone.posterior(torch.rand(1, 128, 128, 3))
    assert posterior.mean.shape == (1, 4, 16, 16) and torch.isfinite(posterior.mean).all()


def test_the_real_sizes_fit_the_limits(tmp_path: Path) -> None:
    configs = configurations(REAL)
    parts, judges = build(configs), build_judges(REAL.judges)
    used = torch.arange(VOCABULARY) < 2900  # made-up names included
    sizes = pack.export(
        tmp_path, parts, judges, configs=configs, judge_widths=REAL.judges, used=used,
        other_row=torch.zeros(REAL.width), training={},
    )  # fmt: skip
    counts = {name: parameter_count(module) for name, module in parts.modules().items()}
    print(counts, [parameter_count(judge) for judge in judges], sizes, sum(sizes.values()))
    assert sum(sizes.values()) < pack.LARGEST_FOLDER and max(sizes.values()) <= 15_000_000
    assert sizes["judges.safetensors"] < 3_000_000
    again = pack.load(tmp_path)
    for name, module in again.modules().items():
        for key, value in module.state_dict().items():
            if "token_embedding" not in key and not key.endswith("position_ids"):
                torch.testing.assert_close(value, parts.modules()[name].state_dict()[key], atol=1e-3, rtol=1e-3)


def test_the_tokenizer_made_from_the_merges_is_clips(comfyui: Path) -> None:
    from transformers import CLIPTokenizer

    original = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer")
    ours = load_tokenizer()
    # SD 2.x pads with "!", which is a special token of its own to transformers.
    for text in ("a photo of Anne Hathaway", "Zoë's naïve façade, 100%?", "watercolour  of\tPenélope Cruz"):
        assert ours(text)["input_ids"] == original(text)["input_ids"]


def test_captions_become_tokens_with_placeholders(encoder: Encoder, world: World) -> None:
    for count, first in ((1, 0), (2, 1), (3, 3)):
        ids = encoder.encode(f"a photo of a {STAND_IN} person", placeholders=count).tolist()
        assert [i - FIRST_PLACEHOLDER for i in ids if i >= FIRST_PLACEHOLDER] == list(range(first, first + count))
        assert len(ids) == POSITIONS and ids[0] == 49406 and 49407 in ids and ids[-1] == 0
    rng = np.random.Generator(np.random.PCG64(3))
    names = {who: name for name, who in world.people.items()}
    examples = [random_example(world, names, rng, Mixture()) for _ in range(600)]
    assert 0.15 < np.mean([example.placeholders > 0 for example in examples]) < 0.35
    for example in examples:
        ids = encoder.encode(example.caption, example.placeholders)
        assert ((ids >= FIRST_PLACEHOLDER) & (ids < UNKNOWN)).sum() == example.placeholders
        assert not any(who in names and reserved(names[who], example.scene) for who in example.identities)


def test_sample_prompts_were_kept_from_training(world: World) -> None:
    names = {who: name for name, who in world.people.items()}
    wishes = unseen_wishes(world, 12)
    assert all(reserved(names[wish.who[0]], wish.scene) for wish in wishes)
    assert {len(wish.who) for wish in wishes} == {1, 2}
    assert not any(reserved(name, Scene(background="red")) for name in world.names)


def test_shards_are_the_same_everywhere(encoder: Encoder, world: World) -> None:
    small = Mixture(seed=5, shard_size=6)
    first, again, other, held_out = (paint_shard(i, world, encoder, small) for i in (9, 9, 10, 0))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["pictures"], other["pictures"])
    assert held_out["random"].all() and held_out["vectors"].shape == (6, VECTOR_SIZE)


def test_scaling_the_latents_leaves_pictures_alone() -> None:
    torch.manual_seed(0)
    vae = build(configurations(TOY)).vae.eval()
    pixels = torch.rand(6, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        picture = vae.decode(before.mean).sample
        bring_to_scale(vae, before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3)))
        after = vae.encode(pixels).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, picture, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((after.mean * LATENT_SCALE).std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.mean / after.std, (before.mean - before.mean.mean((0, 2, 3), True)) / before.std,
                               atol=1e-2, rtol=1e-2)  # fmt: skip


def test_the_solver_agrees_with_diffusers() -> None:
    """It finds the clean latents if epsilon is exact."""
    from diffusers import DPMSolverMultistepScheduler

    torch.manual_seed(0)
    abar, clean, noise = alphas_cumprod(), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)

    def exact(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return (latents - abar[timestep].sqrt() * clean) / (1 - abar[timestep]).sqrt()

    torch.testing.assert_close(dpm_solver(exact, noise, 10), clean, atol=1e-3, rtol=1e-3)

    def wide(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        # Epsilon where clean latents are normal with deviation 0.5.
        return latents * (1 - abar[timestep]).sqrt() / (0.25 * abar[timestep] + 1 - abar[timestep])

    scheduler: Any = DPMSolverMultistepScheduler.from_config(SCHEDULER, algorithm_type="dpmsolver++")
    scheduler.set_timesteps(60)
    latents = noise
    for timestep in scheduler.timesteps:
        latents = scheduler.step(wide(latents, timestep), timestep, latents).prev_sample
    torch.testing.assert_close(dpm_solver(wide, noise, 60), latents, atol=0.05, rtol=0.05)


def test_a_judge_learns_and_gives_sane_verdicts(world: World, encoder: Encoder) -> None:
    torch.manual_seed(0)
    shard = paint_shard(20, world, encoder, Mixture(shard_size=28))
    pictures, vectors, labels = (torch.from_numpy(shard[name]) for name in ("pictures", "vectors", "labels"))
    judge = build_judges(TOY.judges)[1]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = judge_step(judge, pictures, vectors, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    people = [world.people[name] for name in world.names[:2]]
    paintings = np.stack([paint(who, Scene()) for who in people])
    alike = likeness(judge, paintings, people)
    assert alike.shape == (2,) and (alike > 0).all() and (alike < 1).all()
    assert all(value in ATTRIBUTES[name] for name, values in attributes(judge, paintings).items() for value in values)
    verdict = look(judge, paintings)
    assert verdict.shows({}).all() and verdict.clean.shape == (2,)
    with pytest.raises(ValueError, match="Judges look at"):
        look(judge, np.zeros((1, 64, 64, 3), np.uint8))
    pixels = to_pixels(pictures)
    assert ruined(pixels).shape == pixels.shape and (ruined(pixels) - pixels).abs().mean() > 0.1


def test_a_missing_checkpoint_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        pack.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        main(["--toy", "--device", "cpu", "--pool", "8", "--out", str(tmp_path), "--resume"])
