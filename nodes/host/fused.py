"""The blocks of a private UNet copy, computed with fused operations instead of ComfyUI's one-by-one modules.

A step of learning needs no gradients of weights, and half of ComfyUI's time goes to copies between memory layouts and
to kernels that do one addition. Only blocks of the Stable Diffusion 1.x and 2.x kind are replaced, and only after one
of each kind has given ComfyUI's own results and gradients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import GEGLU, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, Upsample
from torch import Tensor, nn

from ...crossinit_core.gpu.kernels import Fused, FusedOperations
from ...crossinit_core.gpu.kernels.convolution import convolve, fits
from ...crossinit_core.gpu.kernels.enlargement import can_be_folded, folded, unfolded
from ...crossinit_core.gpu.kernels.project import pack, project
from ...crossinit_core.gpu.modes import is_out_of_memory
from ...crossinit_core.gpu.self_tests import has_passed, passed

log = logging.getLogger(__name__)

Forward = Callable[..., Tensor]

AGREEMENT = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Relative differences between two right computations of a block in a precision stay below this."""


def fuse(unet: Any, fused: Fused, options: dict[str, Any]) -> list[Any]:
    """Replace the forward of what can be fused; the modules that were changed, none where something disagrees.

    `options` are the transformer options of ComfyUI's own blocks, for the comparison.
    """
    changed: list[Any] = []
    try:
        for module in unet.modules():
            forward = _norm_silu_conv(module, fused) if module is unet.out else _fused_forward(module, fused)
            if forward is None:
                continue
            trial = (_kind(module), fused.name)
            if not has_passed(trial):
                far = _disagreement(module, forward, fused.operations.memory_format, options)
                if not far < AGREEMENT[next(module.parameters()).dtype]:
                    raise ArithmeticError(f"{type(module).__name__} differs by {far:.1e}")
                passed(trial)
            module.forward = forward
            changed.append(module)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.warning(
            "ComfyUI's own code computes the UNet, which is slower: %s", (str(error) or repr(error)).splitlines()[0]
        )
        restore(changed)
        return []
    for module in changed:
        if isinstance(module, Upsample) and can_be_folded(module.conv):
            module.conv.weight = None  # nothing looks at it any more, and it is large
    unet.to(memory_format=fused.operations.memory_format)
    return changed


def restore(modules: list[Any]) -> None:
    """Give modules their own forward back. It breaks reference cycles too, so that memory goes at once."""
    for module in modules:
        vars(module).pop("forward", None)


def _fused_forward(module: Any, fused: Fused) -> Forward | None:
    if isinstance(module, Upsample) and fits(getattr(module, "conv", None)):
        return _enlarging(module.conv, fused.operations)
    if isinstance(module, ResBlock) and _is_plain_residual(module):
        return _residual(module, fused.operations)
    if isinstance(module, SpatialTransformer) and all(map(_is_plain_transformer, module.transformer_blocks)):
        return _spatial(module, fused)
    return None


def _enlarging(conv: Any, operations: FusedOperations) -> Forward:
    if not can_be_folded(conv):
        return lambda x, output_shape=None: convolve(_enlarged(x, output_shape), conv)
    small = folded(conv).to(memory_format=operations.memory_format)
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias

    def forward(x: Tensor, output_shape: Any = None) -> Tensor:
        if _size(x, output_shape) == [2 * side for side in x.shape[2:]]:
            return operations.interleave(convolve(x, small), bias)
        whole = unfolded(small).to(memory_format=operations.memory_format)
        return convolve(_enlarged(x, output_shape), whole) + bias[:, None, None]

    return forward


def _size(x: Tensor, output_shape: Any) -> list[int]:
    return [2 * side for side in x.shape[2:]] if output_shape is None else list(output_shape[2:])


def _enlarged(x: Tensor, output_shape: Any) -> Tensor:
    return F.interpolate(x, size=_size(x, output_shape), mode="nearest")


def _norm_silu_conv(layers: Any, fused: Fused) -> Forward | None:
    if not _is_norm_silu_conv(layers):
        return None
    norm, _, conv = layers
    return lambda x: convolve(_norm(fused.operations, norm, x, silu=True)[1], conv)


def _kind(module: Any) -> tuple[object, ...]:
    """What modules have in common for which one trial is enough; packs may change what ComfyUI's own code does."""
    parameter, own = next(module.parameters()), type(module)
    parts = (module, getattr(module, "skip_connection", None), getattr(module, "proj_in", None))
    return (*map(type, parts), own.forward, getattr(own, "_forward", None), parameter.dtype, parameter.device)


def _disagreement(module: Any, forward: Forward, memory_format: torch.memory_format, options: dict[str, Any]) -> float:
    """The largest relative difference in result and gradients on random inputs."""
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(parameter)

    constants: list[Tensor] = []
    if isinstance(module, ResBlock):
        inputs = [draw(2, module.channels, 8, 16)]
        constants = [draw(2, module.emb_channels)]  # the time embedding, which nothing that is learned goes into
        own = module.forward
    elif isinstance(module, Upsample):
        inputs = [draw(2, module.channels, 8, 16)]
        own = module.forward
    elif isinstance(module, nn.Sequential):
        inputs = [draw(2, module[2].in_channels, 8, 16)]
        own = module.forward
    else:
        inputs = [
            draw(2, module.in_channels, 8, 16),
            draw(2, 77, module.transformer_blocks[0].attn2.to_k.weight.shape[1]),
        ]
        own = lambda x, context: module.forward(x, context, dict(options))  # noqa: E731
    expected = _result_and_gradients(own, inputs, constants, torch.contiguous_format)
    found = _result_and_gradients(forward, inputs, constants, memory_format)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def _result_and_gradients(
    forward: Forward, inputs: list[Tensor], constants: list[Tensor], memory_format: torch.memory_format
) -> list[Tensor]:
    leaves = [part.clone().requires_grad_() for part in inputs]
    out = forward(leaves[0].contiguous(memory_format=memory_format), *leaves[1:], *constants)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [part.detach().float() for part in (out, *torch.autograd.grad(out, leaves, pull))]


