"""The report on learned tokens: what it says is what happened, and it says so plainly where it does not know."""

from __future__ import annotations

import asyncio
import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import (
    InversionResult,
    InversionSettings,
    LearnedToken,
    StepReport,
    invert,
    load_learned_token,
    save_learned_token,
)
from crossinit_core.angles import mean_angle
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.tokens.history import History
from crossinit_core.tokens.report import NO_HISTORY, describe_norms, describe_tokens, headline, labels, smoothed
from crossinit_core.tokens.report_figure import NoMatplotlibError, draw_report
from crossinit_core.tokens.small_pictures import MOST_PICTURES, PIXELS, Picture, Strip

STEPS = 6
SETTINGS = InversionSettings(steps=STEPS, batch_size=2, learning_rate=0.05, resolution=64)
GREEN = np.array([0, 255, 0], dtype=np.uint8)


@pytest.fixture(scope="module")
def v0() -> torch.Tensor:
    return torch.randn(2, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def learned(backbone: DiffusersBackbone, v0: torch.Tensor) -> tuple[InversionResult, list[StepReport]]:
    """A run, and its reports."""
    reports: list[StepReport] = []
    photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    facts = {"crossinit.initialization": "cross initialization from words", "crossinit.words": "human face"}
    return invert(backbone, v0, SETTINGS, images=photo, on_step=reports.append, metadata=facts), reports


@pytest.fixture
def token(learned: tuple[InversionResult, list[StepReport]]) -> LearnedToken:
    """The run's token with green previews and samples."""
    token = learned[0].token
    assert token.history
    green = [Picture(step, np.tile(GREEN, (64, 64, 1))) for step in (1, 3, 6)]
    history = replace(token.history, previews=tuple(green), samples=tuple(green[:2]), sample_prompt="a {} smile")
    return replace(token, history=history)


def of_colour(picture: np.ndarray, colour: np.ndarray) -> int:
    return int((np.abs(picture.astype(int) - colour) < 12).all(axis=-1).sum())


# What travels with a token


def test_a_history_is_the_course_of_the_vectors(
    learned: tuple[InversionResult, list[StepReport]], v0: torch.Tensor
) -> None:
    result, reports = learned
    history = result.token.history
    assert history is not None
    course = [v0, *(report.vectors for report in reports)]
    distances = [float((vectors - v0).norm(dim=1).mean()) for vectors in course]
    angles = [float(torch.cosine_similarity(vectors, v0).double().acos().rad2deg().mean()) for vectors in course]
    assert len(history.losses) == STEPS and history.losses == tuple(result.losses)
    assert history.distances == pytest.approx(distances, abs=1e-4)
    assert history.angles == pytest.approx(angles, abs=0.05) and history.angles[-1] > 1


def test_a_history_knows_the_norms_of_every_word(
    learned: tuple[InversionResult, list[StepReport]], backbone: DiffusersBackbone
) -> None:
    history = learned[0].token.history
    assert history is not None
    norms = backbone.embed(torch.arange(backbone.vocabulary_size)).norm(dim=1).numpy()
    assert history.vocabulary_norms == pytest.approx(np.percentile(norms, range(101)).tolist(), rel=1e-5)


def test_a_history_shows_the_cropped_photos(backbone: DiffusersBackbone, v0: torch.Tensor) -> None:
    wide = torch.zeros(1, 64, 128, 3)
    wide[:, :, 32:96, 1] = 1.0  # the middle square, which is what is learned
    photos = [wide, torch.zeros(5, 64, 64, 4)]
    history = invert(backbone, v0, replace(SETTINGS, steps=1), images=photos).token.history
    assert history is not None and len(history.photos) == 4
    assert all(photo.pixels.shape == (PIXELS, PIXELS, 3) for photo in history.photos)
    assert of_colour(history.photos[0].pixels, GREEN) == PIXELS**2


def test_a_small_angle_is_not_lost_in_rounding() -> None:
    start = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0))
    assert mean_angle(start, start) == 0
    assert mean_angle(-start, start) == pytest.approx(180)
    turned = torch.tensor([[math.cos(1e-4), math.sin(1e-4)]], dtype=torch.float64)
    assert mean_angle(turned, torch.tensor([[1.0, 0.0]])) == pytest.approx(math.degrees(1e-4), rel=1e-6)


