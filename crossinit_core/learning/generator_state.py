"""The state of torch's random generator on the CPU, looked at before torch gets it.

`torch.Generator.set_state` believes most of it: with a place beyond the end of its table it reads what lies behind.
Source of the layout: PyTorch, aten/src/ATen/CPUGeneratorImpl.cpp (CPUGeneratorImplState) and
aten/src/ATen/core/MT19937RNGEngine.h, the same since 1.7.
"""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

_WORDS = 624
_LAYOUT = struct.Struct(f"@Qii Q{_WORDS}Q 3di4x fB3x")
"""Seed; numbers left in the table, whether it is seeded, place of the next one, table; three doubles and a flag of an older
version; a float that is left over, and a flag."""


def check_generator_state(state: Tensor, seed: int) -> None:
    """Raises ValueError, with a part of a sentence, if these bytes cannot be the state of a generator of that seed."""
    if state.dtype != torch.uint8 or state.shape != torch.Generator().get_state().shape:
        raise ValueError("the state of its random generator has another size than this torch's")
    if len(state) != _LAYOUT.size:  # of a torch to come: only its checksum speaks for it
        return
    its_seed, left, seeded, following, *rest = _LAYOUT.unpack(state.numpy().tobytes())
    table, doubles, flag, number, number_flag = rest[:_WORDS], rest[_WORDS:-3], rest[-3], rest[-2], rest[-1]
    fresh = (left, following) == (1, 0)
    right = (
        its_seed == seed
        and seeded == 1
        and 1 <= left <= _WORDS
        and (fresh or left + following == _WORDS + 1)
        and max(table) < 2**32
        and any(table)
        and flag in (0, 1)
        and number_flag in (0, 1)
        and all(math.isfinite(value) for value in (*doubles, number))
    )
    if not right:
        raise ValueError("the state of its random generator is not one that this run can have")