def _is_plain_residual(block: Any) -> bool:
    return (
        not (block.updown or block.use_scale_shift_norm or block.exchange_temb_dims or block.skip_t_emb)
        and _is_norm_silu_conv(block.in_layers)
        and _is_norm_silu_conv(nn.Sequential(*block.out_layers[:2], block.out_layers[-1]))
        and [type(part) for part in block.emb_layers][:1] == [nn.SiLU]
        and (isinstance(block.skip_connection, nn.Identity) or fits(block.skip_connection))
    )


def _is_norm_silu_conv(layers: Any) -> bool:
    return (
        len(layers) == 3 and isinstance(layers[0], nn.GroupNorm) and isinstance(layers[1], nn.SiLU) and fits(layers[2])
    )


def _is_plain_transformer(block: Any) -> bool:
    return (
        not (block.ff_in or block.disable_self_attn or block.switch_temporal_ca_to_sa)
        and block.attn2 is not None
        and block.is_res
        and isinstance(block.ff.net[0], GEGLU)
    )


def _norm(
    operations: FusedOperations, norm: Any, x: Tensor, *, silu: bool, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return operations.group_norm(x, norm.weight, norm.bias, norm.eps, groups=norm.num_groups, silu=silu, shift=shift)


def _residual(block: Any, operations: FusedOperations) -> Forward:
    norm_in, _, conv_in = block.in_layers
    norm_out, conv_out = block.out_layers[0], block.out_layers[-1]
    embed, skip = block.emb_layers[1], block.skip_connection
    # Biases ride on what is added anyway: the first convolution's on the time embedding, the others' on the residual.
    shift_bias = embed.bias + conv_in.bias
    has_skip = isinstance(skip, nn.Conv2d)
    bias = conv_out.bias + skip.bias if has_skip else conv_out.bias

    def forward(x: Tensor, emb: Tensor) -> Tensor:
        x, h = _norm(operations, norm_in, x, silu=True)
        h = convolve(h, conv_in, bias=False)
        shift = F.linear(F.silu(emb), embed.weight, shift_bias)
        _, h = _norm(operations, norm_out, h, silu=True, shift=shift)
        h = convolve(h, conv_out, bias=False)
        return operations.add_bias(h, bias, convolve(x, skip, bias=False) if has_skip else x)

    return forward


def _spatial(transformer: Any, fused: Fused) -> Forward:
    operations = fused.operations
    blocks = [_transformer(block, fused) for block in transformer.transformer_blocks]
    norm, proj_in = transformer.norm, transformer.proj_in
    # A block leaves its last bias out, since the next product can bring it along.
    biases = [block.ff.net[-1].bias for block in transformer.transformer_blocks]
    out = transformer.proj_out.weight.flatten(1)
    out_bias = torch.addmv(transformer.proj_out.bias.float(), out.float(), biases.pop().float()).to(out.dtype)

    def forward(x: Tensor, context: Tensor, transformer_options: Any = None) -> Tensor:
        batch, channels, height, width = x.shape
        x, n = _norm(operations, norm, x, silu=False)
        tokens = _linear(proj_in, n.permute(0, 2, 3, 1).reshape(batch, height * width, channels))
        tokens = blocks[0](tokens, context)
        for block, bias in zip(blocks[1:], biases, strict=True):
            tokens = block(tokens + bias, context)
        tokens = F.linear(tokens, out, out_bias)
        image = tokens.view(batch, height, width, -1).permute(0, 3, 1, 2)
        return image.contiguous(memory_format=operations.memory_format) + x

    return forward


def _linear(layer: Any, tokens: Tensor) -> Tensor:
    """A linear layer, or the convolution of one pixel that older models have in its place."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)


def _transformer(block: Any, fused: Fused) -> Forward:
    """All of a block but the bias of its last layer."""
    operations, attention = fused.operations, fused.attention
    own, cross, inner, outer = block.attn1, block.attn2, block.ff.net[0].proj, block.ff.net[-1]
    own_weights = pack(own.to_q, own.to_k, own.to_v)
    cross_weights = pack(cross.to_k, cross.to_v)

    def add_norm(x: Tensor, residual: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        return operations.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps, x.dtype)

    def forward(x: Tensor, context: Tensor) -> Tensor:
        x, n = add_norm(x, None, block.norm1)
        n = own.to_out[0](attention(*project(n, own_weights, 3), own.heads))
        x, n = add_norm(x, n, block.norm2)
        n = cross.to_out[0](attention(cross.to_q(n), *project(context, cross_weights, 2), cross.heads))
        x, n = add_norm(x, n, block.norm3)
        return operations.feed_forward(x, n, inner.weight, inner.bias, outer.weight)

    return forward
