"""Attention without a mask as Triton kernels, forward and backward.

The algorithm is FlashAttention-2's (Dao, 2023). The backward pass is in two kernels, one that owns keys and values and
one that owns queries, so that nothing is added up by several programs: a run repeats bit for bit, at nearly the speed
of the fastest library kernels that do not.

Tensors are (B, L, H, D) with any strides of B and L. `scale2` is the softmax scale times log2(e).
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

from ..plain import attention as plain_attention
from ..plain import causal_attention as plain_causal_attention
from .attention_few_keys import AttendFew, few, scale_of_exp2, strides
from .launch import launch

VARYING = ["H", "LQ", "LK", "scale2", "scale"]
"""Numbers whose special values are not worth a kernel of their own: compiling takes longer than it saves."""

# Rows of queries, rows of keys, warps, stages: the fastest of twelve each on an H200 with heads of 64, for 4096 x 4096, for
# 1024 x 1024 and for 576 x 576.
ATTEND = ((128, 64, 8, 3), (128, 64, 8, 4), (64, 64, 4, 3))
KEY_GRADIENTS = ((128, 64, 4, 2), (128, 64, 4, 2), (128, 64, 4, 2))
QUERY_GRADIENTS = ((128, 64, 4, 3), (128, 64, 8, 3), (64, 64, 4, 3))
LONG = 2048
"""From so many keys on the first of them is taken; the last where a block of queries would be cut."""
ROWS = 128
"""A number of queries that is no multiple of this has a block of which a part is left out."""
WIDTHS = (16, 32, 64, 128)


def fits(q: Tensor, k: Tensor, v: Tensor, heads: int) -> bool:
    """Whether `by_kernels` can take tensors (B, L, heads * D)."""
    return (
        q.shape[2] // heads in WIDTHS
        and q.dtype in (torch.float16, torch.bfloat16)
        and k.stride() == v.stride()
        and q.stride(2) == k.stride(2) == 1
    )


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """See `plain.attention`, which is also what computes types and odd numbers of queries, as it always has: learned bits
    stay what they were."""
    odd = q.shape[1] % ROWS != 0 and not few(k, heads)
    return by_kernels(q, k, v, heads) if fits(q, k, v, heads) and not odd else plain_attention(q, k, v, heads)


def attention_of_any_length(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """See `plain.attention`, which is also what computes types that no kernel here takes."""
    return by_kernels(q, k, v, heads, beside=True) if fits(q, k, v, heads) else plain_attention(q, k, v, heads)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """See `plain.causal_attention`, which computes it if there are more than a few keys."""
    if fits(q, k, v, heads) and few(k, heads):
        return by_kernels(q, k, v, heads, causal=True)
    return plain_causal_attention(q, k, v, heads)


def by_kernels(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False, beside: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for each head, of tensors that `fits`: q (B, L, heads * D), k and v (B, L', heads * D).

    If `causal`, a query sees the keys up to its own place; there must be few. If `beside`, the three gradients lie beside each
    other in each row where they are equally large, for `frozen_layers.project`.
    """
    if few(k, heads):
        return AttendFew.apply(q, k, v, heads, causal)
    assert not causal
    return _Attend.apply(q, k, v, heads, beside)


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, beside: bool) -> Tensor:
        batch, queries, width = q.shape
        out = torch.empty((batch, queries, width), device=q.device, dtype=q.dtype)
        log = torch.empty((batch, heads, queries), device=q.device, dtype=torch.float32)
        rows, keys, warps, stages = ATTEND[_way(queries, k.shape[1])]
        launch(
            attend,
            (triton.cdiv(queries, rows), batch * heads),
            q,
            k,
            v,
            out,
            log,
            *strides(q, k, out),
            heads,
            queries,
            k.shape[1],
            scale_of_exp2(width // heads),
            D=width // heads,
            BM=rows,
            BN=keys,
            WHOLE=queries % rows == 0,
            EVEN=k.shape[1] % keys == 0,
            num_warps=warps,
            num_stages=stages,
        )
        ctx.save_for_backward(q, k, v, out, log)
        ctx.heads, ctx.beside = heads, beside
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, log = ctx.saved_tensors
        heads: int = ctx.heads
        batch, queries, width = q.shape
        depth = width // heads
        dout = dout.contiguous()
        delta = torch.empty_like(log)
        dq, dk, dv = _gradients(q, k, ctx.beside)
        launch(
            row_products,
            (triton.cdiv(queries, ROWS), batch * heads),
            out,
            dout,
            delta,
            *strides(out),
            heads,
            queries,
            D=depth,
            BM=ROWS,
            WHOLE=queries % ROWS == 0,
        )
        sizes = (heads, queries, k.shape[1], scale_of_exp2(depth), depth**-0.5)
        rows, keys, warps, stages = KEY_GRADIENTS[_way(queries, k.shape[1])]
        launch(
            key_gradients,
            (triton.cdiv(k.shape[1], keys), batch * heads),
            q,
            k,
            v,
            dout,
            dk,
            dv,
            log,
            delta,
            *strides(q, k, dout, dk),
            *sizes,
            D=depth,
            BM=rows,
            BN=keys,
            WHOLE=queries % rows == 0,
            num_warps=warps,
            num_stages=stages,
        )
        rows, keys, warps, stages = QUERY_GRADIENTS[_way(queries, k.shape[1])]
        launch(
            query_gradients,
            (triton.cdiv(queries, rows), batch * heads),
            q,
            k,
            v,
            dout,
            dq,
            log,
            delta,
            *strides(q, k, dout, dq),
            *sizes,
            D=depth,
            BM=rows,
            BN=keys,
            WHOLE=queries % rows == 0,
            EVEN=k.shape[1] % keys == 0,
            num_warps=warps,
            num_stages=stages,
        )
        return dq, dk, dv, None, None


def _way(queries: int, keys: int) -> int:
    return 2 if queries % ROWS else int(keys < LONG)


def _gradients(q: Tensor, k: Tensor, beside: bool) -> tuple[Tensor, ...]:
    """Room for dq, dk and dv."""
    if beside and q.shape == k.shape:
        return torch.empty((*q.shape[:2], 3 * q.shape[2]), device=q.device, dtype=q.dtype).chunk(3, dim=-1)
    dq, dk, dv = (torch.empty(part.shape, device=q.device, dtype=q.dtype) for part in (q, k, k))
    return dq, dk, dv


@triton.jit(do_not_specialize=VARYING)
def attend(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    log_ptr,
    q_batch,
    q_row,
    k_batch,
    k_row,
    out_batch,
    out_row,
    H,
    LQ,
    LK,
    scale2,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
):
    """out, and log2 of each row's softmax denominator. WHOLE says that BM divides LQ; EVEN that BN divides LK."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    q = _rows(q_ptr + b * q_batch + h * D, m, q_row, LQ, D, WHOLE)
    keys = k_ptr + b * k_batch + h * D
    values = v_ptr + b * k_batch + h * D
    highest = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    out = tl.zeros([BM, D], tl.float32)
    for start in range(0, LK, BN):
        n = start + tl.arange(0, BN)
        if EVEN:
            k = tl.load(keys + n[None, :] * k_row + d[:, None])
            v = tl.load(values + n[:, None] * k_row + d[None, :])
        else:
            k = tl.load(keys + n[None, :] * k_row + d[:, None], mask=(n < LK)[None, :], other=0.0)
            v = tl.load(values + n[:, None] * k_row + d[None, :], mask=(n < LK)[:, None], other=0.0)
        scores = tl.dot(q, k)
        if not EVEN:
            scores = tl.where((n < LK)[None, :], scores, -float("inf"))
        raised = tl.maximum(highest, tl.max(scores, 1) * scale2)
        p = tl.exp2(scores * scale2 - raised[:, None])
        shrink = tl.exp2(highest - raised)
        total = total * shrink + tl.sum(p, 1)
        out = tl.dot(p.to(v.dtype), v, out * shrink[:, None])
        highest = raised
    out = out / total[:, None]
    _store_numbers(log_ptr + tl.program_id(1).to(tl.int64) * LQ, m, highest + tl.log2(total), LQ, WHOLE)
    _store_rows(out_ptr + b * out_batch + h * D, m, out_row, out, LQ, D, WHOLE)


@triton.jit
def _rows(base, m, row, LQ, D: tl.constexpr, WHOLE: tl.constexpr):
    """(rows m, D), of which those from LQ on are 0."""
    at = base + m[:, None] * row + tl.arange(0, D)[None, :]
    if WHOLE:  # noqa: SIM108  Triton has no such expression over blocks
        values = tl.load(at)
    else:
        values = tl.load(at, mask=(m < LQ)[:, None], other=0.0)
    return values


@triton.jit
def _numbers(base, m, LQ, WHOLE: tl.constexpr):
    """A number a row m, of which those from LQ on are 0."""
    if WHOLE:  # noqa: SIM108
        numbers = tl.load(base + m)
    else:
        numbers = tl.load(base + m, mask=m < LQ, other=0.0)
    return numbers


@triton.jit
def _store_rows(base, m, row, values, LQ, D: tl.constexpr, WHOLE: tl.constexpr):
    at = base + m[:, None] * row + tl.arange(0, D)[None, :]
    if WHOLE:
        tl.store(at, values.to(base.dtype.element_ty))
    else:
        tl.store(at, values.to(base.dtype.element_ty), mask=(m < LQ)[:, None])


@triton.jit
def _store_numbers(base, m, values, LQ, WHOLE: tl.constexpr):
    if WHOLE:
        tl.store(base + m, values)
    else:
        tl.store(base + m, values, mask=m < LQ)


@triton.jit(do_not_specialize=VARYING)
def row_products(
    out_ptr, dout_ptr, delta_ptr, out_batch, out_row, H, LQ, D: tl.constexpr, BM: tl.constexpr, WHOLE: tl.constexpr
):
    """delta = sum over D of out * dout."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    out = _rows(out_ptr + b * out_batch + h * D, m, out_row, LQ, D, WHOLE)
    dout = _rows(dout_ptr + b * out_batch + h * D, m, out_row, LQ, D, WHOLE)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
    _store_numbers(delta_ptr + tl.program_id(1).to(tl.int64) * LQ, m, delta, LQ, WHOLE)


@triton.jit(do_not_specialize=VARYING)
def key_gradients(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    dk_ptr,
    dv_ptr,
    log_ptr,
    delta_ptr,
    q_batch,
    q_row,
    k_batch,
    k_row,
    out_batch,
    out_row,
    dk_batch,
    dk_row,
    H,
    LQ,
    LK,
    scale2,
    scale,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """dk and dv of BN keys, over all queries. WHOLE says that BM divides LQ."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    d = tl.arange(0, D)
    inside = (n < LK)[:, None]
    at = b * k_batch + h * D + n[:, None] * k_row + d[None, :]
    k = tl.load(k_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    dk = tl.zeros([BN, D], tl.float32)
    dv = tl.zeros([BN, D], tl.float32)
    queries = q_ptr + b * q_batch + h * D
    douts = dout_ptr + b * out_batch + h * D
    logs = log_ptr + tl.program_id(1).to(tl.int64) * LQ
    deltas = delta_ptr + tl.program_id(1).to(tl.int64) * LQ
    for start in range(0, LQ, BM):
        m = start + tl.arange(0, BM)
        # Rows past the end have q = dout = delta = 0, so whatever p is there, they add nothing.
        q = _rows(queries, m, q_row, LQ, D, WHOLE)
        p = tl.exp2(tl.dot(k, tl.trans(q)) * scale2 - _numbers(logs, m, LQ, WHOLE)[None, :])
        dout = _rows(douts, m, out_row, LQ, D, WHOLE)
        dv = tl.dot(p.to(dout.dtype), dout, dv)
        ds = p * (tl.dot(v, tl.trans(dout)) - _numbers(deltas, m, LQ, WHOLE)[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk)
    at = b * dk_batch + h * D + n[:, None] * dk_row + d[None, :]
    tl.store(dv_ptr + at, dv.to(dv_ptr.dtype.element_ty), mask=inside)
    tl.store(dk_ptr + at, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=VARYING)
def query_gradients(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    dq_ptr,
    log_ptr,
    delta_ptr,
    q_batch,
    q_row,
    k_batch,
    k_row,
    out_batch,
    out_row,
    dq_batch,
    dq_row,
    H,
    LQ,
    LK,
    scale2,
    scale,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
):
    """dq of BM queries, over all keys. WHOLE says that BM divides LQ; EVEN that BN divides LK."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    q = _rows(q_ptr + b * q_batch + h * D, m, q_row, LQ, D, WHOLE)
    dout = _rows(dout_ptr + b * out_batch + h * D, m, out_row, LQ, D, WHOLE)
    log = _numbers(log_ptr + tl.program_id(1).to(tl.int64) * LQ, m, LQ, WHOLE)
    delta = _numbers(delta_ptr + tl.program_id(1).to(tl.int64) * LQ, m, LQ, WHOLE)
    keys = k_ptr + b * k_batch + h * D
    values = v_ptr + b * k_batch + h * D
    dq = tl.zeros([BM, D], tl.float32)
    for start in range(0, LK, BN):
        n = start + tl.arange(0, BN)
        at = n[:, None] * k_row + d[None, :]
        if EVEN:
            k = tl.load(keys + at)
            v = tl.load(values + at)
        else:
            k = tl.load(keys + at, mask=(n < LK)[:, None], other=0.0)
            v = tl.load(values + at, mask=(n < LK)[:, None], other=0.0)
        p = tl.exp2(tl.dot(q, tl.trans(k)) * scale2 - log[:, None])
        if not EVEN:
            p = tl.where((n < LK)[None, :], p, 0.0)
        ds = p * (tl.dot(dout, tl.trans(v)) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq)
    _store_rows(dq_ptr + b * dq_batch + h * D, m, dq_row, dq * scale, LQ, D, WHOLE)
