"""Tokens made of tokens: between two people, nearer to their start, and as long as it."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from crossinit_core.errors import InputError
from crossinit_core.tokens.blending import blend_tokens, rescale_token, token_at_strength
from crossinit_core.tokens.metadata import START, packed, unpacked
from tests.tiny_page import hearing


def _token(
    name: str, number: int, /, *, vectors: int = 2, width: int = 8, length: float = 30.0, **metadata: str
) -> LearnedToken:
    values = torch.randn(vectors, width, generator=torch.Generator().manual_seed(number))
    values = values / values.norm(dim=1, keepdim=True) * length
    return LearnedToken(values, name, "sd2", {f"crossinit.{key}": value for key, value in metadata.items()})


@pytest.mark.parametrize("method", ["arc", "line"])
def test_the_ends_are_the_people_themselves(method: str) -> None:
    a, b = _token("anna", 1), _token("ben", 2, length=20)
    torch.testing.assert_close(blend_tokens(a, b, 0, method=method).vectors, a.vectors)
    torch.testing.assert_close(blend_tokens(a, b, 1, method=method).vectors, b.vectors)
    torch.testing.assert_close(
        blend_tokens(a, b, 0.3, method=method).vectors, blend_tokens(b, a, 0.7, method=method).vectors
    )


def test_a_straight_mixture_is_the_average() -> None:
    a, b = _token("anna", 1), _token("ben", 2)
    torch.testing.assert_close(blend_tokens(a, b, 0.25, method="line").vectors, 0.75 * a.vectors + 0.25 * b.vectors)


def test_the_arc_goes_evenly() -> None:
    """Lengths and angles grow in equal steps."""
    a = LearnedToken(torch.tensor([[10.0, 0.0]]), "anna", "sd2")
    b = LearnedToken(torch.tensor([[0.0, 20.0]]), "ben", "sd2")
    third = blend_tokens(a, b, 1 / 3).vectors[0]
    assert float(third.norm()) == pytest.approx(40 / 3, rel=1e-5)
    assert float(torch.atan2(third[1], third[0])) == pytest.approx(torch.pi / 6, rel=1e-5)
    same = blend_tokens(a, a.renamed("twin"), 0.4).vectors
    torch.testing.assert_close(same, a.vectors)


def test_nearly_equal_directions_do_not_lose_their_angle() -> None:
    a, b = _token("anna", 1), _token("ben", 2)
    near = LearnedToken(torch.lerp(a.vectors, b.vectors, 1e-4), "near", "sd2")
    torch.testing.assert_close(blend_tokens(a, near, 0.5).vectors, torch.lerp(a.vectors, near.vectors, 0.5))


def test_a_blend_says_what_it_is_made_of(tmp_path: Path) -> None:
    a = _token("anna", 1, base="sd2", steps="320", draw="1", start_norm="30 32", norm="1 2", cosine="0.9 0.9")
    b = _token("ben", 2, base="sd2", steps="25", draw="1", start_norm="40 32", norm="3 4", cosine="0.9 0.9")
    blend = blend_tokens(a, b, 0.25)
    assert blend.name == "anna-ben"
    save_learned_token(blend, tmp_path / "mix.safetensors")
    facts = load_learned_token(tmp_path / "mix.safetensors").metadata
    assert facts["crossinit.blend"] == "0.75 anna + 0.25 ben (arc)"
    assert facts["crossinit.draw"] == "1" and "crossinit.steps" not in facts and "crossinit.cosine" not in facts
    assert facts["crossinit.norm"] == "30.0000 30.0000"
    assert facts["crossinit.start_norm"] == "32.5000 32.0000"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: _token("ben", 2, vectors=3), "'anna' has 2 vectors, but 'ben' has 3"),
        (lambda: LearnedToken(torch.ones(2, 768), "ben", "sd1"), r"but 'ben' on SD 1.x \(width 768\)"),
        (lambda: LearnedToken(-_token("anna", 1).vectors, "ben", "sd2"), "opposite"),
        (lambda: LearnedToken(torch.zeros(2, 8), "ben", "sd2"), "is zero"),
    ],
)
def test_tokens_that_do_not_fit_each_other(other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blend_tokens(_token("anna", 1), other(), 0.5)


def test_weights_methods_and_amounts_that_cannot_be() -> None:
    a, b = _token("anna", 1), _token("ben", 2)
    with pytest.raises(ValueError, match=r"weight is 1\.5"):
        blend_tokens(a, b, 1.5)
    with pytest.raises(ValueError, match="method is 'mean'"):
        blend_tokens(a, b, 0.5, method="mean")
    with pytest.raises(ValueError, match=r"amount is -0\.1"):
        rescale_token(a, -0.1)


def test_rescaling_goes_towards_the_recorded_length(tmp_path: Path) -> None:
    """The direction stays."""
    token = _token("anna", 1, length=40, start_norm="30.0000 20.0000", distance="17 17", steps="320")
    assert torch.equal(rescale_token(token, 0).vectors, token.vectors)
    half = rescale_token(token, 0.5)
    torch.testing.assert_close(half.vectors.norm(dim=1), torch.tensor([35.0, 30.0]))
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(half.vectors, token.vectors), torch.ones(2))
    save_learned_token(half, tmp_path / "half.safetensors")
    loaded = load_learned_token(tmp_path / "half.safetensors")
    assert loaded.metadata["crossinit.rescaled"] == "0.5 of the way from 40.0000 40.0000 to 30.0000 20.0000"
    assert loaded.metadata["crossinit.norm"] == "35.0000 30.0000" and "crossinit.distance" not in loaded.metadata
    torch.testing.assert_close(rescale_token(loaded, 1).vectors.norm(dim=1), torch.tensor([30.0, 20.0]))


def test_a_token_without_a_recorded_start_needs_one() -> None:
    token = _token("anna", 1, length=40)
    for recorded in ("", "thirty", "30", "30 nan", "30 0"):
        with pytest.raises(ValueError, match=r"'anna' does not say how long.*Give the start"):
            rescale_token(_token("anna", 1, start_norm=recorded), 0.5)
    start = _token("start", 3, length=25).vectors
    torch.testing.assert_close(rescale_token(token, 1, start=start).vectors.norm(dim=1), torch.tensor([25.0, 25.0]))
    with pytest.raises(ValueError, match="The start has 3 x 8, but the token 'anna' has 2 x 8"):
        rescale_token(token, 1, start=torch.ones(3, 8))


def test_a_learned_token_records_its_start() -> None:
    from crossinit_core.learning.provenance import provenance
    from crossinit_core.learning.settings import InversionSettings
    from crossinit_core.learning.state import RunState

    start = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    backbone: Any = SimpleNamespace(prediction_type="epsilon", base="sd2", checkpoint="x", widths=(2,))
    model: Any = SimpleNamespace(fingerprint=lambda: "", dtype=torch.float32)
    facts = provenance(backbone, model, InversionSettings(resolution=512), start, RunState(1, start * 2, {}, {}))
    token = LearnedToken(start * 2, "anna", "sd2", facts)
    torch.testing.assert_close(rescale_token(token, 1).vectors, start)


def _of_two(name: str, lengths: tuple[float, float], angle: float, **metadata: str) -> LearnedToken:
    """One vector for SDXL: of `lengths` in each encoder, turned by `angle` degrees in the first and by twice that in the
    second."""
    parts = []
    for width, length, turn in zip((768, 1280), lengths, (angle, 2 * angle), strict=True):
        part = torch.zeros(1, width)
        radians = math.radians(turn)
        part[0, 0], part[0, 1] = length * math.cos(radians), length * math.sin(radians)
        parts.append(part)
    return LearnedToken(
        torch.cat(parts, 1), name, "sdxl", {f"crossinit.{key}": value for key, value in metadata.items()}
    )


def _polar(part: torch.Tensor) -> tuple[float, float]:
    return float(part.norm()), math.degrees(math.atan2(float(part[0, 1]), float(part[0, 0])))


def test_each_encoder_turns_on_its_own() -> None:
    """The second encoder's part is a hundred times longer: an arc over all columns would be its arc alone."""
    a, b = _of_two("anna", (1.0, 100.0), 0, start_norm="1 90"), _of_two("ben", (3.0, 200.0), 60, start_norm="2 100")
    blend = blend_tokens(a, b, 0.25)
    assert (blend.base, blend.widths) == ("sdxl", (768, 1280))
    assert _polar(blend.parts[0]) == pytest.approx((1.5, 15), rel=1e-5)
    assert _polar(blend.parts[1]) == pytest.approx((125, 30), rel=1e-5)
    assert blend.metadata["crossinit.norm"] == "1.5000 125.0000"
    assert blend.metadata["crossinit.start_norm"] == "1.2500 92.5000"
    straight = blend_tokens(a, b, 0.25, method="line")
    torch.testing.assert_close(straight.vectors, 0.75 * a.vectors + 0.25 * b.vectors)


