"""Fused blocks in the place of a host's own: each kind is tried against the host's code before it is used.

The UNet is a private copy: its modules' forwards, the layout of its weights and their storage are changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..families import CONTEXT_LENGTH
from ..gpu.kernels import Kernels
from ..gpu.modes import is_out_of_memory
from ..gpu.self_tests import has_passed, passed, relative_differences, values_and_gradients
from .computed_again import checkpointed

log = logging.getLogger(__name__)

AGREEMENT = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Relative differences between two right computations of a block in a precision stay below this."""
_SIDES, _ODD_SIDES = (8, 16), (8, 18)
"""Height and width of the pictures of a trial; the others for kernels that see numbers of pixels that no power of two divides."""


@dataclass(frozen=True)
class FusedBlock:
    """A block of a UNet, the host's code for it, and what takes its place.

    `own` and `fused` map a picture (B, `channels`, H, W), then a context (B, L, `context`) or a time embedding
    (B, `embedding`) if there is one, to a picture. `forwards` are the modules that get another forward, with that forward
    in the host's signature.
    """

    kind: Hashable
    """What blocks have in common for which one trial is enough; other packs may change what a host's own code does."""
    weight: Tensor
    """One of its weights, whose type and device the trial has."""
    own: Callable[..., Tensor]
    fused: Callable[..., Tensor]
    forwards: Sequence[tuple[nn.Module, Callable[..., Any]]]
    channels: int
    context: int | None = None
    embedding: int | None = None
    odd: bool = False
    """Whether it is tried on a number of pixels that kernels have to cut."""
    learns_embedding: bool = False
    """Whether gradients go through the time embedding, as they do where a pooled output is added to it."""
    folded: Any = None
    """A convolution whose weights nothing looks at any more once it is fused."""


def fuse(unet: nn.Module, blocks: Iterable[FusedBlock], kernels: Kernels, host: str) -> list[nn.Module]:
    """Replace the forwards of `blocks` of a private UNet; the modules that were changed, none if something disagrees.

    `blocks` may be made one after the other. `host` is the name of whose code computes otherwise, for the log. Raises only
    if the memory is full.
    """
    changed: list[nn.Module] = []
    unused = []
    try:
        for block in blocks:
            trial = (host, block.kind, block.learns_embedding, kernels.name)
            if not has_passed(trial):
                far = disagreement(block, kernels.memory_format)
                if not far < AGREEMENT[block.weight.dtype]:
                    raise ArithmeticError(f"{type(block.forwards[0][0]).__name__} differs by {far:.1e}")
                passed(trial)
            for module, forward in block.forwards:
                module.forward = forward
                changed.append(module)
            if block.folded is not None:
                unused.append(block.folded)
    except Exception as error:
        restore(changed)
        if is_out_of_memory(error):
            raise
        log.warning(
            "%s's own code computes the UNet, which is slower: %s", host, (str(error) or repr(error)).splitlines()[0]
        )
        return []
    for conv in unused:
        conv.weight = None
    if changed:
        unet.to(memory_format=kernels.memory_format)  # type: ignore[call-overload]
    return changed


def restore(modules: Iterable[nn.Module]) -> None:
    """Give modules their own forward back. It breaks reference cycles too, so that memory goes at once."""
    for module in modules:
        vars(module).pop("forward", None)


def disagreement(block: FusedBlock, memory_format: torch.memory_format) -> float:
    """The largest relative difference between `fused` and `own` in result and gradients, on random inputs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(block.weight)

    inputs = [normal(2, block.channels, *(_ODD_SIDES if block.odd else _SIDES))]
    constants: list[Tensor] = []
    if block.embedding is not None:
        (inputs if block.learns_embedding else constants).append(normal(2, block.embedding))
    if block.context is not None:
        inputs.append(normal(2, CONTEXT_LENGTH, block.context))

    def by_layout(forward: Callable[..., Tensor], layout: torch.memory_format) -> list[Tensor]:
        return values_and_gradients(
            lambda x, *more: forward(x.contiguous(memory_format=layout), *more), inputs, constants
        )

    found = by_layout(block.fused, memory_format)
    expected = by_layout(block.own, torch.contiguous_format)
    return float(relative_differences(found, expected).max())


def checkpoint_blocks(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Let modules compute their insides a second time instead of keeping them; the modules that were changed.

    What holds several transformer blocks in a row would keep the insides of all of them while it is computed again:
    there each block is a unit of its own. Fused ones do that by themselves, see `unet_blocks.spatial_transformer`.
    """
    changed: list[nn.Module] = []
    for module in modules:
        inside = list(getattr(module, "transformer_blocks", ()))
        changed += inside if len(inside) > 1 else [module]
    for module in changed:
        module.forward = checkpointed(module.forward)
    return changed
