"""What SDXL's blocks have beside the others': rows of transformer blocks, and a time embedding through which is learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.autograd import gradcheck

from benchmarks.speed.sdxl import LARGE, make_uneven
from crossinit_core.backbone import Encoded
from crossinit_core.gpu.kernels import PLAIN, plain
from crossinit_core.gpu.kernels.frozen_layers import pack, project, side_by_side
from crossinit_core.gpu.self_tests import values_and_gradients
from crossinit_core.models import diffusers_unet
from crossinit_core.models.computed_again import feed_forward_again
from crossinit_core.models.diffusers_unet import FusedUNet
from crossinit_core.models.fusing import AGREEMENT, FusedBlock, checkpoint_blocks, disagreement
from crossinit_core.models.private_copy import private_copy

DOUBLE: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
DEPTH = 3


@pytest.fixture(params=[64, 32])
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    """SDXL's structure, three transformer blocks in a row on the second level.

    With 32 channels in 32 groups, the norm of the first level takes away what the time embedding adds.
    """
    width = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(width, 2 * width),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=24,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
            transformer_layers_per_block=[1, DEPTH],
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=12 + 6 * 8,
        )
    return model.eval().requires_grad_(False)


def _blocks(unet: UNet2DConditionModel, dtype: torch.dtype = torch.float32) -> list[FusedBlock]:
    return list(diffusers_unet._blocks(private_copy(unet, lambda name: dtype), PLAIN))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_block_of_sdxl_is_diffusers_own(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    limit = 1e-5 if dtype == torch.float32 else AGREEMENT[dtype]
    for block in _blocks(unet, dtype):
        assert block.learns_embedding or block.embedding is None or unet.config.block_out_channels[0] == 32
        assert block.odd == (block.context is not None)
        assert disagreement(block, PLAIN.memory_format) < limit, block.kind


def _inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 24), (2, 12))]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_pooled_output_and_prompt_get_diffusers_gradients(unet: UNet2DConditionModel, checkpointing: bool) -> None:
    times, sizes = torch.tensor([3, 700]), torch.tensor([[8.0, 8, 0, 0, 8, 8]] * 2)
    fused = FusedUNet(unet, torch.float32, PLAIN, checkpointing)
    assert fused.signature == (PLAIN.name, checkpointing)

    def own(noisy: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        conditions = {"text_embeds": pooled, "time_ids": sizes}
        return unet(noisy, times, encoder_hidden_states=context, added_cond_kwargs=conditions).sample

    found = values_and_gradients(lambda noisy, *prompt: fused(noisy, times, Encoded(*prompt), sizes), _inputs())
    for ours, truth in zip(found, values_and_gradients(own, _inputs()), strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-5 * float(truth.abs().max()), rtol=0)


def test_a_lost_gradient_of_the_pooled_output_is_found(unet: UNet2DConditionModel) -> None:
    block = next(block for block in _blocks(unet) if block.learns_embedding)
    lossy = replace(block, fused=lambda x, emb: block.fused(x, emb.detach() + 0 * emb))
    assert disagreement(block, PLAIN.memory_format) < 1e-5
    assert disagreement(lossy, PLAIN.memory_format) > AGREEMENT[torch.bfloat16]
    unlearned = replace(lossy, learns_embedding=False)
    assert disagreement(unlearned, PLAIN.memory_format) < 1e-5, "where nothing is learned through it, it is not tried"


def _kept(work: Any) -> list[torch.Size]:
    """The shapes of what a computation keeps for its backward pass."""
    kept: list[torch.Size] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.shape)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        work()
    return kept


def _feed_forward_layers() -> tuple[nn.LayerNorm, nn.Linear, nn.Linear]:
    layers = (nn.LayerNorm(6), nn.Linear(6, 16), nn.Linear(8, 6))
    for layer in layers:
        layer.double().requires_grad_(False)
    nn.init.normal_(layers[0].weight, 1.0)
    return layers


def test_a_feed_forward_part_computed_again_is_the_formula() -> None:
    norm, inner, outer = _feed_forward_layers()
    ours = feed_forward_again(norm, inner, outer, PLAIN)

    def formula(x: Tensor, residual: Tensor) -> Tensor:
        return x + residual + F.linear(plain.geglu(inner(norm(x + residual))), outer.weight)

    x, residual = (torch.randn(2, 3, 6, **DOUBLE) for _ in range(2))
    torch.testing.assert_close(ours(x, residual), formula(x, residual))
    assert gradcheck(ours, (x, residual))


def test_it_keeps_nothing_but_the_sum() -> None:
    ours = feed_forward_again(*_feed_forward_layers(), PLAIN)
    x = torch.randn(2, 3, 6, **DOUBLE)
    assert _kept(lambda: ours(x, x)) == [x.shape]


def test_blocks_in_a_row_keep_no_feed_forward_insides(unet: UNet2DConditionModel) -> None:
    """Each would keep 8 C numbers a token, half of all."""
    block = next(block for block in _blocks(unet) if block.context is not None)
    x, context = torch.randn(1, block.channels, 8, 16, requires_grad=True), torch.randn(1, 5, 24, requires_grad=True)
    width = block.channels
    widest = max(shape[-1] for shape in _kept(lambda: block.fused(x, context)) if shape[:2] == (1, 128))
    assert widest == width


def test_each_block_in_a_row_is_checkpointed_alone(unet: UNet2DConditionModel) -> None:
    """As a whole, a row would keep the insides of all while it is computed again."""
    row = next(part for part in unet.modules() if hasattr(part, "transformer_blocks"))
    changed = checkpoint_blocks([row, unet.mid_block.resnets[0]])
    assert changed == [*row.transformer_blocks, unet.mid_block.resnets[0]]


def test_a_single_block_is_checkpointed_with_all_around_it() -> None:
    single = nn.Module()
    single.transformer_blocks = nn.ModuleList([nn.Identity()])
    assert checkpoint_blocks([single]) == [single]


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_gradients_of_projections_are_added_up_at_once(parts: int) -> None:
    layers = [nn.Linear(6, 4, bias=False).double().requires_grad_(False) for _ in range(parts)]
    packed, x = pack(*layers), torch.randn(2, 5, 6, **DOUBLE)
    for found, layer in zip(project(x, packed, parts, at_once=True), layers, strict=True):
        torch.testing.assert_close(found, layer(x))
    assert gradcheck(lambda x: project(x, packed, parts, at_once=True), x)


def test_what_lies_side_by_side_is_not_copied() -> None:
    whole = torch.randn(2, 5, 12)
    assert side_by_side(whole.chunk(3, dim=-1)).data_ptr() == whole.data_ptr()
    torch.testing.assert_close(side_by_side(whole.chunk(3, dim=-1)), whole)
    a, b, c = whole.chunk(3, dim=-1)
    for parts in ([b, a, c], [a, b], [a.contiguous(), b, c], [a[:, :3], b[:, :3], c[:, :3]]):
        torch.testing.assert_close(side_by_side(parts), torch.cat(parts, dim=-1))


def test_a_bias_may_ride_on_a_norm() -> None:
    x, bias, weight, shift = torch.randn(2, 3, 8, **DOUBLE), *torch.randn(3, 8, dtype=torch.float64)
    total, normalized = plain.add_layer_norm(x, bias, weight, shift, 1e-5, torch.float64)
    torch.testing.assert_close(total, x + bias)
    torch.testing.assert_close(normalized, F.layer_norm(x + bias, (8,), weight, shift, 1e-5))
    assert gradcheck(lambda x: plain.add_layer_norm(x, bias, weight, shift, 1e-5, torch.float64), x)


def test_a_learned_shift_of_a_group_norm_gets_its_gradient() -> None:
    x, shift = torch.randn(2, 64, 3, 5, **DOUBLE), torch.randn(2, 64, **DOUBLE)
    weight, bias = torch.randn(2, 64, dtype=torch.float64)
    assert gradcheck(lambda x, s: plain.group_norm(x, weight, bias, 1e-5, silu=True, shift=s)[1], (x, shift))


def test_uneven_weights_compute_the_same(unet: UNet2DConditionModel) -> None:
    """The benchmark's UNet with large channels is the same function, or its gradients would prove nothing."""
    even, uneven = private_copy(unet, lambda name: torch.float64), private_copy(unet, lambda name: torch.float64)
    state = uneven.state_dict()
    make_uneven(state)
    norms = [state[key] for key in state if "transformer_blocks" in key and key.endswith("norm1.weight")]
    assert norms and all(float(norm.abs().max()) == LARGE for norm in norms)
    noisy, context, pooled = (part.double() for part in _inputs())
    conditions = {"text_embeds": pooled, "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]] * 2)}

    def run(model: Any) -> Tensor:
        return model(noisy, 500, encoder_hidden_states=context, added_cond_kwargs=conditions).sample

    torch.testing.assert_close(run(uneven), run(even))
