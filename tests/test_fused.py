"""Fused operations give the results and the gradients of the plain formulas, or are not used."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from crossinit_core.gpu import self_tests
from crossinit_core.gpu.kernels import PLAIN, Kernels, plain
from crossinit_core.gpu.kernels.enlargement import can_be_folded, folded, unfolded
from crossinit_core.gpu.kernels.frozen_layers import convolve, pack, project
from crossinit_core.models.fusing import restore

CPU = torch.device("cpu")
DOUBLE: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}


def _frozen(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_group_norm_is_torchs(silu: bool, shifted: bool) -> None:
    x = torch.randn(2, 64, 3, 5, **DOUBLE)
    weight, bias, shift = _frozen(64), _frozen(64), _frozen(2, 64) if shifted else None

    def ours(x: Tensor) -> Tensor:
        return plain.group_norm(x, weight, bias, 1e-5, silu=silu, shift=shift)[1]

    torchs = F.group_norm(x if shift is None else x + shift[:, :, None, None], 32, weight, bias, 1e-5)
    torch.testing.assert_close(ours(x), F.silu(torchs) if silu else torchs)
    assert gradcheck(ours, x)


def test_geglu_is_the_formula() -> None:
    h = torch.randn(3, 4, 10, **DOUBLE)
    torch.testing.assert_close(plain.geglu(h), h[..., :5] * F.gelu(h[..., 5:]))
    assert gradcheck(plain.geglu, h)


def test_a_feed_forward_part_is_the_formula() -> None:
    x, n = (torch.randn(2, 3, 4, **DOUBLE) for _ in range(2))
    weight, bias, out = _frozen(10, 4), _frozen(10), _frozen(4, 5)
    formula = x + plain.geglu(F.linear(n, weight, bias)) @ out.t()
    torch.testing.assert_close(plain.feed_forward(x, n, weight, bias, out), formula)
    assert gradcheck(lambda x, n: plain.feed_forward(x, n, weight, bias, out), (x, n))


@pytest.mark.parametrize("added", [True, False])
def test_layer_norm_of_a_sum_is_torchs(added: bool) -> None:
    x, residual = (torch.randn(2, 3, 8, **DOUBLE) for _ in range(2))
    weight, bias = _frozen(8), _frozen(8)
    inputs = (x, residual) if added else (x,)

    def ours(x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return plain.add_layer_norm(x, residual, weight, bias, 1e-5, torch.float64)

    total = x + residual if added else x
    torch.testing.assert_close(ours(*inputs), (total, F.layer_norm(total, (8,), weight, bias, 1e-5)))
    assert gradcheck(ours, inputs)


def test_a_bias_and_a_residual_are_added() -> None:
    x, residual = (torch.randn(2, 3, 4, 4, **DOUBLE) for _ in range(2))
    bias = _frozen(3)
    torch.testing.assert_close(plain.add_bias(x, bias, residual), x + bias[:, None, None] + residual)
    assert gradcheck(lambda x, residual: plain.add_bias(x, bias, residual), (x, residual))


def test_the_gradient_of_what_is_normalized_joins_that_of_its_norm() -> None:
    x, weight, bias = torch.randn(1, 32, 2, 3, **DOUBLE), _frozen(32), _frozen(32)
    assert gradcheck(lambda x: plain.group_norm(x, weight, bias, 1e-5, silu=True), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_enlarged_picture_is_convolved_while_it_is_small(memory_format: torch.memory_format) -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1).double().requires_grad_(False)
    small = folded(layer).to(memory_format=memory_format)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 4, 6, **DOUBLE).to(memory_format=memory_format)

    def ours(x: Tensor) -> Tensor:
        return plain.interleave(convolve(x, small), layer.bias)  # type: ignore[arg-type]

    expected = layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(ours(x), expected, atol=1e-6, rtol=0)
    assert gradcheck(ours, x)


def test_the_layer_of_an_enlargement_can_be_had_back() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False).requires_grad_(False)
    torch.testing.assert_close(unfolded(folded(layer)).weight, layer.weight)


@pytest.mark.parametrize("change", [{"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 2}])
def test_only_ordinary_convolutions_are_folded_into_an_enlargement(change: dict[str, int]) -> None:
    assert can_be_folded(nn.Conv2d(4, 4, 3, padding=1))
    assert not can_be_folded(nn.Conv2d(4, 4, 3, **{"padding": 1, **change}))  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [2, 3])
def test_packed_projections_are_the_layers_own(parts: int) -> None:
    layers = [nn.Linear(6, 4, bias=False).double().requires_grad_(False) for _ in range(parts)]
    x = torch.randn(2, 5, 6, **DOUBLE)
    expected = [layer(x) for layer in layers]
    packed = pack(*layers)
    for found, wanted, layer in zip(project(x, packed, parts), expected, layers, strict=True):
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(layer(x), wanted)
        assert layer.weight.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr(), "kept twice"
    assert gradcheck(lambda x: project(x, packed, parts), x)


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "stride": 2}, {"kernel_size": 1, "bias": False}])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_frozen_convolution_is_the_layers_own(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    layer = nn.Conv2d(3, 4, **{"kernel_size": 3, **options}).double().requires_grad_(False)
    layer.to(memory_format=memory_format)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    torch.testing.assert_close(convolve(x, layer), layer(x))
    assert gradcheck(lambda x: convolve(x, layer), x)


def test_a_frozen_convolution_keeps_nothing_but_its_weights() -> None:
    layer = nn.Conv2d(3, 4, 3).requires_grad_(False)
    kept: list[torch.Size] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.shape)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        convolve(torch.randn(2, 3, 6, 5, requires_grad=True), layer)
    assert kept == [layer.weight.shape]


def test_attention_is_the_formula() -> None:
    q, k, v = (torch.randn(2, rows, 8, **DOUBLE) for rows in (6, 5, 5))

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v))
        return ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)

    torch.testing.assert_close(plain.attention(q, k, v, 2), formula(q, k, v))
    assert gradcheck(lambda *qkv: plain.attention(*qkv, 2), (q, k, v))  # type: ignore[call-arg]


# Triton's kernels, in its interpreter

_INTERPRETED = """
import builtins, torch
from crossinit_core.gpu.kernels import PLAIN, plain, triton_kernels
from crossinit_core.gpu.kernels.frozen_layers import project
from crossinit_core.gpu.kernels.on_triton import attention, attention_few_keys
from crossinit_core.gpu.self_tests import TRIED, attention_differs, differences

