"""Launching Triton kernels on tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Address(int):
    """A tensor for a Triton kernel: its address and type.

    Triton asks the driver about every tensor's address, and the driver does not know memory that is allocated while a
    CUDA graph is recorded with the cudaMallocAsync allocator, ComfyUI's default. Numbers are taken as they are.
    """

    dtype: Any

    def __new__(cls, tensor: Tensor) -> Address:
        address = super().__new__(cls, tensor.data_ptr())
        address.dtype = tensor.dtype
        return address

    def data_ptr(self) -> int:
        return int(self)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """`kernel[grid](*arguments, **constants)`; on the CPU tensors go in as they are, for Triton's interpreter."""
    kernel[grid](
        *(Address(part) if isinstance(part, Tensor) and part.is_cuda else part for part in arguments), **constants
    )
