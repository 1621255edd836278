"""Triton kernels: layer normalization of a sum, GEGLU, a bias with a residual, and the interleaving of an enlarged picture;
forward and backward to the input.

Every number is computed in float32.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

VARYING = ["N", "eps"]
"""Numbers whose special values are not worth a kernel of their own: compiling takes longer than it saves."""
SQRT_HALF = tl.constexpr(0.7071067811865476)
DENSITY_AT_0 = tl.constexpr(0.3989422804014327)


@triton.jit(do_not_specialize=VARYING)
def add_layer_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    sum_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    N,
    C,
    eps,
    ADD: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    """sum = x + residual (where ADD), and y = its layer normalization; rows of C numbers, R rows at once."""
    n = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.arange(0, BC)
    in_c = c < C
    mask = (n < N)[:, None] & in_c[None, :]
    at = n.to(tl.int64)[:, None] * C + c[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=mask)
        x = rounded.to(tl.float32)
    mean = tl.sum(x, 1) / C
    apart = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / C + eps)
    weight = tl.load(weight_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    y = apart * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + n, mean, mask=n < N)
    tl.store(rstd_ptr + n, rstd, mask=n < N)


@triton.jit(do_not_specialize=VARYING)
def add_layer_norm_gradient(
    sum_ptr,
    dy_ptr,
    dsum_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    dx_ptr,
    dresidual_ptr,
    N,
    C,
    ADD: tl.constexpr,
    TWO: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient of x from those of y and (where ADD) of the sum; where TWO, once more in the residual's type."""
    n = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.arange(0, BC)
    in_c = c < C
    mask = (n < N)[:, None] & in_c[None, :]
    at = n.to(tl.int64)[:, None] * C + c[None, :]
    mean = tl.load(mean_ptr + n, mask=n < N, other=0.0)
    rstd = tl.load(rstd_ptr + n, mask=n < N, other=0.0)
    weight = tl.load(weight_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    x = tl.load(sum_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x = tl.where(mask, (x - mean[:, None]) * rstd[:, None], 0.0)
    dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32) * weight[None, :]
    inner = dy - tl.sum(dy, 1)[:, None] / C - x * (tl.sum(dy * x, 1) / C)[:, None]
    dx = rstd[:, None] * inner
    if ADD:
        dx += tl.load(dsum_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if TWO:
        tl.store(dresidual_ptr + at, dx.to(dresidual_ptr.dtype.element_ty), mask=mask)


@triton.jit
def gelu_and_slope(g):
    """The part of a normal distribution below g, with which gelu(g) = g * below, and the slope of gelu."""
    below = 0.5 * (1.0 + tl.erf(g * SQRT_HALF))
    return below, below + g * DENSITY_AT_0 * tl.exp(-0.5 * g * g)


@triton.jit(do_not_specialize=VARYING)
def geglu(h_ptr, y_ptr, N, F, BN: tl.constexpr, BF: tl.constexpr):
    """y = a * gelu(g) for rows h = [a, g] of 2 F numbers."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    mask = (n < N)[:, None] & (f < F)[None, :]
    rows = n.to(tl.int64)[:, None]
    a = tl.load(h_ptr + rows * (2 * F) + f[None, :], mask=mask, other=0.0).to(tl.float32)
    g = tl.load(h_ptr + rows * (2 * F) + F + f[None, :], mask=mask, other=0.0).to(tl.float32)
    below, _ = gelu_and_slope(g)
    y = a * g * below
    tl.store(y_ptr + rows * F + f[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
def geglu_gradient(h_ptr, dy_ptr, dh_ptr, N, F, BN: tl.constexpr, BF: tl.constexpr):
    """The gradient of h = [a, g]."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    mask = (n < N)[:, None] & (f < F)[None, :]
    rows = n.to(tl.int64)[:, None]
    at = rows * (2 * F) + f[None, :]
    a = tl.load(h_ptr + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(h_ptr + at + F, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + rows * F + f[None, :], mask=mask, other=0.0).to(tl.float32)
    below, slope = gelu_and_slope(g)
    tl.store(dh_ptr + at, (dy * g * below).to(dh_ptr.dtype.element_ty), mask=mask)
    tl.store(dh_ptr + at + F, (dy * a * slope).to(dh_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
def add_bias(x_ptr, bias_ptr, residual_ptr, y_ptr, count, C, BLOCK: tl.constexpr):
    """y = x + bias + residual; channels are last in memory."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    x = tl.load(x_ptr + i, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + i % C, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(residual_ptr + i, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + i, x.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "H", "W"])
def interleave(x_ptr, bias_ptr, y_ptr, N, H, W, C, BN: tl.constexpr, BC: tl.constexpr):
    """y (B, 2 H, 2 W, C) from x (B, H + 1, W + 1, 4 C) and a bias; N is the number of pixels of y."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    in_c = c < C
    mask = (n < N)[:, None] & in_c[None, :]
    column = n % (2 * W)
    row = (n // (2 * W)) % (2 * H)
    b = n // (4 * H * W)
    right, lower = column % 2, row % 2
    pixel = (b * (H + 1) + row // 2 + lower) * (W + 1) + column // 2 + right
    at = pixel.to(tl.int64) * (4 * C) + (2 * lower + right) * C
    x = tl.load(x_ptr + at[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + c, mask=in_c, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + n.to(tl.int64)[:, None] * C + c[None, :], x.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "H", "W"])
def interleave_gradient(dy_ptr, dx_ptr, dy_batch, dy_pixel, N, H, W, C, BN: tl.constexpr, BC: tl.constexpr):
    """The gradient of x, zero where y does not come from it; N is the number of pixels of x, program 2 the place in a square."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    lower, right = tl.program_id(2) // 2, tl.program_id(2) % 2
    column = n % (W + 1) - right
    row = (n // (W + 1)) % (H + 1) - lower
    b = n // ((H + 1) * (W + 1))
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H) & (n < N)
    pixel = (2 * row + lower) * (2 * W) + 2 * column + right
    at = (b.to(tl.int64) * dy_batch + pixel * dy_pixel)[:, None] + c[None, :]
    dy = tl.load(dy_ptr + at, mask=inside[:, None] & (c < C)[None, :], other=0.0)
    to = n.to(tl.int64)[:, None] * (4 * C) + (tl.program_id(2) * C + c)[None, :]
    tl.store(dx_ptr + to, dy, mask=(n < N)[:, None] & (c < C)[None, :])
