"""Numbers of a token that its metadata holds, for one text encoder and for two."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from crossinit_core.tokens import metadata

WIDTHS = (768, 1280)


def test_each_encoder_has_its_own_norms_and_cosines() -> None:
    first, second = torch.randn(2, 3, 2048).unbind()
    norms = metadata.norms_by_encoder(first, WIDTHS)
    assert torch.equal(norms, torch.cat([first[:, :768].norm(dim=1), first[:, 768:].norm(dim=1)]))
    cosines = metadata.cosines_by_encoder(first, second, WIDTHS)
    parts = [F.cosine_similarity(first[:, at], second[:, at]) for at in (slice(0, 768), slice(768, None))]
    assert torch.equal(cosines, torch.cat(parts)) and cosines.shape == (6,)


@pytest.mark.parametrize("widths", [(), (1024,)])
def test_one_encoder_has_the_numbers_of_before(widths: tuple[int, ...]) -> None:
    first, second = torch.randn(2, 3, 1024).unbind()
    assert torch.equal(metadata.norms_by_encoder(first, widths), first.norm(dim=1))
    assert torch.equal(metadata.cosines_by_encoder(first, second, widths), F.cosine_similarity(first, second))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_standard_has_a_name_for_sdxl(prediction: metadata.PredictionType) -> None:
    assert metadata.modelspec_architecture("sdxl", prediction) == {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/textual-inversion"
    }
