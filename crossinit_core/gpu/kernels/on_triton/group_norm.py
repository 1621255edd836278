"""Group normalization with SiLU as Triton kernels, forward and backward to the input.

Every number is computed in float32. Sums go through partial sums in a fixed order, so a run repeats bit for bit.
Pixels are rows: x is (B, H * W, C) in memory, which is what torch calls channels last.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .launch import launch
from .layout import BY_PIXELS, CHANNELS, by_pixels, floats

VARYING = ["HW", "ROWS", "S", "eps"]
"""Numbers whose special values are not worth a kernel of their own: compiling takes longer than it saves."""

_PIXELS = 64
_PIECES = 32
# Pixels of a tile that is added up, and enough programs to keep the largest GPUs busy: the fastest of a dozen each on an H200.
SUMS = (16, 1056)
GRADIENT_SUMS = (32, 528)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, groups: int = 32, silu: bool, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `plain.group_norm`."""
    return _GroupNorm.apply(x, weight, bias, shift, groups, eps, silu)


class _GroupNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int, eps: float, silu: bool
    ) -> tuple[Tensor, Tensor]:
        given = x
        x = x.contiguous(memory_format=BY_PIXELS)
        batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        tile, programs = SUMS
        blocks, pieces, rows = _pieces(batch, pixels, channels, tile, programs)
        sums, squares = floats(x, 2, batch, pieces, channels)
        # How far a channel's mean is from its group's: the gradient of the shift alone needs it.
        learned = ctx.needs_input_grad[3]
        a, d, mean, *apart = floats(x, 4 if learned else 3, batch, channels)
        (rstd,) = floats(x, 1, batch, groups)
        y = torch.empty_like(x)
        shifted = x if shift is None else shift.contiguous()
        launch(
            group_sums,
            (pieces, blocks, batch),
            x,
            sums,
            squares,
            pixels,
            channels,
            rows,
            pieces,
            BP=tile,
            BC=CHANNELS,
        )
        launch(
            group_coefficients,
            (groups, batch),
            x,
            shifted,
            sums,
            squares,
            weight,
            bias,
            a,
            d,
            mean,
            rstd,
            apart[0] if learned else mean,
            pixels,
            channels,
            pieces,
            eps,
            G=groups,
            SHIFT=shift is not None,
            APART=learned,
            PIECES=_PIECES,
            BG=max(128, triton.next_power_of_2(channels // groups)),
        )
        launch(
            group_apply,
            (triton.cdiv(pixels, _PIXELS), blocks, batch),
            x,
            a,
            d,
            y,
            pixels,
            channels,
            SILU=silu,
            BP=_PIXELS,
            BC=CHANNELS,
        )
        ctx.save_for_backward(x, weight, a, d, mean, rstd, *apart)
        ctx.groups, ctx.silu = groups, silu
        ctx.shift_dtype = None if shift is None else shift.dtype
        ctx.set_materialize_grads(False)
        return given.view_as(given), y

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dsame: Tensor | None, dy: Tensor | None
    ) -> tuple[Tensor | None, None, None, Tensor | None, None, None, None]:
        if dy is None:
            return dsame, None, None, None, None, None, None
        x, weight, a, d, mean, rstd, *apart = ctx.saved_tensors
        dy = dy.contiguous(memory_format=BY_PIXELS)
        batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        tile, programs = GRADIENT_SUMS
        blocks, pieces, rows = _pieces(batch, pixels, channels, tile, programs)
        sums, products = floats(x, 2, batch, pieces, channels)
        p, q = floats(x, 2, batch, channels)
        dx = torch.empty_like(x)
        dshift = torch.empty_like(p, dtype=ctx.shift_dtype) if apart else None
        same = dy if dsame is None else by_pixels(dsame)
        launch(
            group_gradient_sums,
            (pieces, blocks, batch),
            x,
            dy,
            a,
            d,
            mean,
            sums,
            products,
            pixels,
            channels,
            rows,
            pieces,
            SILU=ctx.silu,
            BP=tile,
            BC=CHANNELS,
        )
        launch(
            group_gradient_coefficients,
            (ctx.groups, batch),
            sums,
            products,
            weight,
            mean,
            rstd,
            p,
            q,
            apart[0] if apart else mean,
            p if dshift is None else dshift,
            pixels,
            channels,
            pieces,
            G=ctx.groups,
            SHIFT=bool(apart),
            PIECES=_PIECES,
            BG=max(128, triton.next_power_of_2(channels // ctx.groups)),
        )
        launch(
            group_gradient_apply,
            (triton.cdiv(pixels, _PIXELS), blocks, batch),
            x,
            dy,
            a,
            d,
            p,
            q,
            same,
            dx,
            pixels,
            channels,
            same.stride(0),
            same.stride(3),
            SILU=ctx.silu,
            ADD=dsame is not None,
            BP=_PIXELS,
            BC=CHANNELS,
        )
        return dx, None, None, dshift, None, None, None


def _pieces(batch: int, pixels: int, channels: int, tile: int, programs: int) -> tuple[int, int, int]:
    """Blocks of channels, pieces of pixels and the pixels of a piece."""
    blocks = triton.cdiv(channels, CHANNELS)
    pieces = min(_PIECES, triton.cdiv(pixels, tile), triton.cdiv(programs, batch * blocks))
    rows = triton.cdiv(triton.cdiv(pixels, pieces), tile) * tile
    return blocks, triton.cdiv(pixels, rows), rows


@triton.jit(do_not_specialize=VARYING)
def group_sums(x_ptr, sum_ptr, square_ptr, HW, C, ROWS, S, BP: tl.constexpr, BC: tl.constexpr):
    """Sums over ROWS pixels of x - pivot and of its square, (B, S, C); the pivot is a channel's first pixel.

    Against a pivot from the data, the squares do not cancel if the mean is large.
    """
    s, block, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = block * BC + tl.arange(0, BC)
    in_c = c < C
    base = x_ptr + b.to(tl.int64) * HW * C
    pivot = tl.load(base + c, mask=in_c, other=0.0).to(tl.float32)
    # One sum for each place in a tile, and over the tile at the end: threads wait for each other once.
    total = tl.zeros([BP, BC], tl.float32)
    squares = tl.zeros([BP, BC], tl.float32)
    first = s * ROWS
    last = tl.minimum(first + ROWS, HW)
    start = first
    while start < last:
        p = start + tl.arange(0, BP)
        mask = (p < last)[:, None] & in_c[None, :]
        x = tl.load(base + p[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, x - pivot[None, :], 0.0)
        total += x
        squares += x * x
        start += BP
    at = (b * S + s) * C + c
    tl.store(sum_ptr + at, tl.sum(total, 0), mask=in_c)
    tl.store(square_ptr + at, tl.sum(squares, 0), mask=in_c)


@triton.jit
def _over_pieces(ptr, b, c, in_g, C, S, PIECES: tl.constexpr, BG: tl.constexpr):
    """Sums over the S <= PIECES pieces of (B, S, C), eight at a time."""
    total = tl.zeros([BG], tl.float32)
    for first in tl.static_range(0, PIECES, 8):
        s = first + tl.arange(0, 8)
        mask = (s < S)[:, None] & in_g[None, :]
        total += tl.sum(tl.load(ptr + (b * S + s)[:, None] * C + c[None, :], mask=mask, other=0.0), 0)
    return total


@triton.jit(do_not_specialize=VARYING)
def group_coefficients(
    x_ptr,
    shift_ptr,
    sum_ptr,
    square_ptr,
    weight_ptr,
    bias_ptr,
    a_ptr,
    d_ptr,
    mean_ptr,
    rstd_ptr,
    apart_ptr,
    HW,
    C,
    S,
    eps,
    G: tl.constexpr,
    SHIFT: tl.constexpr,
    APART: tl.constexpr,
    PIECES: tl.constexpr,
    BG: tl.constexpr,
):
    """Per sample and channel, a and d such that the normalized x + shift is a * x + d; and what the backward needs."""
    g, b = tl.program_id(0), tl.program_id(1)
    size = C // G
    k = tl.arange(0, BG)
    in_g = k < size
    c = g * size + k
    total = _over_pieces(sum_ptr, b, c, in_g, C, S, PIECES, BG)
    squares = _over_pieces(square_ptr, b, c, in_g, C, S, PIECES, BG)
    center = tl.load(x_ptr + b.to(tl.int64) * HW * C + c, mask=in_g, other=0.0).to(tl.float32)
    shift = tl.zeros([BG], tl.float32)
    if SHIFT:
        shift = tl.load(shift_ptr + b * C + c, mask=in_g, other=0.0).to(tl.float32)
    pixels = HW * 1.0
    means = tl.where(in_g, center + shift + total / pixels, 0.0)
    mean = tl.sum(means, 0) / size
    apart = tl.where(in_g, means - mean, 0.0)
    spread = tl.sum(tl.where(in_g, squares - total * total / pixels, 0.0), 0) + pixels * tl.sum(apart * apart, 0)
    rstd = 1.0 / tl.sqrt(spread / (pixels * size) + eps)
    weight = tl.load(weight_ptr + c, mask=in_g, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=in_g, other=0.0).to(tl.float32)
    a = rstd * weight
    at = b * C + c
    tl.store(a_ptr + at, a, mask=in_g)
    tl.store(d_ptr + at, bias + (shift - mean) * a, mask=in_g)
    tl.store(mean_ptr + at, mean - shift, mask=in_g)
    tl.store(rstd_ptr + b * G + g, rstd)
    if APART:
        tl.store(apart_ptr + at, apart, mask=in_g)


@triton.jit(do_not_specialize=VARYING)
def group_apply(x_ptr, a_ptr, d_ptr, y_ptr, HW, C, SILU: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """y = a * x + d, through SiLU if asked for."""
    block, b = tl.program_id(1), tl.program_id(2)
    c = block * BC + tl.arange(0, BC)
    in_c = c < C
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    mask = (p < HW)[:, None] & in_c[None, :]
    a = tl.load(a_ptr + b * C + c, mask=in_c, other=0.0)
    d = tl.load(d_ptr + b * C + c, mask=in_c, other=0.0)
    at = b.to(tl.int64) * HW * C + p[:, None] * C + c[None, :]
    z = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) * a[None, :] + d[None, :]
    if SILU:
        z = z * tl.sigmoid(z)
    tl.store(y_ptr + at, z.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _through_silu(gradient, x, a, d, SILU: tl.constexpr):
    if SILU:
        z = x * a[None, :] + d[None, :]
        gate = tl.sigmoid(z)
        gradient = gradient * gate * (1.0 + z * (1.0 - gate))
    return gradient


@triton.jit(do_not_specialize=VARYING)
def group_gradient_sums(
    x_ptr,
    dy_ptr,
    a_ptr,
    d_ptr,
    mean_ptr,
    sum_ptr,
    product_ptr,
    HW,
    C,
    ROWS,
    S,
    SILU: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Sums over ROWS pixels of the gradient before SiLU, and of its product with x - mean, (B, S, C)."""
    s, block, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = block * BC + tl.arange(0, BC)
    in_c = c < C
    base = b.to(tl.int64) * HW * C
    a = tl.load(a_ptr + b * C + c, mask=in_c, other=0.0)
    d = tl.load(d_ptr + b * C + c, mask=in_c, other=0.0)
    mean = tl.load(mean_ptr + b * C + c, mask=in_c, other=0.0)
    total = tl.zeros([BP, BC], tl.float32)
    products = tl.zeros([BP, BC], tl.float32)
    first = s * ROWS
    last = tl.minimum(first + ROWS, HW)
    start = first
    while start < last:
        p = start + tl.arange(0, BP)
        mask = (p < last)[:, None] & in_c[None, :]
        at = base + p[:, None] * C + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        gradient = _through_silu(tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32), x, a, d, SILU)
        total += gradient
        products += tl.where(mask, gradient * (x - mean[None, :]), 0.0)
        start += BP
    at = (b * S + s) * C + c
    tl.store(sum_ptr + at, tl.sum(total, 0), mask=in_c)
    tl.store(product_ptr + at, tl.sum(products, 0), mask=in_c)


@triton.jit(do_not_specialize=VARYING)
def group_gradient_coefficients(
    sum_ptr,
    product_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    p_ptr,
    q_ptr,
    apart_ptr,
    dshift_ptr,
    HW,
    C,
    S,
    G: tl.constexpr,
    SHIFT: tl.constexpr,
    PIECES: tl.constexpr,
    BG: tl.constexpr,
):
    """Per sample and channel, p and q such that the gradient of x is a * gradient + p * x + q.

    If SHIFT, the gradient of the shift too: the sum of that over all pixels, of which x - mean has the mean `apart`.
    """
    g, b = tl.program_id(0), tl.program_id(1)
    size = C // G
    k = tl.arange(0, BG)
    in_g = k < size
    c = g * size + k
    weight = tl.load(weight_ptr + c, mask=in_g, other=0.0).to(tl.float32)
    pulls = weight * _over_pieces(sum_ptr, b, c, in_g, C, S, PIECES, BG)
    total = tl.sum(pulls, 0)
    products = tl.sum(weight * _over_pieces(product_ptr, b, c, in_g, C, S, PIECES, BG), 0)
    rstd = tl.load(rstd_ptr + b * G + g)
    mean = tl.load(mean_ptr + b * C + c, mask=in_g, other=0.0)
    count = HW * size * 1.0
    p = -rstd * rstd * rstd * products / count
    at = b * C + c
    tl.store(p_ptr + at, p + 0.0 * mean, mask=in_g)
    tl.store(q_ptr + at, -rstd * total / count - p * mean, mask=in_g)
    if SHIFT:
        apart = tl.load(apart_ptr + at, mask=in_g, other=0.0)
        dshift = rstd * (pulls - total / size) + p * apart * HW
        tl.store(dshift_ptr + at, dshift.to(dshift_ptr.dtype.element_ty), mask=in_g)


@triton.jit(do_not_specialize=VARYING)
def group_gradient_apply(
    x_ptr,
    dy_ptr,
    a_ptr,
    d_ptr,
    p_ptr,
    q_ptr,
    dsame_ptr,
    dx_ptr,
    HW,
    C,
    same_batch,
    same_pixel,
    SILU: tl.constexpr,
    ADD: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of x: a * gradient + p * x + q, and (if ADD) what x had of its own."""
    block, b = tl.program_id(1), tl.program_id(2)
    c = block * BC + tl.arange(0, BC)
    in_c = c < C
    rows = tl.program_id(0) * BP + tl.arange(0, BP)
    mask = (rows < HW)[:, None] & in_c[None, :]
    a = tl.load(a_ptr + b * C + c, mask=in_c, other=0.0)
    d = tl.load(d_ptr + b * C + c, mask=in_c, other=0.0)
    p = tl.load(p_ptr + b * C + c, mask=in_c, other=0.0)
    q = tl.load(q_ptr + b * C + c, mask=in_c, other=0.0)
    at = b.to(tl.int64) * HW * C + rows[:, None] * C + c[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    gradient = _through_silu(tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32), x, a, d, SILU)
    dx = gradient * a[None, :] + p[None, :] * x + q[None, :]
    if ADD:
        same = dsame_ptr + b.to(tl.int64) * same_batch + rows[:, None] * same_pixel + c[None, :]
        dx += tl.load(same, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
