"""Triton's kernels on the real GPU: the numbers and gradients of the plain forms, the same bits every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from crossinit_core.gpu.kernels import PLAIN, Kernels, plain, triton_kernels
from crossinit_core.gpu.self_tests import (
    TOLERANCE,
    attention_differs,
    choose,
    differences,
    relative_differences,
    values_and_gradients,
)

HALF = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    pytest.importorskip("triton")
    return triton_kernels(attention=True)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_every_operation_is_the_plain_one(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> None:
    assert differences(kernels, PLAIN, device, dtype) == []


@pytest.mark.parametrize("dtype", HALF)
def test_every_way_of_the_attention_is_torchs(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> None:
    from crossinit_core.gpu.kernels.on_triton.attention import by_kernels

    assert not attention_differs(by_kernels, device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_they_are_what_learning_uses(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> None:
    new = dtype != torch.float32 and torch.cuda.get_device_capability(device) >= (9, 0)
    assert choose(device, dtype).name == triton_kernels(attention=new).name


SIZES = [(320, 64), (640, 32), (1280, 16), (1280, 8), (2560, 8), (960, 64)]
"""Channels and side of the pictures that go through SD 2.1 at 512 px."""


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("channels, side", SIZES)
def test_group_norm_at_full_size(
    kernels: Kernels, device: torch.device, dtype: torch.dtype, channels: int, side: int
) -> None:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    x, shift = draw(2, channels, side, side) + 1, draw(2, channels)
    weight, bias = draw(channels) + 1, draw(channels)

    def run(by: Kernels, dtype: torch.dtype) -> list[Tensor]:
        w, b, s = (part.to(device, dtype) for part in (weight, bias, shift))
        return values_and_gradients(lambda x: by.group_norm(x, w, b, 1e-5, silu=True, shift=s), [x.to(device, dtype)])

    far = relative_differences(run(kernels, dtype), run(PLAIN, torch.float32))
    assert far.max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("channels, side", [(320, 128), (640, 48), (1280, 24), (1920, 24)])
def test_a_learned_shift_gets_its_gradient(
    kernels: Kernels, device: torch.device, dtype: torch.dtype, channels: int, side: int
) -> None:
    """Through SDXL's time embedding, to which the pooled output is added."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    inputs = [draw(2, channels, side, side) + 1, draw(2, channels)]
    weight, bias = draw(channels) + 1, draw(channels)

    def run(by: Kernels, dtype: torch.dtype) -> list[Tensor]:
        w, b = (part.to(device, dtype) for part in (weight, bias))
        return values_and_gradients(
            lambda x, shift: by.group_norm(x, w, b, 1e-5, silu=True, shift=shift),
            [part.to(device, dtype) for part in inputs],
        )

    far = relative_differences(run(kernels, dtype), run(PLAIN, torch.float32))
    assert len(far) == 4 and far.max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rows, heads", [(576, 20), (676, 20), (100, 10), (2304, 10)])
def test_any_number_of_pixels_can_be_attended_to(
    kernels: Kernels, device: torch.device, dtype: torch.dtype, rows: int, heads: int
) -> None:
    """SDXL at 768 px has 24 x 24 of them on its last level."""
    inputs = _qkv(2, rows, rows, heads, device, dtype)
    ours = values_and_gradients(lambda q, k, v: kernels.attention_of_any_length(q, k, v, heads), inputs)
    truth = values_and_gradients(partial(plain.attention, heads=heads), [part.float() for part in inputs])
    assert relative_differences(ours, truth).max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("heads, queries, keys", [(5, 4096, 4096), (10, 1024, 1024), (5, 4096, 77), (20, 64, 77)])
def test_attention_at_full_size(
    kernels: Kernels, device: torch.device, dtype: torch.dtype, heads: int, queries: int, keys: int
) -> None:
    inputs = _qkv(2, queries, keys, heads, device, dtype)
    ours = values_and_gradients(lambda q, k, v: kernels.attention(q, k, v, heads), inputs)
    truth = values_and_gradients(partial(plain.attention, heads=heads), [part.float() for part in inputs])
    assert relative_differences(ours, truth).max() < TOLERANCE[dtype]


def test_attention_of_the_text_encoder(kernels: Kernels, device: torch.device) -> None:
    inputs = _qkv(8, 77, 77, 16, device, torch.float16)
    ours = values_and_gradients(lambda q, k, v: kernels.causal_attention(q, k, v, 16), inputs)
    truth = values_and_gradients(partial(plain.causal_attention, heads=16), [part.float() for part in inputs])
    assert relative_differences(ours, truth).max() < TOLERANCE[torch.float16]


@pytest.mark.parametrize("name", ["group_norm", "add_layer_norm", "feed_forward", "attention", "causal_attention"])
def test_they_repeat_bit_for_bit(kernels: Kernels, device: torch.device, name: str) -> None:
    function, inputs = _work(kernels, device)[name]
    first = values_and_gradients(function, inputs)
    for _ in range(3):
        assert all(map(torch.equal, values_and_gradients(function, inputs), first))


def _work(kernels: Kernels, device: torch.device) -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, torch.float16)

    channels, width = (draw(320), draw(320)), (draw(640), draw(640))
    inner, bias, outer = draw(5120, 640) / 25, draw(5120), draw(640, 2560) / 50
    return {
        "group_norm": (
            lambda x: kernels.group_norm(x, *channels, 1e-5, silu=True, shift=None),
            [draw(8, 320, 64, 64)],
        ),
        "add_layer_norm": (
            lambda x, r: kernels.add_layer_norm(x, r, *width, 1e-5, torch.float16),
            [draw(8, 1024, 640), draw(8, 1024, 640)],
        ),
        "feed_forward": (
            lambda x, n: kernels.feed_forward(x, n, inner, bias, outer),
            [draw(8, 1024, 640), draw(8, 1024, 640)],
        ),
        "attention": (lambda q, k, v: kernels.attention(q, k, v, 10), [draw(8, 1024, 640) for _ in range(3)]),
        "causal_attention": (
            lambda q, k, v: kernels.causal_attention(q, k, v, 10),
            [draw(8, 77, 640) for _ in range(3)],
        ),
    }


def _qkv(batch: int, queries: int, keys: int, heads: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, rows, 64 * heads) for rows in (queries, keys, keys)]
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
