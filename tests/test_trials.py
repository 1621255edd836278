"""What trials of learning add: the other words held to what they were, and an end when a fixed batch has settled."""

from __future__ import annotations

import pytest
import torch

from benchmarks.paper_claims.context import HELD_PROMPTS, HeldContext, held_prompts
from benchmarks.paper_claims.settling import EVERY, PATIENCE, FixedBatch, SettledError
from benchmarks.ways.plan import CHOOSING
from crossinit_core import lookup_words
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.objective import splice
from miniature.training import pack
from miniature.training.captions import PROMPTS


@pytest.fixture(scope="module")
def backbone() -> DiffusersBackbone:
    return pack.load_backbone(pack.WEIGHTS, torch.device("cpu"))


def test_nothing_is_held_that_is_chosen_on() -> None:
    texts = held_prompts()
    assert len(texts) == HELD_PROMPTS and all("{}" in text for text in texts) and texts == held_prompts()
    assert not set(texts) & {prompt.text for prompt in CHOOSING}
    assert len(set(texts) & {prompt.text for prompt in PROMPTS}) == 2


@pytest.mark.parametrize("vectors", [1, 2])
def test_the_other_words_are_held(backbone: DiffusersBackbone, vectors: int) -> None:
    """The gradient is that of the diffusion loss and, written out, of the mean squared change of the other words."""
    held = HeldContext(backbone, "person", vectors, weight=3.0)
    size = backbone.vocabulary_size
    v = (lookup_words(backbone, " ".join(["person"] * vectors)) * 1.5).requires_grad_()
    ids = torch.tensor([backbone.bos, *backbone.tokenize("a photo of"), *range(size, size + vectors), backbone.eos])
    ids = torch.nn.functional.pad(ids, (0, 77 - len(ids)), value=backbone.pad)[None]
    ends = torch.tensor([5 + vectors - 1])
    with held.training(precision="fp32", gradient_checkpointing=False) as model:
        known = model.embed(ids.clamp_max(size - 1))
        context = model.encode(splice(v, known, ids, size), ends).context
        (found,) = torch.autograd.grad(context.square().mean(), v)
    with backbone.training(precision="fp32", gradient_checkpointing=False) as model:
        plain = model.encode(splice(v, known, ids, size), ends).context
        assert torch.equal(plain, context)
        other = model.encode(splice(v, held.known, held.ids, size), held.ends).context
        apart = (other - held.wanted)[held.ids < size]
        (wanted,) = torch.autograd.grad(plain.square().mean() + 3.0 * apart.square().mean(), v)
        (alone,) = torch.autograd.grad(model.encode(splice(v, known, ids, size), ends).context.square().mean(), v)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert (found - alone).norm() > 0.01 * alone.norm()
    beside = HeldContext(backbone, "person", vectors, weight=1.0)
    same = lookup_words(backbone, " ".join(["person"] * vectors))
    again = backbone.encode(splice(same, beside.known, beside.ids, size), beside.ends).context
    torch.testing.assert_close(again, beside.wanted)


def test_it_ends_when_nothing_gets_better(backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = FixedBatch(backbone, torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0)), 1)
    vectors = lookup_words(backbone, "person")
    assert fixed.loss(vectors) == fixed.loss(vectors) > 0
    assert fixed.loss(vectors) != fixed.loss(vectors * 3)
    losses = iter([1.0, 0.9, 0.895, 0.894, 0.88, *[0.879] * PATIENCE])
    monkeypatch.setattr(fixed, "loss", lambda _: next(losses))
    with pytest.raises(SettledError) as end:
        for step in range(1, 1000):
            fixed.look(step, vectors)
    assert end.value.step == EVERY * (5 + PATIENCE) and end.value.vectors is vectors
