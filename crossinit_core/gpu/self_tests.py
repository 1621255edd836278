"""Self-tests of kernels on the device that is to run them, and which were passed in this process.

What passed is the one thing that outlives a run, since a self-test takes as long as a dozen steps. It is kept as names,
never as tensors or models.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .kernels import PLAIN, Kernels, plain, triton_kernels

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Relative differences between two right kernels in a precision stay below this."""

_passed: dict[Hashable, int] = {}


def has_passed(trial: Hashable) -> bool:
    """Whether a trial of this name was passed before."""
    return trial in _passed


def passed(trial: Hashable, memory: int = 0) -> None:
    """Note that a trial was passed, and how many bytes it took."""
    _passed[trial] = memory


def memory_of(trial: Hashable) -> int:
    """The bytes that a passed trial took."""
    return _passed[trial]


def choose(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The fastest kernels that give the right gradients on a device; each is tested once in a process before it is used."""
    if device.type != "cuda":
        return PLAIN

    def wrong_operations() -> list[str]:
        return differences(triton_kernels(attention=False), PLAIN, device, dtype)

    def wrong_attention() -> list[str]:
        from .kernels.on_triton.attention import by_kernels

        return ["attention"] if attention_differs(by_kernels, device, dtype) else []

    if not _is_right("Triton's kernels", device, dtype, wrong_operations):
        return PLAIN
    # Older GPUs have a library kernel that is as fast.
    wanted = dtype != torch.float32 and torch.cuda.get_device_capability(device) >= (9, 0)
    return triton_kernels(attention=wanted and _is_right("Triton's attention", device, dtype, wrong_attention))


def _is_right(what: str, device: torch.device, dtype: torch.dtype, find_wrong: Callable[[], list[str]]) -> bool:
    """Whether a trial ends, and finds nothing wrong; one log line if not.

    What did not pass is tried again the next time: the memory may have been full.
    """
    trial = (what, device, dtype)
    if has_passed(trial):
        return True
    try:
        wrong = find_wrong()
    except Exception as error:  # Triton's own errors are many: no compiler, an unknown GPU, a broken install
        log.info("%s cannot be used, so steps are slower: %s", what, (str(error) or repr(error)).splitlines()[0])
        return False
    if wrong:
        log.warning("%s: wrong numbers on this GPU, so not used, and steps are slower: %s", what, ", ".join(wrong))
        return False
    passed(trial)
    return True


TRIED = (
    (1, 256, 256, False),
    (1, 2048, 2048, False),
    (1, 256, 77, False),
    (48, 328, 77, False),
    (2, 64, 64, False),
    (2, 77, 77, True),
)
"""Every way of the attention: by default kernels for few keys get one block of queries a program, and several of which the
last is cut short."""


def attention_differs(
    attend: Callable[..., Tensor],
    device: torch.device,
    dtype: torch.dtype,
    sizes: Sequence[tuple[int, int, int, bool]] = TRIED,
) -> bool:
    """Whether results or gradients differ from those of torch's attention in float32 on random numbers.

    `sizes` are batch, queries, keys and whether a query sees only the keys up to its own place.
    """
    generator = torch.Generator().manual_seed(0)
    for batch, queries, keys, causal in sizes:
        reference = plain.causal_attention if causal else plain.attention
        shapes = [(batch, rows, 128) for rows in (queries, keys, keys)]
        inputs = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
        ours = values_and_gradients(functools.partial(attend, heads=2, causal=causal), inputs)
        truth = values_and_gradients(functools.partial(reference, heads=2), [part.float() for part in inputs])
        if _far(ours, truth, dtype):
            return True
    return False


def differences(fast: Kernels, reference: Kernels, device: torch.device, dtype: torch.dtype) -> list[str]:
    """The operations whose results or gradients differ from those of `reference` in float32 on random numbers."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, around: float = 0.0) -> Tensor:
        return (torch.randn(shape, generator=generator) + around).to(device, dtype)

    image, shift, channels = normal(2, 64, 9, 11, around=1.0), normal(2, 64), (normal(64, around=1.0), normal(64))
    row, residual, width = normal(3, 7, 40), normal(3, 7, 40), (normal(40, around=1.0), normal(40))
    feed_forward = (normal(600, 48) / 7, normal(600), normal(48, 300) / 17)
    trials: dict[str, tuple[tuple[Tensor, ...], Callable[..., Callable[..., object]]]] = {
        "group_norm": (
            (image,),
            lambda ops, up: lambda x: ops.group_norm(x, *map(up, channels), 1e-5, silu=True, shift=up(shift)),
        ),
        "group_norm without SiLU": (
            (image,),
            lambda ops, up: lambda x: ops.group_norm(x, *map(up, channels), 1e-6, silu=False, shift=None)[1],
        ),
        "add_layer_norm": (
            (row, residual),
            lambda ops, up: lambda x, r: ops.add_layer_norm(x, r, *map(up, width), 1e-5, x.dtype),
        ),
        "add_layer_norm in float32": (
            (row.float(), residual),
            lambda ops, up: lambda x, r: ops.add_layer_norm(x, r, *map(up, width), 1e-5, r.dtype),
        ),
        "layer_norm": (
            (row,),
            lambda ops, up: lambda x: ops.add_layer_norm(x, None, *map(up, width), 1e-5, x.dtype)[1],
        ),
        "feed_forward": (
            (normal(2, 75, 48), normal(2, 75, 48)),
            lambda ops, up: lambda x, n: ops.feed_forward(x, n, *map(up, feed_forward)),
        ),
        "interleave": ((normal(2, 64, 4, 6),), lambda ops, up: lambda x: ops.interleave(x, up(channels[0])[:16])),
        "add_bias": ((image, normal(2, 64, 9, 11)), lambda ops, up: lambda x, r: ops.add_bias(x, up(channels[1]), r)),
    }
    return [
        name
        for name, (inputs, make) in trials.items()
        if _far(
            values_and_gradients(make(fast, lambda t: t), inputs),
            values_and_gradients(make(reference, lambda t: t.float()), [t.float() for t in inputs]),
            dtype,
        )
    ]


def values_and_gradients(
    function: Callable[..., object], inputs: Sequence[Tensor], constants: Sequence[Tensor] = ()
) -> list[Tensor]:
    """What `function(*inputs, *constants)` gives, a tensor or several, and the gradients of the inputs for a random pull."""
    generator = torch.Generator().manual_seed(1)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*leaves, *constants)
    outs = [out] if isinstance(out, Tensor) else list(out)  # type: ignore[call-overload]
    pulls = [torch.randn(out.shape, generator=generator).to(out) for out in outs]
    return [part.detach() for part in (*outs, *torch.autograd.grad(outs, leaves, pulls))]


def relative_differences(ours: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """How far tensors are from those that they should be, each relative to the latter's norm."""
    return torch.stack([(a.float() - b.float()).norm() / b.float().norm() for a, b in zip(ours, truth, strict=True)])


def _far(ours: Sequence[Tensor], truth: Sequence[Tensor], dtype: torch.dtype) -> bool:
    return not bool((relative_differences(ours, truth) < TOLERANCE[dtype]).all())
