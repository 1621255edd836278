"""Sample pictures while a face is learned: what they show, and that the run does not notice them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny_page import hearing

PROMPT = "a photo of a {} person"
STEPS = 5


@pytest.fixture
def texts(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What nodes write on themselves. ComfyUI runs nodes in inference mode."""
    import server

    said: list[str] = []
    page = hearing(said)
    monkeypatch.setattr(server.PromptServer, "instance", page, raising=False)
    with torch.inference_mode():
        yield said


@pytest.fixture
def shown(comfyui: Path) -> Iterator[list[Image.Image]]:
    """The pictures that go to the page with the progress bar."""
    import comfy.utils

    pictures: list[Image.Image] = []

    def hook(_value: int, _total: int, preview: Any, node_id: str | None = None) -> None:
        if preview:
            pictures.append(preview[1])

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(hook)
    yield pictures
    comfy.utils.set_progress_bar_global_hook(before)


@pytest.fixture
def learn(
    pack: ModuleType,
    tiny_comfy: Any,
    tiny_models: Path,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Runs Learn Face for `STEPS` steps on a tiny model: `learn(sample_every=2)` gives the token."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    node = next(node for node in nodes if node.GET_SCHEMA().node_id == "CrossInitLearn")
    model, clip, vae = tiny_comfy(tiny_models / "tiny-eps")
    photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    start = pack.crossinit_core.starts.Starts(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)))

    def run(**more: Any) -> Any:
        inputs = {
            "model": model,
            "clip": clip,
            "vae": vae,
            "cross_init": start,
            "preset": "custom",
            "seed": 3,
            "steps": STEPS,
            "learning_rate": 0.05,
            "batch_size": 2,
            "resolution": 64,
            "resume": False,
            **more,
        }
        ready = node.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        return ready.execute(image=[photo], **{name: [value] for name, value in inputs.items()}).result[0]

    return run


