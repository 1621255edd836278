"""What reaches the GPU when a Triton kernel is launched on tensors: compiled here for a GPU that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_COMPILED = """
from types import SimpleNamespace
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from crossinit_core.gpu.kernels.on_triton import launch as module
from crossinit_core.gpu.kernels.on_triton.add_bias import add_bias_and_residual
from crossinit_core.gpu.kernels.on_triton.launch import Pointer, launch

launched = []

class Launcher:
    def __init__(self, source, metadata):
        self.types = tuple(source.signature.values())

    def __call__(self, x, y, z, stream, function, *given):
        launched.append(((x, y, z), self.types, given[-len(self.types):]))

class Driver(SimpleNamespace):
    binary_ext, launcher_cls = "cubin", Launcher

version = tuple(map(int, triton.__version__.split(".")[:2]))
handles = (1, 2, 32, 0) if version < (3, 4) else (1, 2, 32, 0, 1024)
driver.set_active(Driver(
    get_current_target=lambda: GPUTarget("cuda", 86, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
    utils=SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 101376},
        load_binary=lambda *given: handles,
    ),
))

class OnGpu(torch.Tensor):
    is_cuda = True

def tensors(dtype):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, generator=generator).to(dtype).as_subclass(OnGpu) for rows in (64, 16, 64, 64)]

kernel = add_bias_and_residual
for dtype in (torch.float16, torch.float32):
    on_gpu = tensors(dtype)
    # A tensor whose address is no multiple of 16, for which Triton compiles other code.
    for given in (on_gpu, [on_gpu[0], on_gpu[1][1:], *on_gpu[2:]]):
        launched.clear()
        pointers = [Pointer(part.dtype, part.data_ptr()) for part in given]
        kernel[(3, 1)](*pointers, 64, 16, BLOCK=32, num_warps=2)
        launch(kernel, (3, 1), *given, 64, 16, BLOCK=32, num_warps=2)
        module.addresses_are_pointers = lambda: False
        launch(kernel, (3, 1), *given, 64, 16, BLOCK=32, num_warps=2)
        grid, types, values = launched[0]
        plain = tuple(part.data_ptr() if isinstance(part, Pointer) else part for part in values)
        assert len(launched) == 3 and grid == (3, 1, 1) and types[0] == {torch.float16: "*fp16"}.get(dtype, "*fp32")
        assert plain[:6] == (*(part.data_ptr() for part in given), 64, 16), plain
        for other in launched[1:]:
            assert other == (grid, types, plain), other
            assert all(isinstance(part, int) for part in other[2][:4])
print("all equal")
"""


@pytest.mark.slow
def test_a_kernel_gets_addresses_as_numbers(tmp_path: Path) -> None:
    """With this Triton, and in the way that is there for those before 3.6."""
    pytest.importorskip("triton")
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", _COMPILED],
        cwd=root,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.stdout.strip() == "all equal", run.stderr[-3000:]


_ATTENTION = """
import sys
from types import SimpleNamespace
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from crossinit_core.gpu.kernels.on_triton.attention import by_kernels

capability, shared = map(int, sys.argv[1:])
launched = []

class Launcher:
    def __init__(self, source, metadata):
        self.name = source.fn.__name__

    def __call__(self, x, y, z, *given):
        launched.append((self.name, x, y))

class Driver(SimpleNamespace):
    binary_ext, launcher_cls = "cubin", Launcher

version = tuple(map(int, triton.__version__.split(".")[:2]))
driver.set_active(Driver(
    get_current_target=lambda: GPUTarget("cuda", capability, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
    utils=SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": shared},
        load_binary=lambda *given: (1, 2, 32, 0) if version < (3, 4) else (1, 2, 32, 0, 1024),
    ),
))

class OnGpu(torch.Tensor):
    is_cuda = True

def launch(batch, heads, queries, keys, causal=False):
    launched.clear()
    q, packed = (torch.zeros(batch, rows, width).half() for rows, width in ((queries, 64 * heads), (keys, 128 * heads)))
    leaves = [part.as_subclass(OnGpu).requires_grad_() for part in (q, *packed.chunk(2, dim=-1))]
    out = by_kernels(*leaves, heads, causal)
    torch.autograd.grad(out, leaves, torch.zeros_like(q).as_subclass(OnGpu))
    return list(launched)

assert launch(8, 5, 256, 256) == [
    ("attend", 2, 40), ("row_products", 2, 40), ("key_gradients", 4, 40), ("query_gradients", 2, 40)
]
assert [name for name, *_ in launch(1, 1, 2048, 2048)] == ["attend", "row_products", "key_gradients", "query_gradients"]
assert launch(8, 16, 77, 77, causal=True) == [("attend_few", 2, 128), ("few_gradients", 2, 128), ("add_chunks", 1232, 1)]
for heads, queries in ((5, 4096), (10, 1024), (20, 256), (20, 64)):
    names, chunks, rows = zip(*launch(8, heads, queries, 77))
    assert names == ("attend_few", "few_gradients", "add_chunks")[:2 if chunks[1] == 1 else 3], names
    assert rows[:2] == (8 * heads,) * 2
    assert 160 <= chunks[1] * 8 * heads <= 4 * 132, "about as many programs as an H100 has room for"
print("all fit")
"""


@pytest.mark.parametrize("capability, shared", [(90, 232448), (120, 101376)])  # H100, RTX 5090
@pytest.mark.slow
def test_attention_compiles_and_fits_into_shared_memory(capability: int, shared: int, tmp_path: Path) -> None:
    """In half precision with heads of 64, as in SD 2.1 at batch 8 and 512 px."""
    pytest.importorskip("triton")
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", _ATTENTION, str(capability), str(shared)],
        cwd=root,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.stdout.strip() == "all fit", run.stderr[-3000:]


def test_a_number_for_a_tensor_knows_what_the_tensor_is() -> None:
    from crossinit_core.gpu.kernels.on_triton.launch import Address

    tensor = torch.zeros(3, dtype=torch.float16)
    address = Address(tensor)
    assert address == tensor.data_ptr() == address.data_ptr() == address.pointer().data_ptr()
    assert address.dtype == address.pointer().dtype == torch.float16
    assert not isinstance(address.pointer(), int), "Tritons before 3.6 take every number for one"
