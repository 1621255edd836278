"""Attention to so few keys that one program holds them all, as Triton kernels, forward and backward.

A prompt has 77 tokens, while a picture has up to 4096 queries: what counts is how often queries are read, and that
enough programs share them. A program owns a chunk of the queries of one head and holds its keys and values throughout.
With all keys there, the softmax is the plain one, and delta (Dao, 2023) is a row's sum over p * dp, so that the backward
pass needs no `out` and reads queries once. What each chunk adds to dk and dv is written down, and `add_chunks` adds it
in order: a run repeats bit for bit.

Keys are BN + TAIL rows, both powers of two: 64 + 16 for 77, where 128 would be three fifths more work. TAIL may be 0;
if it is not, there are more than BN keys. CAUSAL keys are those up to the query's own place: the text encoder's attention.
Tensors are (B, L, H, D) with any strides of B and L. `scale2` is the softmax scale times log2(e).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .launch import launch

VARYING = ["H", "LQ", "LK", "CHUNK", "scale2", "scale"]
"""Numbers whose special values are not worth a kernel of their own: compiling takes longer than it saves."""

FEW, FEW_WIDTH = 80, 64
"""Up to so many keys of this width, all of a head's fit into the registers of one program, with every Triton."""
# Rows of queries, warps, stages, and up to how many programs: four and two for each of an H100's 132 processors.
ATTEND_FEW = (64, 4, 2, 528)
FEW_GRADIENTS = (64, 4, 2, 264)
ADDED = 1024
"""Numbers that a program adds up."""


def few(k: Tensor, heads: int) -> bool:
    """Whether a program can hold all keys of a head."""
    return k.shape[1] <= FEW and k.shape[2] // heads <= FEW_WIDTH