def test_samples_change_no_bit(learn: Callable[..., Any]) -> None:
    """A run with samples learns the same to the bit."""
    plain = learn()
    random = torch.get_rng_state()
    sampled = learn(sample_every=2, sample_steps=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(sampled.vectors, plain.vectors)
    assert sampled.history.losses == plain.history.losses
    assert [picture.step for picture in sampled.history.samples] == [1, 2, 4, 5]
    assert plain.history.samples == () and plain.history.previews


def test_a_preset_of_the_direction_starts_at_token_rows(learn: Callable[..., Any], pack: ModuleType) -> None:
    """The dial goes back to there; the published presets start at what the encoder made of them."""
    core = pack.crossinit_core
    crossed, rows = torch.full((2, 32), 3.0), torch.eye(2, 32)
    start = core.starts.Starts(crossed, {"crossinit.initialization": "cross initialization from names"}, rows)
    turned, published = (learn(cross_init=start, preset=preset) for preset in ("swift", "fast-published"))
    assert turned.metadata["crossinit.initialization"] == "token rows from names"
    assert published.metadata["crossinit.initialization"] == "cross initialization from names"
    began = [core.tokens.blending.token_at_strength(token, 0.0).vectors for token in (turned, published)]
    torch.testing.assert_close(torch.nn.functional.normalize(began[0]), rows, atol=1e-2, rtol=0)
    torch.testing.assert_close(began[1], crossed, atol=1e-2, rtol=0)


def test_a_photo_that_is_enlarged_is_said_so(learn: Callable[..., Any], texts: list[str]) -> None:
    learn(resolution=128)
    assert texts[-1].endswith("; photo enlarged 2.0 times to 128 px")
    learn(resolution=64)
    assert "enlarged" not in texts[-1]


def test_a_face_gets_a_picture_of_its_own(learn: Callable[..., Any]) -> None:
    """It is drawn after the last step, at full size, and changes neither the vectors nor torch's random numbers."""
    without = learn(draw_picture=False)
    random = torch.get_rng_state()
    token = learn(sample_prompt="nobody")
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(token.vectors, without.vectors)
    assert token.history.portrait.pixels.shape == (64, 64, 3) and token.history.portrait.step == STEPS
    assert without.history.portrait is None and token.history.samples == ()


def test_the_last_sample_is_the_faces_picture(
    pack: ModuleType, learn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    latents = pack.nodes.host.sampling.PromptSampler.latents

    def counted(self: Any, *inputs: Any) -> torch.Tensor:
        drawn.append(1)
        return latents(self, *inputs)

    monkeypatch.setattr(pack.nodes.host.sampling.PromptSampler, "latents", counted)
    history = learn(sample_every=2, sample_steps=1).history
    assert len(drawn) == len(history.samples) == 4
    assert (history.portrait.pixels == history.samples[-1].pixels).all()


def test_a_picture_that_fails_costs_no_face(
    pack: ModuleType, learn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_much(*_: Any) -> Image.Image:
        raise torch.OutOfMemoryError("CUDA out of memory.\nSee the manual")

    plain = learn()
    monkeypatch.setattr(pack.nodes.learn.samples, "decoded", too_much)
    token = learn()
    assert torch.equal(token.vectors, plain.vectors) and token.history.portrait is None
    assert "The token gets no picture (CUDA out of memory.)." in caplog.text


@pytest.mark.parametrize("name", ["tiny-eps", "tiny-v"])
def test_a_sample_is_what_ksampler_draws_with_that_token(
    pack: ModuleType, tiny_comfy: Any, tiny_models: Path, texts: list[str], name: str
) -> None:
    import comfy.sample

    model, clip, vae = tiny_comfy(tiny_models / name)
    backbone = pack.nodes.host.backbone.ComfyBackbone(model, clip, vae)
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    sampler = pack.nodes.host.sampling.PromptSampler(backbone, PROMPT, 2, steps=4, seed=42)
    with backbone.training(precision="fp32", gradient_checkpointing=False) as frozen:
        drawn = sampler.latents(frozen, vectors, torch.Size([1, 4, 8, 8]))

    token = pack.crossinit_core.LearnedToken(vectors, "alice", "sd2")
    knowing = pack.nodes.host.tokens.clip_with_tokens(clip, {"alice": token})
    texts_of = {"positive": (knowing, "a photo of a embedding:alice person"), "negative": (clip, "")}
    conditioning = {
        side: encoder.encode_from_tokens_scheduled(encoder.tokenize(text)) for side, (encoder, text) in texts_of.items()
    }
    empty = torch.zeros(1, 4, 8, 8)
    options = {"sampler_name": "dpmpp_2m", "scheduler": "karras", "latent_image": empty, "disable_pbar": True}
    noise = comfy.sample.prepare_noise(empty, 42)
    by_comfyui = comfy.sample.sample(model, noise, 4, 7.0, **conditioning, **options)
    torch.testing.assert_close(drawn, backbone.latent_format.process_in(by_comfyui), atol=1e-4, rtol=1e-4)


def test_the_page_sees_the_sample_beside_the_preview(learn: Callable[..., Any], shown: list[Image.Image]) -> None:
    learn(sample_every=2, sample_steps=1)
    ratios = {picture.width / picture.height for picture in shown}
    assert ratios == {1.0, 2.0} and shown[-1].size == (128, 64)
    shown.clear()
    learn()
    assert {picture.width / picture.height for picture in shown} == {1.0}


def test_a_sample_follows_the_vectors(pack: ModuleType, tiny_comfy: Any, tiny_models: Path, texts: list[str]) -> None:
    backbone = pack.nodes.host.backbone.ComfyBackbone(*tiny_comfy(tiny_models / "tiny-eps"))
    sampler = pack.nodes.host.sampling.PromptSampler(backbone, PROMPT, 2, steps=2, seed=0)
    with backbone.training(precision="fp32", gradient_checkpointing=False) as frozen:
        first, again, other = (
            sampler.latents(frozen, vectors, torch.Size([1, 4, 8, 8]))
            for vectors in (torch.ones(2, 32), torch.ones(2, 32), -torch.ones(2, 32))
        )
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_sample_that_fails_costs_no_step(
    pack: ModuleType, learn: Callable[..., Any], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = pack.nodes.learn.samples.decoded
    tried = []

    def second_is_too_much(*inputs: Any) -> Image.Image:
        tried.append(1)
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the manual")
        return drawn(*inputs)

    plain = learn()
    monkeypatch.setattr(pack.nodes.learn.samples, "decoded", second_is_too_much)
    token = learn(sample_every=1, sample_steps=1)
    assert torch.equal(token.vectors, plain.vectors)
    assert [picture.step for picture in token.history.samples] == [1] and len(tried) == 2
    assert "no sample pictures from step 2 on (CUDA out of memory. Tried to allocate 2 GiB.)" in texts[-1]
    assert texts[-1].startswith("learned in")


def test_cancel_is_heard_while_a_sample_is_drawn(
    pack: ModuleType, learn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as mm

    plain = learn()
    shutil.rmtree(tmp_path / "crossinit")
    latents = pack.nodes.host.sampling.PromptSampler.latents

    def cancelled(self: Any, *inputs: Any) -> torch.Tensor:
        mm.interrupt_current_processing()
        return latents(self, *inputs)

    with monkeypatch.context() as change:
        change.setattr(pack.nodes.host.sampling.PromptSampler, "latents", cancelled)
        with pytest.raises(mm.InterruptProcessingException):
            learn(sample_every=3, resume=True)
    assert list(tmp_path.rglob("*.resume.safetensors"))
    token = learn(sample_every=3, sample_steps=1, resume=True)
    assert token.history.resumed_from == 1 and torch.equal(token.vectors, plain.vectors)
    assert token.history.angles == plain.history.angles


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a photo of a person", r"sample_prompt: The prompt .* has no \{\}"),
        ("a {nobody} person", r"sample_prompt: \{nobody\} in the prompt is no token"),
        ("a very {} person" + " indeed" * 90, r"sample_prompt: .* tokens with 2 learned vectors"),
    ],
)
def test_a_sample_prompt_that_cannot_be_is_refused_before_learning(
    learn: Callable[..., Any], texts: list[str], prompt: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learn(sample_every=2, sample_prompt=prompt)
    assert not any(text.startswith("step") for text in texts)


def test_a_sample_prompt_is_not_read_where_samples_are_off(learn: Callable[..., Any]) -> None:
    assert learn(sample_every=0, sample_prompt="nobody").history.samples == ()


def _watched(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Stable Diffusion's own VAE, which is too large to make previews with."""
    monkeypatch.setattr(pack.nodes.host.previews, "SMALL_VAE", 0)


def _taesd_previews(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI as with `--preview-method taesd`, and the file of its small decoder, with random weights."""
    import folder_paths
    from comfy.cli_args import LatentPreviewMethod, args
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import save_file

    path = folder / "taesd_decoder.safetensors"
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        save_file(TAESD(None, None, latent_channels=4).taesd_decoder.state_dict(), path)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(folder)], {".safetensors"}))
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.TAESD)
    return path


def test_previews_of_taesd_are_shown_while_a_face_is_learned(
    pack: ModuleType,
    learn: Callable[..., Any],
    shown: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _watched(pack, monkeypatch)
    _taesd_previews(tmp_path, monkeypatch)
    token = learn()
    # TAESD draws at full size; colours alone are an eighth of it.
    assert {picture.size for picture in shown} == {(64, 64)} and token.history.previews
    assert "previews" not in caplog.text


def test_previews_that_fail_cost_no_step(
    pack: ModuleType,
    learn: Callable[..., Any],
    shown: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from comfy.taesd.taesd import TAESD

    plain = learn()
    _watched(pack, monkeypatch)
    monkeypatch.setattr(pack.nodes.host.previews, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(pack.nodes.host.previews, "MOST_OF_THE_TIME", float("inf"))
    decoder = _taesd_previews(tmp_path, monkeypatch)

    def too_large(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nSee the manual")

    with monkeypatch.context() as change:
        change.setattr(TAESD, "decode", too_large)
        shown.clear()
        assert torch.equal(learn().vectors, plain.vectors)
    assert [picture.size for picture in shown] == [(8, 8)] * STEPS
    assert caplog.text.count("without the previews of TAESDPreviewerImpl (CUDA out of memory.)") == 1
    decoder.write_bytes(b"half a download")
    shown.clear()
    assert torch.equal(learn().vectors, plain.vectors)
    assert {picture.size for picture in shown} == {(8, 8)}
    assert "ComfyUI's previews cannot be made" in caplog.text


def test_packs_that_show_previews_of_their_own_give_none(
    pack: ModuleType, learn: Callable[..., Any], shown: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """VideoHelperSuite's, with its moving previews on."""
    import latent_preview

    class Moving(latent_preview.LatentPreviewer):
        def decode_latent_to_preview_image(self, preview_format: str, x0: torch.Tensor) -> None:
            seen.append(x0)

    plain = learn()
    seen: list[torch.Tensor] = []
    _watched(pack, monkeypatch)
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Moving())
    shown.clear()
    token = learn()
    assert torch.equal(token.vectors, plain.vectors)
    assert seen and not shown and not token.history.previews
    sampled = learn(sample_every=1, sample_steps=1)
    assert {picture.size for picture in shown} == {(64, 64)} and len(sampled.history.samples) == STEPS
    report = pack.crossinit_core.tokens.report_figure.draw_report
    assert report([token, sampled]).size


def test_previews_are_decoded_where_the_previewer_is(
    pack: ModuleType, tiny_comfy: Any, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step reports lies on the CPU; TAESD lies where the graph computes."""
    import latent_preview

    class Elsewhere(latent_preview.LatentPreviewer):
        def decode_latent_to_preview_image(self, preview_format: str, x0: torch.Tensor) -> None:
            devices.append(x0.device.type)

    devices: list[str] = []
    _watched(pack, monkeypatch)
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Elsewhere())
    backbone = pack.nodes.host.backbone.ComfyBackbone(*tiny_comfy(tiny_models / "tiny-eps"))
    monkeypatch.setattr(type(backbone), "device", torch.device("meta"))
    pack.nodes.host.previews.Previews(backbone).picture(torch.zeros(1, 4, 8, 8))
    assert devices == ["meta"]
