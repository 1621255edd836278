"""Another optimizer needs no change in step, loop, resume files or recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from crossinit_core import InversionSettings, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning import step as step_module
from crossinit_core.learning.batches import batches_from_photos
from crossinit_core.learning.optimizers import AdamW, Optimizer, Rate, make_optimizer
from crossinit_core.learning.settings import from_preset
from crossinit_core.tokens.vocabulary import mean_norms
from tests.resumed import PHOTO, SETTINGS, Cancel, files_in, same, stop_after


class Momentum:
    """Gradient descent with momentum .9: one tensor of state, and nothing that is counted."""

    def __init__(self, vectors: nn.Parameter, settings: InversionSettings) -> None:
        self._vectors, self._rate = vectors, settings.learning_rate
        self.state = {"velocity": torch.zeros_like(vectors)}
        self.counters: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def restore(self, step: int, state: dict[str, Tensor]) -> None:
        self.state["velocity"].copy_(state["velocity"]) if state else self.state["velocity"].zero_()

    @torch.no_grad()
    def update(self) -> None:
        assert self._vectors.grad is not None
        self._vectors.sub_(self._rate * self.state["velocity"].mul_(0.9).add_(self._vectors.grad))


@pytest.fixture
def momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(vectors: nn.Parameter, _start: Tensor, settings: InversionSettings, _widths: Sequence[int]) -> Optimizer:
        return Momentum(vectors, settings)

    monkeypatch.setattr(step_module, "make_optimizer", make)


def test_another_optimizer_learns_and_goes_on(
    momentum: None, backbone: DiffusersBackbone, v0: Tensor, tmp_path: Path
) -> None:
    uninterrupted = invert(backbone, v0, SETTINGS, images=PHOTO)
    assert not torch.equal(uninterrupted.token.vectors, v0)
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    with safe_open(files_in(tmp_path)[0], framework="pt") as file:
        assert {key for key in file.keys() if key.startswith("optimizer.")} == {"optimizer.velocity"}  # noqa: SIM118
    resumed = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert resumed.resumed_from == 3
    assert same(resumed, uninterrupted)


def test_the_published_optimizer_is_torchs_own() -> None:
    start = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    settings = InversionSettings(learning_rate=0.02, weight_decay=0.1)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, reference = (
        make_optimizer(ours, ours.detach().clone(), settings, (ours.shape[1],)),
        torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1),
    )
    for number in range(4):
        ours.grad = theirs.grad = torch.randn(2, 8, generator=torch.Generator().manual_seed(number))
        optimizer.update()
        reference.step()
    assert torch.equal(ours, theirs)


def test_an_optimizer_goes_on_after_other_steps() -> None:
    gradients = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(1))
    vectors = nn.Parameter(torch.zeros(2, 8))
    optimizer = AdamW(vectors, Rate(InversionSettings(learning_rate=0.1)), weight_decay=0.01)
    for number, gradient in enumerate(gradients):
        if number == 3:
            kept = vectors.detach().clone(), {key: tensor.clone() for key, tensor in optimizer.state.items()}
        vectors.grad = gradient
        optimizer.update()
    again = nn.Parameter(kept[0])
    other = AdamW(again, Rate(InversionSettings(learning_rate=0.1)), weight_decay=0.01)
    other.restore(3, kept[1])
    for gradient in gradients[3:]:
        again.grad = gradient
        other.update()
    assert torch.equal(again, vectors)


def test_the_direction_goes_on_without_anything_kept(backbone: DiffusersBackbone, v0: Tensor, tmp_path: Path) -> None:
    settings = replace(SETTINGS, method="direction", learning_rate=0.04, prior=1e-4)
    uninterrupted = invert(backbone, v0, settings, images=PHOTO)
    with pytest.raises(Cancel):
        invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    resumed = invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path)
    assert resumed.resumed_from == 3
    assert same(resumed, uninterrupted)
    norms = uninterrupted.token.vectors.norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, mean_norms(backbone)[0]))


def test_a_zero_vector_has_no_direction(backbone: DiffusersBackbone, v0: Tensor) -> None:
    with pytest.raises(ValueError, match="has no direction to learn"):
        invert(backbone, torch.zeros_like(v0), replace(SETTINGS, method="direction"), images=PHOTO)


@pytest.mark.parametrize("timesteps", [(0, 1001), (5, 5), (9, 3), (-1, 4)])
def test_an_impossible_range_of_timesteps_is_refused(timesteps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="timesteps is"):
        InversionSettings(timesteps=timesteps).check()


def test_only_the_chosen_timesteps_are_learned_from(backbone: DiffusersBackbone) -> None:
    batches, _ = batches_from_photos(backbone, 2, replace(SETTINGS, timesteps=(500, 510), batch_size=8), PHOTO, None)
    drawn = torch.cat([next(batches).timesteps for _ in range(20)])
    assert set(drawn.tolist()) == set(range(500, 510))


def test_a_falling_rate_is_that_of_torchs_scheduler() -> None:
    start = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    settings = InversionSettings(steps=5, learning_rate=0.02, schedule="linear")
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = make_optimizer(ours, start, settings, (8,))
    reference = torch.optim.AdamW([theirs], lr=0.02, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(reference, start_factor=1, end_factor=1 / 5, total_iters=4)
    for number in range(5):
        ours.grad = theirs.grad = torch.randn(2, 8, generator=torch.Generator().manual_seed(number))
        optimizer.update()
        reference.step()
        schedule.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_falling_rate_turns_less_in_each_step() -> None:
    start = torch.nn.functional.normalize(torch.randn(1, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    vectors = nn.Parameter(start.clone())
    settings = InversionSettings(steps=4, learning_rate=0.2, method="direction", schedule="linear")
    optimizer = make_optimizer(vectors, start, settings, (8,))
    tangents = []
    for number in range(1, 5):
        before = vectors.detach().clone()
        vectors.grad = torch.randn(1, 8, generator=torch.Generator().manual_seed(number))
        optimizer.update()
        tangents.append(float(torch.tan(torch.acos((before * vectors.detach()).sum()))))
    # A step along a unit tangent t ends at (u - eta t) / |u - eta t|: the tangent of its angle is eta.
    assert tangents == pytest.approx([0.2, 0.15, 0.1, 0.05], rel=1e-3)


@pytest.mark.parametrize("method", ["published", "direction"])
def test_a_falling_rate_goes_on_where_it_was(
    method: str, backbone: DiffusersBackbone, v0: Tensor, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, method=method, schedule="linear")  # type: ignore[arg-type]
    uninterrupted = invert(backbone, v0, settings, images=PHOTO)
    with pytest.raises(Cancel):
        invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    resumed = invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path)
    assert resumed.resumed_from == 3
    assert same(resumed, uninterrupted)
    other = replace(settings, steps=settings.steps + 1)
    assert invert(backbone, v0, other, images=PHOTO, resume_folder=tmp_path).resumed_from == 0


def test_a_token_says_that_its_rate_fell(backbone: DiffusersBackbone, v0: Tensor) -> None:
    settings = replace(SETTINGS, steps=2)
    assert "crossinit.schedule" not in invert(backbone, v0, settings, images=PHOTO).token.metadata
    token = invert(backbone, v0, replace(settings, schedule="linear"), images=PHOTO).token
    assert token.metadata["crossinit.schedule"] == "linear"


def test_a_preset_keeps_its_method_and_refuses_what_changes_nothing() -> None:
    assert from_preset("sd2", "swift", {"steps": 30, "method": "direction"}).learning_rate == 0.3
    published = from_preset("sd2", "full", {"method": "direction"})
    assert (published.learning_rate, published.prior) == (0.04, 1e-4)
    with pytest.raises(ValueError, match="method is published, but preset best learns the direction alone"):
        from_preset("sd2", "best", {"method": "published"})
    with pytest.raises(ValueError, match=r"weight_decay is 0\.1, but this preset"):
        from_preset("sdxl", "swift", {"weight_decay": 0.1})
    with pytest.raises(ValueError, match="prior is 1, but only method direction"):
        from_preset("sd1", "full", {"prior": 1})