def test_each_encoder_keeps_its_own_length(tmp_path: Path) -> None:
    token = _of_two("anna", (4.0, 100.0), 20, start_norm="2.0000 50.0000")
    half = rescale_token(token, 0.5)
    assert _polar(half.parts[0]) == pytest.approx((3, 20)) and _polar(half.parts[1]) == pytest.approx((75, 40))
    loaded = load_learned_token(save_learned_token(half, tmp_path / "anna.safetensors"))
    assert loaded.metadata["crossinit.rescaled"] == "0.5 of the way from 4.0000 100.0000 to 2.0000 50.0000"
    whole = rescale_token(loaded, 1)
    assert [round(float(part.norm()), 4) for part in whole.parts] == [2.0, 50.0] and whole.widths == (768, 1280)
    from_start = rescale_token(token, 1, start=_of_two("start", (1.0, 7.0), 0).vectors)
    assert [round(float(part.norm()), 4) for part in from_start.parts] == [1.0, 7.0]


def test_small_tokens_of_two_encoders_keep_their_widths() -> None:
    a, b = (LearnedToken(torch.randn(2, 80), name, "width-32+48", widths=(32, 48)) for name in ("anna", "ben"))
    assert blend_tokens(a, b, 0.5).widths == rescale_token(a, 1, start=b.vectors).widths == (32, 48)


