"""Fused blocks give the results and the gradients of diffusers' own, or are not used; and leave no trace on the caller's UNet."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from crossinit_core import InversionSettings, invert
from crossinit_core.backbone import Encoded
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.gpu.kernels import PLAIN
from crossinit_core.gpu.self_tests import values_and_gradients
from crossinit_core.models import diffusers_unet
from crossinit_core.models.diffusers_unet import FusedUNet
from crossinit_core.models.fusing import AGREEMENT, disagreement
from crossinit_core.models.private_copy import private_copy

# As in each family's own configuration, but for the sizes.
FAMILIES: dict[str, dict[str, Any]] = {
    "SD 1.x": {"attention_head_dim": 4, "use_linear_projection": False},
    "SD 2.x": {"attention_head_dim": [2, 4], "use_linear_projection": True},
    "SD 2.x, 768 px": {"attention_head_dim": [2, 4], "use_linear_projection": True, "upcast_attention": True},
}


@pytest.fixture(params=FAMILIES)
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _unet(**FAMILIES[request.param])


def _unet(**config: Any) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
        **config,
    )
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_block_is_diffusers_own(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    copy = private_copy(unet, lambda name: dtype)
    kinds = []
    for block in diffusers_unet._blocks(copy, PLAIN):
        kinds.append(type(block.forwards[0][0]).__name__)
        limit = 1e-5 if dtype == torch.float32 else AGREEMENT[dtype]
        assert disagreement(block, PLAIN.memory_format) < limit, kinds[-1]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "GroupNorm": 1,
        "ResnetBlock2D": 2 + 2 + 4,
        "Transformer2DModel": 1 + 1 + 2,
        "Upsample2D": 1,
    }


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_a_fused_unet_gives_what_diffusers_gives(
    unet: UNet2DConditionModel, size: tuple[int, int], checkpointing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A side of 9 is no double of anything, and is enlarged to all the same."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(2, 4, *size, generator=generator), torch.randn(2, 5, 24, generator=generator)]
    times = torch.tensor([3, 700])
    fused = FusedUNet(unet, torch.float32, PLAIN, checkpointing)
    assert fused.signature == (PLAIN.name, checkpointing) and not caplog.records

    def own(noisy: Tensor, context: Tensor) -> Tensor:
        return unet(noisy, times, encoder_hidden_states=context).sample

    found = values_and_gradients(lambda noisy, context: fused(noisy, times, Encoded(context)), inputs)
    for ours, truth in zip(found, values_and_gradients(own, inputs), strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-5 * float(truth.abs().max()), rtol=0)


def test_a_closed_unet_is_freed_at_once(unet: UNet2DConditionModel) -> None:
    fused = FusedUNet(unet, torch.float32, PLAIN, True)
    alive = weakref.ref(fused._unet)
    gc.disable()
    try:
        fused.close()
        del fused
        assert alive() is None
    finally:
        gc.enable()


def test_a_block_that_diffusers_computes_otherwise_stays_diffusers(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an update of diffusers that changes what a block does."""
    own = ResnetBlock2D.forward
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, *given: own(self, *given) * 1.1)
    with caplog.at_level(logging.WARNING):
        copy = FusedUNet(unet, torch.float32, PLAIN, False)
    assert "diffusers's own code computes the UNet" in caplog.text
    assert copy.signature == ("diffusers", False)
    assert not any("forward" in vars(part) for part in copy._unet.modules())
    noisy, context, times = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24), torch.tensor([500])
    expected = unet(noisy, times, encoder_hidden_states=context).sample
    torch.testing.assert_close(
        copy(noisy, times, Encoded(context)), expected, atol=1e-5 * float(expected.abs().max()), rtol=0
    )


def test_attention_with_an_adapter_is_left_to_it(unet: UNet2DConditionModel) -> None:
    class Louder(AttnProcessor2_0):
        def __call__(self, *given: Any, **more: Any) -> Tensor:
            return super().__call__(*given, **more) * 2

    unet.set_attn_processor(Louder())
    fused = FusedUNet(unet, torch.float32, PLAIN, False)
    assert {type(part).__name__ for part in fused._changed} >= {"ResnetBlock2D", "Upsample2D"}
    assert not any(type(part).__name__ == "Transformer2DModel" for part in fused._changed)
    noisy, context, times = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24), torch.tensor([500])
    expected = unet(noisy, times, encoder_hidden_states=context).sample
    torch.testing.assert_close(
        fused(noisy, times, Encoded(context)), expected, atol=1e-5 * float(expected.abs().max()), rtol=0
    )


@pytest.fixture
def fused_backbone(backbone: DiffusersBackbone) -> Iterator[DiffusersBackbone]:
    """The tiny model, on copies with fused blocks, as on a GPU."""
    backbone.fused = True
    yield backbone
    backbone.fused = False


@pytest.mark.parametrize("checkpointing", [False, True])
def test_learning_on_fused_blocks_leaves_no_trace(
    fused_backbone: DiffusersBackbone, eps: Any, checkpointing: bool
) -> None:
    def traces() -> list[tuple[Any, ...]]:
        modules = [fused_backbone.unet, fused_backbone.text_encoder]
        found: list[tuple[Any, ...]] = []
        for part in (inner for module in modules for inner in module.modules()):
            found.append(("forward" in vars(part), part.training, getattr(part, "gradient_checkpointing", None)))
        for weight in (inner for module in modules for inner in module.parameters()):
            place = (weight.data_ptr(), weight.stride(), weight.dtype, weight.requires_grad, weight.grad)
            found.append((*place, float(weight.double().sum())))
        return found

    before, needed = traces(), []
    settings = InversionSettings(steps=2, precision="bf16", gradient_checkpointing=checkpointing)
    invert(fused_backbone, eps.start, settings, batches=eps.batches(2))
    with (
        pytest.raises(KeyboardInterrupt),
        fused_backbone.training(precision="fp32", gradient_checkpointing=checkpointing),
    ):
        raise KeyboardInterrupt
    assert traces() == before
    for fused in (True, False):
        fused_backbone.fused = fused
        needed.append(
            fused_backbone.memory_needed(
                precision="fp32", samples=1, resolution=64, gradient_checkpointing=checkpointing
            )
        )
    parts = (fused_backbone.unet, fused_backbone.text_encoder)
    assert needed[0] - needed[1] == 4 * sum(weight.numel() for part in parts for weight in part.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fused_blocks_learn_what_diffusers_own_learn(
    fused_backbone: DiffusersBackbone, eps: Any, checkpointing: bool
) -> None:
    settings = InversionSettings(steps=6, gradient_checkpointing=checkpointing)
    fused = invert(fused_backbone, eps.start, settings, batches=eps.batches(6))
    fused_backbone.fused = False
    own = invert(fused_backbone, eps.start, settings, batches=eps.batches(6))
    torch.testing.assert_close(fused.token.vectors, own.token.vectors, atol=1e-5, rtol=0)
    assert fused.losses == pytest.approx(own.losses, abs=1e-5)


def test_on_a_cpu_diffusers_own_code_learns(backbone: DiffusersBackbone) -> None:
    """Its numbers are those of the published runs, bit for bit."""
    assert not backbone.fused
    with backbone.training(precision="fp32", gradient_checkpointing=False) as model:
        assert model._unet is backbone.unet  # type: ignore[attr-defined]
        assert model.signature is not None
