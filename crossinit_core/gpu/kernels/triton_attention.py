"""Attention as Triton kernels, with gradients to queries, keys and values."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import attention_kernels, few_keys_kernels
from .launch import launch

# Rows of queries, rows of keys, warps, stages: the fastest of twelve each on an H200 with heads of 64, for 4096 x 4096 and for
# 1024 x 1024.
ATTEND = ((128, 64, 8, 3), (128, 64, 8, 4))
KEY_GRADIENTS = ((128, 64, 4, 2), (128, 64, 4, 2))
QUERY_GRADIENTS = ((128, 64, 4, 3), (128, 64, 8, 3))
LONG = 2048
"""From so many keys on the first of them is taken."""
ROWS = 128
"""The number of queries must be a multiple of this, unless there are few keys."""
WIDTHS = (16, 32, 64, 128)
FEW, FEW_WIDTH = 80, 64
"""Up to so many keys of this width, all of a head's fit into the registers of one program, with every Triton."""
# Rows of queries, warps, stages, and up to how many programs: four and two for each of an H100's 132 processors.
ATTEND_FEW = (64, 4, 2, 528)
FEW_GRADIENTS = (64, 4, 2, 264)
ADDED = 1024
"""Numbers that a program adds up."""


def fits(q: Tensor, k: Tensor, v: Tensor, heads: int) -> bool:
    """Whether `attend` can take tensors (B, L, heads * D)."""
    return (
        (q.shape[1] % ROWS == 0 or few(k, heads))
        and q.shape[2] // heads in WIDTHS
        and q.dtype in (torch.float16, torch.bfloat16)
        and k.stride() == v.stride()
        and q.stride(2) == k.stride(2) == 1
    )


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for each head; q (B, L, heads * D), k and v (B, L', heads * D).

    Where `causal`, a query sees the keys up to its own place; there must be few.
    """
    if few(k, heads):
        return _AttendFew.apply(q, k, v, heads, causal)
    assert not causal
    return _Attend.apply(q, k, v, heads)


def few(k: Tensor, heads: int) -> bool:
    """Whether a program can hold all keys of a head."""
    return k.shape[1] <= FEW and k.shape[2] // heads <= FEW_WIDTH


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        batch, queries, width = q.shape
        out = torch.empty((batch, queries, width), device=q.device, dtype=q.dtype)
        log = torch.empty((batch, heads, queries), device=q.device, dtype=torch.float32)
        rows, keys, warps, stages = ATTEND[k.shape[1] < LONG]
        launch(
            attention_kernels.attend,
            (queries // rows, batch * heads),
            q,
            k,
            v,
            out,
            log,
            *_strides(q, k, out),
            heads,
            queries,
            k.shape[1],
            _scale2(width // heads),
            D=width // heads,
            BM=rows,
            BN=keys,
            EVEN=k.shape[1] % keys == 0,
            num_warps=warps,
            num_stages=stages,
        )
        ctx.save_for_backward(q, k, v, out, log)
        ctx.heads = heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, log = ctx.saved_tensors
        heads: int = ctx.heads
        batch, queries, width = q.shape
        depth = width // heads
        dout = dout.contiguous()
        delta = torch.empty_like(log)
        dq, dk = (torch.empty(part.shape, device=q.device, dtype=q.dtype) for part in (q, k))
        dv = torch.empty_like(dk)
        launch(
            attention_kernels.row_products,
            (queries // ROWS, batch * heads),
            out,
            dout,
            delta,
            *_strides(out),
            heads,
            queries,
            D=depth,
            BM=ROWS,
        )
        sizes = (heads, queries, k.shape[1], _scale2(depth), depth**-0.5)
        rows, keys, warps, stages = KEY_GRADIENTS[k.shape[1] < LONG]
        launch(
            attention_kernels.key_gradients,
            (triton.cdiv(k.shape[1], keys), batch * heads),
            q,
            k,
            v,
            dout,
            dk,
            dv,
            log,
            delta,
            *_strides(q, k, dout, dk),
            *sizes,
            D=depth,
            BM=rows,
            BN=keys,
            num_warps=warps,
            num_stages=stages,
        )
        rows, keys, warps, stages = QUERY_GRADIENTS[k.shape[1] < LONG]
        launch(
            attention_kernels.query_gradients,
            (queries // rows, batch * heads),
            q,
            k,
            v,
            dout,
            dq,
            log,
            delta,
            *_strides(q, k, dout, dq),
            *sizes,
            D=depth,
            BM=rows,
            BN=keys,
            EVEN=k.shape[1] % keys == 0,
            num_warps=warps,
            num_stages=stages,
        )
        return dq, dk, dv, None


class _AttendFew(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
        batch, queries, width = q.shape
        out = torch.empty((batch, queries, width), device=q.device, dtype=q.dtype)
        log = torch.empty((batch, heads, queries), device=q.device, dtype=torch.float32)
        rows, warps, stages, programs = ATTEND_FEW
        main, tail = _tiles(k.shape[1])
        chunk, chunks = _chunks(queries, rows, programs // (batch * heads))
        launch(
            few_keys_kernels.attend_few,
            (chunks, batch * heads),
            q,
            k,
            v,
            out,
            log,
            *_strides(q, k, out),
            heads,
            queries,
            k.shape[1],
            chunk,
            _scale2(width // heads),
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
            few_keys_kernels.few_gradients,
            (chunks, batch * heads),
            q,
            k,
            v,
            dout,
            dq,
            parts[:, 0],
            parts[:, 1],
            log,
            *_strides(q, k, dout, dq),
            *parts[:, 0].stride()[:3],
            heads,
            queries,
            k.shape[1],
            chunk,
            _scale2(depth),
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
                few_keys_kernels.add_chunks,
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


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _scale2(depth: int) -> float:
    return depth**-0.5 / math.log(2)