def test_half_a_record_of_the_start_does_not_count() -> None:
    token = _of_two("anna", (4.0, 100.0), 20, start_norm="2.0000")
    with pytest.raises(ValueError, match=r"'anna' does not say how long.*Give the start"):
        rescale_token(token, 0.5)


def test_sdxl_and_sd_1_cannot_be_blended() -> None:
    with pytest.raises(ValueError, match=r"SDXL \(width 768 \+ 1280\), but 'ben' on SD 1.x \(width 768\)"):
        blend_tokens(_of_two("anna", (1.0, 2.0), 0), LearnedToken(torch.ones(1, 768), "ben", "sd1"), 0.5)


def test_the_dial_goes_from_the_start_to_the_person_and_on() -> None:
    """Each encoder's direction turns evenly by its own angle; the norm stops where learning stopped."""
    start = _of_two("start", (2.0, 64.0), 0)
    token = _of_two(
        "anna", (4.0, 128.0), 20, start=packed(start.vectors), steps="25", distance="3 80", cosine="0.9 0.7"
    )
    half = token_at_strength(token, 0.5)
    assert _polar(half.parts[0]) == pytest.approx((3, 10), rel=2e-3)
    assert _polar(half.parts[1]) == pytest.approx((96, 20), rel=2e-3)
    torch.testing.assert_close(token_at_strength(token, 0.0).vectors, start.vectors, rtol=1e-3, atol=1e-3)
    more = token_at_strength(token, 1.5)
    assert _polar(more.parts[0]) == pytest.approx((4, 30), rel=2e-3)
    assert _polar(more.parts[1]) == pytest.approx((128, 60), rel=2e-3)
    assert (half.name, half.base, half.widths) == ("anna", "sdxl", (768, 1280))
    facts = half.metadata
    assert (facts["crossinit.strength"], facts["crossinit.steps"], facts["crossinit.norm"]) == (
        "0.5",
        "25",
        "3.0000 96.0000",
    )
    assert "crossinit.distance" not in facts and "crossinit.cosine" not in facts


