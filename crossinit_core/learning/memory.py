"""How a run fits into a GPU's memory: what is computed twice instead of kept, and into which pieces a batch is cut."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..backbone import Backbone
from .settings import InversionSettings

log = logging.getLogger(__name__)

GIB = 1024**3
LOW_MEMORY, LOW_MEMORY_SDXL = 4 * GIB, int(7.5 * GIB)
"""What the low-memory mode keeps to if it can. SDXL's weights alone are 6.3 GiB in half precision; a card of 8 GB has 7.5 to
give."""


@dataclass(frozen=True)
class MemoryPlan:
    """`gradient_checkpointing` computes a block's insides a second time instead of keeping them."""

    gradient_checkpointing: bool
    micro_batch_size: int


def plan_memory(backbone: Backbone, settings: InversionSettings) -> MemoryPlan:
    """The fastest way that fits, never one that needs more memory than the settings ask for.

    In the settings' memory mode `auto` that is what the host says is free once it has made room; if it cannot say,
    and in mode `normal`, nothing is held back.
    """
    samples = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
    first = MemoryPlan(settings.gradient_checkpointing, samples)
    free = backbone.free_memory(_needed(backbone, settings, first))
    if settings.memory == "normal":
        return first
    if settings.memory == "low":
        limit = LOW_MEMORY if len(backbone.widths) == 1 else LOW_MEMORY_SDXL
        limit = limit if free is None else min(free, limit)
        return _largest_that_fits(backbone, settings, samples, limit)
    if free is None or _needed(backbone, settings, first) <= free:
        return first
    plan = _largest_that_fits(backbone, settings, samples, free)
    log.info(
        "Only %.1f GiB of video memory are free: learning in low-memory mode, %d of %d samples at once; the result is "
        "the same.",
        free / GIB,
        plan.micro_batch_size,
        settings.batch_size,
    )
    return plan


def _largest_that_fits(backbone: Backbone, settings: InversionSettings, samples: int, limit: int) -> MemoryPlan:
    while samples > 1 and _needed(backbone, settings, MemoryPlan(True, samples)) > limit:
        samples = (samples + 1) // 2
    return MemoryPlan(True, samples)


def _needed(backbone: Backbone, settings: InversionSettings, plan: MemoryPlan) -> int:
    return backbone.memory_needed(
        precision=settings.precision,
        samples=plan.micro_batch_size,
        resolution=settings.resolution or backbone.resolution,
        gradient_checkpointing=plan.gradient_checkpointing,
    )