class AttendFew(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
        batch, queries, width = q.shape
        out = torch.empty((batch, queries, width), device=q.device, dtype=q.dtype)
        log = torch.empty((batch, heads, queries), device=q.device, dtype=torch.float32)
        rows, warps, stages, programs = ATTEND_FEW
        main, tail = _tiles(k.shape[1])
        chunk, chunks = _chunks(queries, rows, programs // (batch * heads))
        launch(
            attend_few,
            (chunks, batch * heads),
            q,
            k,
            v,
            out,
            log,
            *strides(q, k, out),
            heads,
            queries,
            k.shape[1],
            chunk,
            scale_of_exp2(width // heads),
            D=width // heads,
            BM=rows,
            BN=main,
            TAIL=tail,
            CAUSAL=causal,
            num_warps=warps,
            num_stages=stages,
        )
        ctx.save_for_backward(q, k, v, log)
        ctx.heads, ctx.causal = heads, causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, log = ctx.saved_tensors
        heads: int = ctx.heads
        batch, queries, width = q.shape
        depth = width // heads
        dout = dout.contiguous()
        rows, warps, stages, programs = FEW_GRADIENTS
        main, tail = _tiles(k.shape[1])
        chunk, chunks = _chunks(queries, rows, programs // (batch * heads))
        dq = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        gradients = torch.empty((1, 2, *k.shape), device=q.device, dtype=q.dtype)
        parts = gradients
        if chunks > 1:
            parts = torch.empty((chunks, 2, *k.shape), device=q.device, dtype=torch.float32)
        launch(
            few_gradients,
            (chunks, batch * heads),
            q,
            k,
            v,
            dout,
            dq,
            parts[:, 0],
            parts[:, 1],
            log,
            *strides(q, k, dout, dq),
            *parts[:, 0].stride()[:3],
            heads,
            queries,
            k.shape[1],
            chunk,
            scale_of_exp2(depth),
            depth**-0.5,
            D=depth,
            BM=rows,
            BN=main,
            TAIL=tail,
            CAUSAL=ctx.causal,
            num_warps=warps,
            num_stages=stages,
        )
        if chunks > 1:
            size = gradients.numel()
            launch(
                add_chunks,
                (triton.cdiv(size, ADDED),),
                parts,
                gradients,
                chunks,
                size,
                BLOCK=ADDED,
            )
        dk, dv = gradients[0]
        return dq, dk, dv, None, None


def _chunks(queries: int, rows: int, most: int) -> tuple[int, int]:
    """A chunk's queries, whole blocks of `rows`, and how many chunks there are.

    Shapes alone decide: what is added up in which order is then the same on every GPU.
    """
    blocks = triton.cdiv(queries, rows)
    each = triton.cdiv(blocks, max(1, most))
    return each * rows, triton.cdiv(blocks, each)


def _tiles(keys: int) -> tuple[int, int]:
    """Into how many rows keys are put: a power of two, or for a prompt two of them, with the fewest to spare."""
    return (64, 16) if keys > 64 else (max(16, triton.next_power_of_2(keys)), 0)


def strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def scale_of_exp2(depth: int) -> float:
    return depth**-0.5 / math.log(2)


@triton.jit
def load_rows(base, rows, row, end, D: tl.constexpr):
    """(rows, D); zeros from row `end` on."""
    return tl.load(base + rows[:, None] * row + tl.arange(0, D)[None, :], mask=(rows < end)[:, None], other=0.0)


@triton.jit
def store_rows(base, rows, row, end, values, D: tl.constexpr):
    at = base + rows[:, None] * row + tl.arange(0, D)[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=(rows < end)[:, None])


@triton.jit
def _seen(m, n, LK, CAUSAL: tl.constexpr):
    """Which queries m look at which keys n."""
    seen = (n < LK)[None, :]
    if CAUSAL:
        seen = seen & (n[None, :] <= m[:, None])
    return seen


@triton.jit(do_not_specialize=VARYING)
def attend_few(
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
    CHUNK,
    scale2,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    TAIL: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """out, and log2 of each row's softmax denominator, for CHUNK queries in blocks of BM."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    n = tl.arange(0, BN)
    k = load_rows(k_ptr + b * k_batch + h * D, n, k_row, LK, D)
    v = load_rows(v_ptr + b * k_batch + h * D, n, k_row, LK, D)
    if TAIL:
        n1 = BN + tl.arange(0, TAIL)
        k1 = load_rows(k_ptr + b * k_batch + h * D, n1, k_row, LK, D)
        v1 = load_rows(v_ptr + b * k_batch + h * D, n1, k_row, LK, D)
    logs = log_ptr + tl.program_id(1).to(tl.int64) * LQ
    first = tl.program_id(0) * CHUNK
    for start in range(first, tl.minimum(first + CHUNK, LQ), BM):
        m = start + tl.arange(0, BM)
        q = load_rows(q_ptr + b * q_batch + h * D, m, q_row, LQ, D)
        scores = tl.dot(q, tl.trans(k))
        if CAUSAL or not TAIL:
            scores = tl.where(_seen(m, n, LK, CAUSAL), scores, -float("inf"))
        highest = tl.max(scores, 1)
        if TAIL:
            scores1 = tl.where(_seen(m, n1, LK, CAUSAL), tl.dot(q, tl.trans(k1)), -float("inf"))
            highest = tl.maximum(highest, tl.max(scores1, 1))
        highest = highest * scale2
        p = tl.exp2(scores * scale2 - highest[:, None])
        total = tl.sum(p, 1)
        out = tl.dot(p.to(v.dtype), v)
        if TAIL:
            p1 = tl.exp2(scores1 * scale2 - highest[:, None])
            total += tl.sum(p1, 1)
            out = tl.dot(p1.to(v1.dtype), v1, out)
        tl.store(logs + m, highest + tl.log2(total), mask=m < LQ)
        store_rows(out_ptr + b * out_batch + h * D, m, out_row, LQ, out / total[:, None], D)


@triton.jit
def probabilities(q, k, log, scale2, m, n, CAUSAL: tl.constexpr):
    """At most 1, also for the zeros past the last key: they then add nothing to any gradient that is kept."""
    p = tl.exp2(tl.minimum(tl.dot(q, tl.trans(k)) * scale2 - log[:, None], 0.0))
    if CAUSAL:
        p = tl.where(n[None, :] <= m[:, None], p, 0.0)
    return p


@triton.jit(do_not_specialize=VARYING)
def few_gradients(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    log_ptr,
    q_batch,
    q_row,
    k_batch,
    k_row,
    out_batch,
    out_row,
    dq_batch,
    dq_row,
    dk_chunk,
    dk_batch,
    dk_row,
    H,
    LQ,
    LK,
    CHUNK,
    scale2,
    scale,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    TAIL: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """dq of CHUNK queries, and what they add to dk and dv, a row of chunks each.

    dk and dv are kept transposed: tensor cores read p and ds as they lie, and take 64 rows of D but as few as 16 keys.
    """
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    n = tl.arange(0, BN)
    k = load_rows(k_ptr + b * k_batch + h * D, n, k_row, LK, D)
    v = load_rows(v_ptr + b * k_batch + h * D, n, k_row, LK, D)
    dk = tl.zeros([D, BN], tl.float32)
    dv = tl.zeros([D, BN], tl.float32)
    if TAIL:
        n1 = BN + tl.arange(0, TAIL)
        k1 = load_rows(k_ptr + b * k_batch + h * D, n1, k_row, LK, D)
        v1 = load_rows(v_ptr + b * k_batch + h * D, n1, k_row, LK, D)
        dk1 = tl.zeros([D, TAIL], tl.float32)
        dv1 = tl.zeros([D, TAIL], tl.float32)
    logs = log_ptr + tl.program_id(1).to(tl.int64) * LQ
    first = tl.program_id(0) * CHUNK
    for start in range(first, tl.minimum(first + CHUNK, LQ), BM):
        m = start + tl.arange(0, BM)
        q = load_rows(q_ptr + b * q_batch + h * D, m, q_row, LQ, D)
        dout = load_rows(dout_ptr + b * out_batch + h * D, m, out_row, LQ, D)
        # Rows past the end have dout = 0, so whatever p is there, they add nothing.
        log = tl.load(logs + m, mask=m < LQ, other=0.0)
        if TAIL:
            p1 = probabilities(q, k1, log, scale2, m, n1, CAUSAL)
            dv1 = tl.dot(tl.trans(dout), p1.to(q.dtype), dv1)
            dp1 = tl.dot(dout, tl.trans(v1))
        p = probabilities(q, k, log, scale2, m, n, CAUSAL)
        dv = tl.dot(tl.trans(dout), p.to(q.dtype), dv)
        dp = tl.dot(dout, tl.trans(v))
        delta = tl.sum(p * dp, 1)
        if TAIL:
            delta += tl.sum(p1 * dp1, 1)
        ds = (p * (dp - delta[:, None])).to(q.dtype)
        dk = tl.dot(tl.trans(q), ds, dk)
        dq = tl.dot(ds, k)
        if TAIL:
            ds1 = (p1 * (dp1 - delta[:, None])).to(q.dtype)
            dk1 = tl.dot(tl.trans(q), ds1, dk1)
            dq = tl.dot(ds1, k1, dq)
        store_rows(dq_ptr + b * dq_batch + h * D, m, dq_row, LQ, dq * scale, D)
    mine = tl.program_id(0).to(tl.int64) * dk_chunk + b * dk_batch + h * D
    store_rows(dk_ptr + mine, n, dk_row, LK, tl.trans(dk * scale), D)
    store_rows(dv_ptr + mine, n, dk_row, LK, tl.trans(dv), D)
    if TAIL:
        store_rows(dk_ptr + mine, n1, dk_row, LK, tl.trans(dk1 * scale), D)
        store_rows(dv_ptr + mine, n1, dk_row, LK, tl.trans(dv1), D)


@triton.jit(do_not_specialize=["CHUNKS", "size"])
def add_chunks(parts_ptr, out_ptr, CHUNKS, size, BLOCK: tl.constexpr):
    """The sum over the first dimension of parts (CHUNKS, size), from the first to the last."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(CHUNKS):
        total += tl.load(parts_ptr + at, mask=at < size, other=0.0)
        parts_ptr += size
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)