def test_old_resume_files_have_unknown_angles(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """Resume files of older versions hold no angles: unknown is right, zero would be wrong."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    invert(backbone, v0, replace(SETTINGS, steps=2), images=photo, resume_folder=tmp_path)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    del metadata["angles"], metadata["checksum"]
    save_file(tensors, path, metadata=metadata)
    history = invert(backbone, v0, SETTINGS, images=photo, resume_folder=tmp_path).token.history
    assert history is not None and history.resumed_from == 2
    assert [math.isnan(angle) for angle in history.angles] == [True] * 2 + [False] * (STEPS - 1)
    assert "the first 2 steps came from a resume file" in describe_tokens([LearnedToken(v0, "x", "sd2", {}, history)])


def test_a_history_is_not_saved(token: LearnedToken, tmp_path: Path) -> None:
    """The file has the same bytes with it and without."""
    one = save_learned_token(token, tmp_path / "one.safetensors")
    other = save_learned_token(replace(token, history=None), tmp_path / "other.safetensors")
    loaded, plain = load_learned_token(one), load_learned_token(other)
    assert one.stat().st_size == other.stat().st_size and loaded.metadata == plain.metadata == token.metadata
    assert loaded.history is None and torch.equal(loaded.vectors, token.vectors)
    assert token.renamed("alice").history is token.history


@pytest.mark.parametrize("count", [0, 1, 2, 11, 12, 13, 24, 25, 400])
def test_a_strip_is_short_and_even(count: int) -> None:
    """This holds for runs of any length; the last picture is the run's last one."""
    strip = Strip()
    for step in range(1, count + 1):
        strip.add(step, Image.new("L", (300, 600), step % 256))
    steps = [picture.step for picture in strip.pictures]
    assert len(steps) == count if count < MOST_PICTURES else MOST_PICTURES // 2 <= len(steps) <= MOST_PICTURES
    if steps:
        assert steps[0] == 1 and steps[-1] == count
        gaps = np.diff(steps)
        assert len(set(gaps[:-1])) <= 1 and (len(gaps) < 2 or gaps[-1] <= gaps[0])
    assert all(picture.pixels.shape == (PIXELS, PIXELS // 2, 3) for picture in strip.pictures)


# What is said


def test_smoothing_is_the_mean_of_the_steps_around() -> None:
    values = [5.0, 1.0, 0.0, 3.0, 8.0]
    assert smoothed(values, 1).tolist() == values
    assert smoothed(values, 3) == pytest.approx([3, 2, 4 / 3, 11 / 3, 5.5])
    assert smoothed(values, 99) == pytest.approx([3.4] * 5)
    assert smoothed([2.0], 3).tolist() == [2.0]


def test_the_text_says_what_is_known(token: LearnedToken) -> None:
    text = describe_tokens([token])
    assert text.startswith("learned-face\n  what: 2 vectors of width 32, learned on tiny-eps\n")
    for part in (
        f"steps {STEPS}, learning rate 0.05, batch 2, lambda 1e-05, seed 0, precision float32",
        "start: cross initialization from 'human face'",
        "'a {} smile' after steps 1, 3",
        f"norm: {', '.join(f'{norm:.2f}' for norm in token.vectors.norm(dim=1).tolist())}, at the start ",
        "norm of the vocabulary: ",
        "°",
    ):
        assert part in text
    assert NO_HISTORY not in text


def test_a_loaded_token_says_what_is_known(token: LearnedToken, tmp_path: Path) -> None:
    loaded = load_learned_token(save_learned_token(token, tmp_path / "alice.safetensors"))
    text = describe_tokens([loaded])
    assert NO_HISTORY in text and f"steps {STEPS}" in text and "angle from the start: " in text
    assert "loss" not in text.replace(NO_HISTORY, "")
    foreign = describe_tokens([LearnedToken(torch.ones(1, 768), "bob", "sd1", {"crossinit.cosine": "nonsense"})])
    assert "1 vector of width 768, learned on SD 1.x" in foreign and "norm: 27.71" in foreign
    assert "angle" not in foreign and NO_HISTORY in foreign


def test_equal_names_are_told_apart(token: LearnedToken) -> None:
    """They get a number, and say how the token was initialized."""
    plain = replace(token, metadata={"crossinit.initialization": "cross initialization from names"})
    assert labels([token, plain, token.renamed("bob")]) == [
        "1: cross initialization from 'human face'",
        "2: cross initialization from names",
        "bob",
    ]
    assert labels([token]) == ["learned-face"]


# What is drawn


def test_the_picture_shows_every_preview_sample_and_photo(token: LearnedToken) -> None:
    assert token.history
    picture = draw_report([token])
    assert picture.shape[1:] == (1440, 3) and picture.dtype == np.uint8
    bare = draw_report([replace(token, history=replace(token.history, previews=(), samples=()))])
    assert of_colour(bare, GREEN) == 0
    tile = of_colour(picture, GREEN) / 5
    assert math.sqrt(tile) == pytest.approx(137, abs=8)
    red = Picture(0, np.tile(np.array([255, 0, 0], dtype=np.uint8), (64, 64, 1)))
    with_photo = draw_report([replace(token, history=replace(token.history, photos=(red,)))])
    assert of_colour(with_photo, np.array([255, 0, 0])) == pytest.approx(tile, rel=0.1)


def test_the_chart_shows_the_runs_loss(token: LearnedToken) -> None:
    assert token.history
    flat = replace(token.history, losses=(0.5,) * STEPS)
    one, same, other = (
        draw_report([replace(token, history=history)])
        for history in (flat, flat, replace(flat, losses=(0.5,) * (STEPS - 1) + (0.1,)))
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_tokens_are_drawn_in_colours_of_their_own(token: LearnedToken) -> None:
    from crossinit_core.tokens.report_charts import COLOURS

    first, second = (np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in COLOURS[:2])
    assert token.history
    token = replace(token, history=replace(token.history, photos=()))  # noise has every colour
    one, two = draw_report([token]), draw_report([token, token.renamed("bob")])
    assert of_colour(one, first) > 500 and of_colour(one, second) == 0
    assert of_colour(two, second) > 500
    assert two.shape[0] > one.shape[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda token: [replace(token, history=None)],
        lambda token: [LearnedToken(torch.ones(1, 768), "bob", "sd1")],
        lambda token: [LearnedToken(torch.zeros(8, 768), "zero", "sd1")],
        lambda token: [token, replace(token, history=None), LearnedToken(torch.ones(75, 768), "long", "sd1")],
        lambda token: [token] * 10,
        lambda token: [replace(token, name="a$b$^", metadata={"crossinit.checkpoint": "$\\frac$"})],
        lambda token: [replace(token, history=History((0.0,), (0.0, 0.0), (math.nan, 0.0)))],
        lambda token: [replace(token, history=replace(token.history, losses=(0.3,), distances=(0.0, 1e-8)))],
    ],
    ids=["file", "other tool", "zeros", "mixed", "ten", "signs", "nothing moved", "one step"],
)
def test_whatever_is_connected_is_drawn(token: LearnedToken, make: Any, recwarn: pytest.WarningsRecorder) -> None:
    tokens = make(token)
    picture = draw_report(tokens)
    assert picture.shape[1:] == (1440, 3) and (picture < 128).any()
    assert len(describe_tokens(tokens).split("\n\n")) == len(tokens)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_charts_leave_no_trace_in_matplotlib(token: LearnedToken) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_report([token])
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not importlib.import_module("matplotlib.pyplot").get_fignums()


def test_without_matplotlib_the_message_says_what_to_install(
    token: LearnedToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoMatplotlibError, match=r"-m pip install matplotlib"):
        draw_report([token])


def test_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one is needed"):
        draw_report([])


# Two text encoders


def _xl(name: str = "anna", vectors: int = 2, known: dict[str, str] | None = None) -> LearnedToken:
    """A token of SDXL whose vectors have length 3 in CLIP-L and 50 in CLIP-G."""
    parts = [torch.full((vectors, width), length / width**0.5) for width, length in ((768, 3.0), (1280, 50.0))]
    facts = {f"crossinit.{key}": value for key, value in (known or {}).items()}
    return LearnedToken(torch.cat(parts, 1), name, "sdxl", facts)


LEARNED = {
    "start_norm": "2 2.5 40 41",
    "distance": "1.5 1.25 12 16",
    "cosine": "0.5 0.5 0 0",
    "steps": "400",
    "checkpoint": "RealVisXL_V5.0",
}
WORDS = (*np.linspace(0.3, 0.5, 101).tolist(), *np.linspace(0.6, 1.0, 101).tolist())


def test_the_text_tells_the_encoders_apart() -> None:
    text = describe_tokens([_xl(known=LEARNED)], WORDS)
    assert text.startswith("anna\n  what: 2 vectors of width 768 + 1280, learned on RealVisXL_V5.0\n")
    for line in (
        "distance from the start in CLIP-L: 1.50, 1.25",
        "distance from the start in CLIP-G: 12.00, 16.00",
        "angle from the start in CLIP-L: 60°, 60°",
        "angle from the start in CLIP-G: 90°, 90°",
        "norm in CLIP-L: 3.00, 3.00, at the start 2.00, 2.50",
        "norm in CLIP-G: 50.00, 50.00, at the start 40.00, 41.00",
        "norm of the vocabulary in CLIP-L: 0.4 in the middle, nine of ten words 0.31 to 0.49",
        "norm of the vocabulary in CLIP-G: 0.8 in the middle, nine of ten words 0.62 to 0.98",
    ):
        assert f"\n  {line}\n" in text
    assert "vocabulary" not in describe_tokens([_xl()], WORDS[:101]), "the norms of one encoder are not those of two"


def test_the_headline_has_a_mean_for_each_encoder() -> None:
    assert headline(_xl(known=LEARNED)) == (
        "RealVisXL_V5.0 · 400 steps · moved 1.38 and 14.00 · turned 60° and 90° (CLIP-L and CLIP-G)"
    )
    assert headline(_xl()) == "SDXL · norm 3.00 and 50.00 (CLIP-L and CLIP-G)"
    assert describe_norms(_xl().vectors, widths=(768, 1280)) == "CLIP-L 3.0, 3.0; CLIP-G 50.0, 50.0"


def _norms(tokens: list[LearnedToken], words: tuple[float, ...] = ()) -> Any:
    from matplotlib.figure import Figure

    from crossinit_core.tokens.report_charts import norms

    axes = Figure().add_axes((0, 0, 1, 1))
    norms(axes, tokens, words)
    return axes


def test_the_chart_has_a_panel_for_each_encoder() -> None:
    axes = _norms([_xl(known=LEARNED), _xl("ben", 3)], WORDS)
    assert [text.get_text() for text in axes.texts if "CLIP" in text.get_text()] == ["CLIP-L", "CLIP-G"]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    learned = [height for _, height in sorted(dots) if height in (pytest.approx(3), pytest.approx(50))]
    assert learned == pytest.approx([3] * 5 + [50] * 5)
    bands = [band.get_datalim(axes.transData) for band in axes.collections]
    assert [(band.y0, band.y1) for band in bands] == [pytest.approx((0.31, 0.49)), pytest.approx((0.62, 0.98))]
    assert bands[0].x1 <= bands[1].x0 + 1e-6, "each vocabulary stands behind its own vectors"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "1", "2", "3"] * 2


def test_one_encoder_has_no_panels(token: LearnedToken) -> None:
    assert not [text for text in _norms([token]).texts if "CLIP" in text.get_text()]


@pytest.mark.parametrize("words", [(), WORDS, WORDS[:101]], ids=["no vocabulary", "both", "one"])
def test_sdxl_is_drawn_beside_others(token: LearnedToken, words: tuple[float, ...]) -> None:
    assert token.history
    history = replace(token.history, vocabulary_norms=words)
    picture = draw_report(
        [replace(_xl(known=LEARNED), history=history), _xl("ben", 8), token, _xl("x" * 100, 1)], words
    )
    assert picture.shape[1:] == (1440, 3) and (picture < 128).any()


def test_the_vocabulary_is_measured_for_each_encoder(tiny_models: Path) -> None:
    from crossinit_core.tokens.vocabulary import vocabulary_norms

    backbone = DiffusersBackbone.from_pretrained(tiny_models / "tiny-xl")
    size = backbone.vocabulary_size
    with backbone.training(precision="fp32", gradient_checkpointing=False) as model:
        found = vocabulary_norms(model, size, backbone.widths)
    rows = backbone.embed(torch.arange(size))
    expected = [
        np.percentile(part.norm(dim=1).numpy(), range(101)) for part in rows.split(list(backbone.widths), dim=1)
    ]
    assert found == pytest.approx(np.concatenate(expected).tolist(), rel=1e-5)


def test_the_angle_is_the_mean_of_the_encoders() -> None:
    start = torch.tensor([[1.0, 0.0, 1000.0, 0.0]])
    turned = torch.tensor([[0.0, 1.0, 1000.0, 0.0]])
    assert mean_angle(turned, start, (2, 2)) == pytest.approx(45)
    assert mean_angle(turned, start) < 0.1


# The node


@pytest.fixture
def report(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the node: `report(tokens, clip)` gives its picture and its text."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    node = next(node for node in nodes if node.GET_SCHEMA().node_id == "CrossInitReport")

    def run(tokens: list[Any], **more: Any) -> tuple[torch.Tensor, str]:
        with torch.inference_mode():
            wires = {f"token{number}": token for number, token in enumerate(tokens)}
            return node.PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(wires, **more).result

    return run


def test_the_node_gives_an_image_that_other_nodes_take(report: Any, token: LearnedToken) -> None:
    image, text = report([token, None])
    assert image.dtype == torch.float32 and image.ndim == 4 and image.shape[2:] == (1440, 3)
    assert image.min() >= 0 and image.max() == 1
    assert text == describe_tokens([token])


def test_a_clip_adds_its_vocabulary(pack: ModuleType, report: Any, tiny_comfy: Any, tiny_models: Path) -> None:
    """With a CLIP, a token from a file is compared with its vocabulary."""
    clip = tiny_comfy(tiny_models / "tiny-eps")[1]
    token = pack.crossinit_core.LearnedToken(torch.ones(2, 32), "alice", "sd2")
    plain, with_clip = report([token]), report([token], clip=clip)
    assert "vocabulary" not in plain[1] and "norm of the vocabulary" in with_clip[1]
    assert not torch.equal(plain[0], with_clip[0])
    with pytest.raises(ValueError, match=r"width 32 .*learned on width 768"):
        report([pack.crossinit_core.LearnedToken(torch.ones(2, 768), "bob", "sd1")], clip=clip)


def test_the_vocabulary_is_the_same_after_clip_set_last_layer(
    pack: ModuleType, report: Any, tiny_comfy: Any, tiny_models: Path
) -> None:
    clip = tiny_comfy(tiny_models / "tiny-eps")[1]
    skipping = clip.clone()
    skipping.clip_layer(-1)
    token = pack.crossinit_core.LearnedToken(torch.ones(2, 32), "alice", "sd2")
    assert report([token], clip=skipping)[1] == report([token], clip=clip)[1]