# Triton's interpreter cannot loop over its own numbers with this numpy, and is slow.
number = lambda value: int(value.handle.data.item()) if hasattr(value, "handle") else int(value)
for module in (attention, attention_few_keys):
    module.range = lambda *bounds: builtins.range(*map(number, bounds))

cpu = torch.device("cpu")
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    wrong = differences(triton_kernels(attention=True), PLAIN, cpu, dtype)
    assert not wrong, (dtype, wrong)

# What SDXL has beside SD 2.1: a shift that is learned, and a bias that rides on a norm.
from crossinit_core.gpu.kernels.on_triton import group_norm, layer_norm
from crossinit_core.gpu.self_tests import relative_differences, values_and_gradients
for silu in (True, False):
    x, shift, weight, bias = torch.randn(2, 64, 9, 11) + 1, 3 * torch.randn(2, 64), torch.randn(64) + 1, torch.randn(64)
    found, right = (
        values_and_gradients(lambda x, s: norm(x, weight, bias, 1e-5, silu=silu, shift=s), (x, shift))
        for norm in (group_norm.group_norm, plain.group_norm)
    )
    assert len(found) == 4 and relative_differences(found, right).max() < 1e-5
row, x = torch.randn(40), torch.randn(3, 7, 40)
found, right = (
    values_and_gradients(lambda x: norm(x, row, *(torch.ones(40), torch.zeros(40)), 1e-5, x.dtype), (x,))
    for norm in (layer_norm.add_layer_norm, plain.add_layer_norm)
)
assert len(found) == 3 and relative_differences(found, right).max() < 1e-5

attention.ROWS = 32
attention.ATTEND = attention.KEY_GRADIENTS = attention.QUERY_GRADIENTS = ((32, 32, 4, 1),) * 3
sizes = [size for size in TRIED if size[0] < 8 and size[1] < 512]  # The others are for GPUs: they are too large here.
assert len(sizes) == 4
assert not attention_differs(attention.by_kernels, cpu, torch.float16, sizes)
bent = lambda *given, **more: 1.1 * attention.by_kernels(*given, **more)
assert attention_differs(bent, cpu, torch.float16, sizes)

