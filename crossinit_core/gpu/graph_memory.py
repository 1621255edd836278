"""Memory that belongs to CUDA graphs, of which torch's allocator knows nothing.

With cudaMallocAsync, ComfyUI's default allocator, what is allocated while a graph is recorded is the graph's. The driver
keeps it when the graph is gone, for graphs to come, and gives it to nobody else.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

RESERVED = 2
"""CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT of the CUDA driver's interface."""


def held(device: int) -> int:
    """Bytes that graphs have on a device; 0 where there are none or the driver does not say."""
    amount = ctypes.c_uint64()
    return 0 if _call("cuDeviceGetGraphMemAttribute", device, RESERVED, ctypes.byref(amount)) else amount.value


def trim(device: int) -> None:
    """Give back what no graph uses any more."""
    _call("cuDeviceGraphMemTrim", device)


def _call(name: str, device: int, *arguments: Any) -> int:
    """Call a function of the driver on a device; other than 0 where that fails."""
    handle = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return int(driver.cuDeviceGet(ctypes.byref(handle), device) or getattr(driver, name)(handle, *arguments))
    except (OSError, AttributeError):  # no NVIDIA, or a driver from before graphs had memory
        return -1