def test_as_learned_is_the_token_itself() -> None:
    token = _token("anna", 1)
    assert token_at_strength(token, 1) is token, "also one that does not know its start"


def test_nobody_turns_further_than_half_a_turn() -> None:
    token = LearnedToken(torch.tensor([[-1.0, 0.1]]), "anna", "width-2", {START: packed(torch.tensor([[1.0, 0.1]]))})
    assert token_at_strength(token, 1.5).vectors.tolist()[0] == pytest.approx([-1.0, -0.1], rel=1e-2)


def test_where_learning_started_goes_into_every_kind_of_file(tmp_path: Path) -> None:
    start = _token("start", 2).vectors
    token = _token("anna", 1, start=packed(start))
    loaded = load_learned_token(save_learned_token(token, tmp_path / "anna.safetensors"))
    torch.testing.assert_close(token_at_strength(loaded, 0.7).vectors, token_at_strength(token, 0.7).vectors)
    blend = blend_tokens(token, _token("ben", 3, start=packed(start)), 0.5)
    torch.testing.assert_close(token_at_strength(blend, 0).vectors, start, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "recorded", ["", "AAAA", "not base64", packed(torch.full((2, 8), math.inf)), packed(torch.ones(3, 8))]
)
def test_a_token_that_does_not_know_its_start_is_as_it_is(recorded: str) -> None:
    assert unpacked({START: recorded}, START, (2, 8)) is None
    with pytest.raises(
        ValueError, match=r"strength of 'anna' is 0.8, but its file does not say where.*Learn it anew"
    ) as told:
        token_at_strength(_token("anna", 1, start=recorded), 0.8)
    assert isinstance(told.value, InputError) and told.value.subject == "strength"


@pytest.mark.parametrize("strength", [-0.1, 1.51, math.nan])
def test_a_strength_that_there_is_not_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"The strength is .*, but must be from 0 .* to 1.5"):
        token_at_strength(_token("anna", 1), strength)


def test_the_nodes_blend_and_rescale(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import server

    texts: list[str] = []
    page = hearing(texts)
    monkeypatch.setattr(server.PromptServer, "instance", page, raising=False)
    make = pack.crossinit_core.LearnedToken
    a, b = (make(_token(name, seed).vectors, name, "sd2") for seed, name in enumerate(("anna", "ben")))
    blend = pack.nodes.blending.CrossInitBlend.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    rescale = pack.nodes.blending.CrossInitRescale.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    mixed = blend.execute(a, b, 0.25).result[0]
    torch.testing.assert_close(mixed.vectors, blend_tokens(a, b, 0.25).vectors)
    assert blend.execute(a, b, 0.25, " friend ", "straight").result[0].name == "friend"
    start = pack.crossinit_core.starts.Starts(torch.full((2, 8), 2.0))
    shorter = rescale.execute(mixed, 1.0, start).result[0]
    assert shorter.vectors.norm(dim=1).tolist() == pytest.approx([32**0.5] * 2, rel=1e-4)
    turned = pack.crossinit_core.starts.Starts(start.vectors, {}, torch.full((2, 8), 0.5))
    longer = make(mixed.vectors, "anna", "sd2", {"crossinit.method": "direction"})
    assert rescale.execute(longer, 1.0, turned).result[0].vectors.norm(dim=1).tolist() == pytest.approx([2**0.5] * 2)
    assert texts[0] == "anna-ben: 75% anna, 25% ben" and "-> 5.7, 5.7" in texts[-2]
    assert "holds a space" in str(blend.validate_inputs("my friend")) and blend.validate_inputs("") is True