# Numbers of queries that are no multiple of a block's.
for queries in (40, 90, 96):
    few_and_odd = [torch.randn(1, rows, 32).half() for rows in (queries, 90, 90)]
    ours = values_and_gradients(lambda q, k, v: attention.attention_of_any_length(q, k, v, 2), few_and_odd)
    truth = values_and_gradients(lambda q, k, v: plain.attention(q, k, v, 2), [part.float() for part in few_and_odd])
    assert relative_differences(ours, truth).max() < 2e-3

strided = torch.randn(1, 160, 96).half().requires_grad_()
q, k, v = strided.chunk(3, dim=-1)
assert attention.fits(q, k, v, 2)
out = attention.by_kernels(q, k, v, 2)
expected = plain.attention(*(part.float() for part in (q, k, v)), 2)
assert (out - expected).norm() < 2e-3 * expected.norm()
pull = torch.randn_like(expected)
ours, = torch.autograd.grad(out, strided, pull.half())
truth, = torch.autograd.grad(expected, strided, pull)
assert (ours.float() - truth.float()).norm() < 2e-3 * truth.float().norm()

# Few keys: one to six chunks of queries, one to three blocks in each, the last one cut short by some.
def few(queries, keys, depth, causal=False):
    q = torch.randn(1, queries, 2 * depth).half().requires_grad_()
    prompt, packed = torch.randn(1, keys, 24).half().requires_grad_(), torch.randn(4 * depth, 24).half() / 5
    k, v = project(prompt, packed, 2)
    assert attention.fits(q, k, v, 2) and k.stride() == (4 * depth * keys, 4 * depth, 1)
    pull = torch.randn_like(q)
    ours = []
    for _ in range(2):
        out = attention.by_kernels(q, k, v, 2, causal)
        ours.append([out.detach(), *torch.autograd.grad(out, (q, k, v), pull, retain_graph=True)])
    assert all(map(torch.equal, *ours))
    single = [part.detach().float().requires_grad_() for part in (q, k, v)]
    out = (plain.causal_attention if causal else plain.attention)(*single, 2)
    truth = [out.detach(), *torch.autograd.grad(out, single, pull.float())]
    for found, right in zip(ours[0], truth):
        assert found.shape == right.shape and found.dtype == torch.float16
        # Softmax of one number has no gradient: what is left is rounding.
        size = right.norm() if keys > 1 else right.norm() + pull.float().norm()
        assert (found.float() - right).norm() < 2e-3 * size, (queries, keys, depth)

for programs in (2, 4, 12):
    attention_few_keys.ATTEND_FEW = attention_few_keys.FEW_GRADIENTS = (32, 4, 1, programs)
    for queries in (64, 72, 192):
        few(queries, 77, 16)
    few(77, 77, 16, causal=True)
for keys in (1, 16, 40, 77, 80):
    few(96, keys, 64)
    few(keys, keys, 32, causal=True)
few(96, 128, 64)  # no longer few
print("all equal")
"""


@pytest.mark.slow
def test_the_triton_kernels_are_right() -> None:
    pytest.importorskip("triton")
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        cwd=root,
        env={"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.stdout.strip() == "all equal", run.stderr[-3000:]


# What is wrong is not used


OPERATIONS = ("group_norm", "add_layer_norm", "feed_forward", "add_bias", "interleave")


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_kernel_with_wrong_results_or_gradients_is_found(name: str, dtype: torch.dtype) -> None:
    class Bent(torch.autograd.Function):
        """Right results, wrong gradients."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 1.05

    right = getattr(PLAIN, name)

    def check(change: Callable[..., Any]) -> list[str]:
        changed: Kernels = replace(PLAIN, **{name: change})  # type: ignore[arg-type]
        return self_tests.differences(changed, PLAIN, CPU, dtype)

    def each(out: Any, change: Callable[[Tensor], Tensor]) -> Any:
        return tuple(map(change, out)) if isinstance(out, tuple) else change(out)

    assert check(right) == []
    assert check(lambda *a, **k: each(right(*a, **k), lambda out: out * 1.05))
    assert check(lambda *a, **k: each(right(*a, **k), Bent.apply))
    assert check(lambda *a, **k: each(right(*a, **k), lambda out: out * torch.nan))


