"""Measures of a learned token: drift, identity similarity, prompt similarity."""

from __future__ import annotations

import math

import pytest
import torch

from crossinit_core.evaluation import drift, identity_similarity, prompt_similarity


def test_drift_tells_growth_from_turning() -> None:
    start = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    vectors = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 2.0], [-1.5, 0.0, 0.0]])
    found = drift(vectors, start)
    torch.testing.assert_close(found.start_norms, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found.norms, torch.tensor([4.0, 2.0, 1.5]))
    torch.testing.assert_close(found.norm_ratios, torch.tensor([4.0, 1.0, 0.5]))
    torch.testing.assert_close(found.angles, torch.tensor([0.0, 90.0, 180.0]))
    torch.testing.assert_close(found.distances, torch.tensor([3.0, 8**0.5, 4.5]))


@pytest.mark.parametrize("degrees", [1e-4, 0.01, 1.0, 60.0, 179.99])
def test_small_angles_are_not_lost_to_rounding(degrees: float) -> None:
    start = torch.tensor([[16.0, 0.0]], dtype=torch.float64)
    turned = torch.tensor([[math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]], dtype=torch.float64)
    assert drift(5 * turned, start).angles.item() == pytest.approx(degrees, rel=1e-5)


def test_vectors_that_did_not_move_have_no_drift() -> None:
    vectors = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))
    found = drift(vectors, vectors.clone())
    assert found.angles.tolist() == [0.0, 0.0] and found.distances.tolist() == [0.0, 0.0]
    assert found.norm_ratios.tolist() == [1.0, 1.0]


def test_drift_takes_half_precision() -> None:
    """It gives float32 without a graph."""
    vectors = torch.ones(2, 8, dtype=torch.bfloat16, requires_grad=True)
    found = drift(vectors, torch.full((2, 8), 2.0, dtype=torch.float16))
    assert found.norm_ratios.dtype == torch.float32 and not found.norm_ratios.requires_grad
    assert found.norm_ratios.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("vectors", "start", "message"),
    [
        (torch.ones(2, 4), torch.ones(3, 4), r"\(2, 4\).*\(3, 4\)"),
        (torch.ones(4), torch.ones(4), r"\(K, d\)"),
        (torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2), "learned vectors hold values that are not numbers"),
        (torch.ones(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "Row 1 of the start is zero"),
    ],
)
def test_drift_says_what_is_wrong_with_its_input(vectors: torch.Tensor, start: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drift(vectors, start)


def test_identity_similarity_is_a_mean_cosine() -> None:
    """The mean is over the photos of the person."""
    faces = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    photos = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    torch.testing.assert_close(identity_similarity(faces, photos), torch.tensor([0.5, 0.5, -0.5]))
    torch.testing.assert_close(identity_similarity(faces, photos[0]), torch.tensor([1.0, 0.0, -1.0]))


def test_prompt_similarity_goes_by_pairs() -> None:
    """Each picture is compared with its own prompt."""
    pictures = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float16)
    texts = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    scores = prompt_similarity(pictures, texts)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(prompt_similarity(pictures, texts[0]), scores)


def test_features_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="width 512, but those of references 768"):
        identity_similarity(torch.ones(2, 512), torch.ones(768))
    with pytest.raises(ValueError, match="3 pictures and 2 prompts"):
        prompt_similarity(torch.ones(3, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match="width 4, but those of texts 5"):
        prompt_similarity(torch.ones(3, 4), torch.ones(3, 5))
    with pytest.raises(ValueError, match="Row 1 of the faces is zero"):
        identity_similarity(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.ones(2))
    with pytest.raises(ValueError, match=r"faces must be of shape \(N, d\), but are \(4,\)"):
        identity_similarity(torch.ones(4), torch.ones(4))
