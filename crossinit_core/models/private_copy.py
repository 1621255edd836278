"""Frozen copies of a caller's modules, to be changed at will."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def private_copy(module: Module, wanted: Callable[[str], torch.dtype]) -> Module:
    """A copy with weights of its own, without gradients, in the types that `wanted` says by name; for use, not training.

    Each weight is copied and converted in one step: the two types of all weights are never there together.
    """
    copies: dict[int, Any] = {}
    for name, weight in module.named_parameters():
        copies[id(weight)] = nn.Parameter(weight.detach().to(wanted(name), copy=True), requires_grad=False)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            copies[id(buffer)] = buffer.to(wanted(name), copy=True)
    return copy.deepcopy(module, copies).train(False)
