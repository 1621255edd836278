"""Launching Triton kernels on tensors."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


class Pointer:
    """What Triton compiles a kernel for: a tensor's type, and whether its address is a round number."""

    def __init__(self, dtype: torch.dtype, address: int) -> None:
        self.dtype, self._address = dtype, address

    def data_ptr(self) -> int:
        return self._address


class Address(int):
    """A tensor for a Triton kernel: its address and type.

    Triton asks the driver about every tensor's address, and the driver does not know memory that is allocated while a
    CUDA graph is recorded with the cudaMallocAsync allocator, ComfyUI's default. Numbers are taken as they are.
    """

    dtype: torch.dtype

    def __new__(cls, tensor: Tensor) -> Address:
        address = super().__new__(cls, tensor.data_ptr())
        address.dtype = tensor.dtype
        return address

    def data_ptr(self) -> int:
        return int(self)

    def pointer(self) -> Pointer:
        """The same as no number."""
        return Pointer(self.dtype, int(self))


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """`kernel[grid](*arguments, **constants)`; on the CPU tensors go in as they are, for Triton's interpreter.

    `constants` are options of Triton and the kernel's constexpr parameters, which it declares last.
    """
    if not any(isinstance(part, Tensor) and part.is_cuda for part in arguments):
        kernel[grid](*arguments, **constants)
        return
    numbers = [Address(part) if isinstance(part, Tensor) else part for part in arguments]
    if addresses_are_pointers():
        kernel[grid](*numbers, **constants)
        return
    pointers = [part.pointer() if isinstance(part, Address) else part for part in numbers]
    compiled = kernel.run(*pointers, grid=grid, warmup=True, **constants)
    values = [*numbers, *(constants[name] for name in kernel.arg_names[len(numbers) :])]
    # Triton 3.3 and later want the constants as well, though they are in the code already.
    compiled[(*grid, 1, 1)[:3]](*values[: len(compiled.src.signature)])


@cache
def addresses_are_pointers() -> bool:
    """Whether this Triton compiles for an `Address` as for a tensor. Up to 3.5, which came with PyTorch 2.9, it does not."""
    from triton.runtime.jit import mangle_type

    return str(mangle_type(Address(torch.empty(0)))) == "*fp32"