def test_without_a_gpu_torchs_own_kernels_are_used() -> None:
    assert self_tests.choose(CPU, torch.float32) is PLAIN


def test_wrong_kernels_are_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What a GPU cannot run, or gets wrong, is left out with one line."""
    monkeypatch.setattr(self_tests, "_passed", {})

    def broken() -> list[str]:
        raise RuntimeError("out of resource: shared memory\nRequired: 98304")

    with caplog.at_level(logging.INFO):
        assert self_tests._is_right("Triton's norms", CPU, torch.float16, list)
        assert not caplog.records
        assert not self_tests._is_right("Triton's attention", CPU, torch.float16, broken)
        assert not self_tests._is_right("Triton's kernels", CPU, torch.float16, lambda: ["feed_forward", "add_bias"])
    assert [record.getMessage() for record in caplog.records] == [
        "Triton's attention cannot be used, so steps are slower: out of resource: shared memory",
        "Triton's kernels: wrong numbers on this GPU, so not used, and steps are slower: feed_forward, add_bias",
    ]


def test_what_passed_is_not_tried_again_and_what_failed_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_tests, "_passed", {})
    tried: list[str] = []

    def is_right(dtype: torch.dtype, *wrong: str) -> bool:
        def find_wrong() -> list[str]:
            tried.append(str(dtype))
            return list(wrong)

        return self_tests._is_right("Triton's kernels", CPU, dtype, find_wrong)

    assert not is_right(torch.float16, "feed_forward")
    assert is_right(torch.float16)
    assert is_right(torch.float16, "feed_forward")  # It was right a moment ago.
    assert is_right(torch.bfloat16)
    assert tried == ["torch.float16", "torch.float16", "torch.bfloat16"]


def test_comfyuis_blocks_are_fused(pack: ModuleType, unet: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    changed = pack.nodes.host.fused.fuse_blocks(unet, PLAIN, _options(pack))
    kinds = {type(part).__name__ for part in changed}
    assert kinds == {"ResBlock", "SpatialTransformer", "Sequential", "Upsample"}
    assert not caplog.records
    restore(changed)
    assert not any("forward" in vars(part) for part in unet.modules())


@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_a_fused_unet_gives_what_comfyuis_gives(pack: ModuleType, unet: nn.Module, size: tuple[int, int]) -> None:
    """A side of 9 is no double of anything, and is enlarged to all the same."""
    generator = torch.Generator().manual_seed(1)
    noisy, context = torch.randn(2, 4, *size, generator=generator), torch.randn(2, 5, 24, generator=generator)

    def predict() -> Tensor:
        return unet(noisy, torch.tensor([3.0, 700.0]), context=context, transformer_options=_options(pack))

    expected = predict()
    assert pack.nodes.host.fused.fuse_blocks(unet, PLAIN, _options(pack))
    torch.testing.assert_close(predict(), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_a_block_that_comfyui_computes_otherwise_stays_comfyuis(
    pack: ModuleType, unet: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an update of ComfyUI that changes what a block does."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    own = ResBlock._forward
    monkeypatch.setattr(ResBlock, "_forward", lambda self, x, emb: own(self, x, emb) * 1.1)
    with caplog.at_level(logging.WARNING):
        assert pack.nodes.host.fused.fuse_blocks(unet, PLAIN, _options(pack)) == []
    assert "ComfyUI's own code computes the UNet" in caplog.text
    assert not any("forward" in vars(part) for part in unet.modules())


def _options(pack: ModuleType) -> dict[str, Any]:
    return pack.nodes.host.copies._options()


@pytest.fixture
def unet(pack: ModuleType) -> nn.Module:
    """ComfyUI's UNet in SD 2.1's layout, small."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    model = UNetModel(
        image_size=8,
        in_channels=4,
        out_channels=4,
        model_channels=32,
        num_res_blocks=[1, 1],
        channel_mult=(1, 2),
        num_head_channels=16,
        use_spatial_transformer=True,
        context_dim=24,
        use_linear_in_transformer=True,
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.requires_grad_(False).copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()
