"""Layouts of stand-in models: the weights of Stable Diffusion's VAE and text encoders by key and shape.

A layout is a table of `Entry`, which says how each weight is sampled. Those of the UNet are in unets.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from crossinit_core.families import CONTEXT_LENGTH

VOCABULARY = 49408
LATENT_SCALE = 0.18215
SDXL_LATENT_SCALE = 0.13025


class Entry(NamedTuple):
    """One weight of a layout: `mean + std * standard normal`, in `shape`."""

    key: str
    shape: tuple[int, ...]
    mean: float | torch.Tensor = 0.0
    std: float = 0.0


class TextShape(NamedTuple):
    """Layers of a text encoder, the last included, and the inner width of each."""

    layers: int = 24
    inner: int = 4096


SD2_TEXT = TextShape()
CLIP_L_TEXT = TextShape(12, 3072)
CLIP_G_TEXT = TextShape(32, 5120)


def layer_entries(key: str, *shape: int, gain: float = 1.0, bias: bool = True) -> Iterator[Entry]:
    """A linear layer or convolution that maps standard normal input to standard deviation `gain`."""
    yield Entry(f"{key}.weight", shape, std=gain / math.sqrt(math.prod(shape[1:])))
    if bias:
        yield Entry(f"{key}.bias", shape[:1])


def norm_entries(key: str, channels: int) -> Iterator[Entry]:
    """A normalization with weights of 1 and biases of 0."""
    yield Entry(f"{key}.weight", (channels,), mean=1.0)
    yield Entry(f"{key}.bias", (channels,))


def prefixed(prefix: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    return (entry._replace(key=prefix + entry.key) for entry in entries)


def _vae_res_block(key: str, inner: int, outer: int) -> Iterator[Entry]:
    yield from norm_entries(f"{key}.norm1", inner)
    yield from layer_entries(f"{key}.conv1", outer, inner, 3, 3)
    yield from norm_entries(f"{key}.norm2", outer)
    yield from layer_entries(f"{key}.conv2", outer, outer, 3, 3)
    if inner != outer:
        yield from layer_entries(f"{key}.nin_shortcut", outer, inner, 1, 1)


def _vae_middle(key: str, channels: int) -> Iterator[Entry]:
    yield from _vae_res_block(f"{key}.block_1", channels, channels)
    yield from norm_entries(f"{key}.attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        yield from layer_entries(f"{key}.attn_1.{name}", channels, channels, 1, 1)
    yield from _vae_res_block(f"{key}.block_2", channels, channels)


def vae_entries(latent_scale: float = LATENT_SCALE, first_gain: float = 1.0) -> Iterator[Entry]:
    """Layout of the full AutoencoderKL; keys without `first_stage_model.`.

    `latent_scale` is what latents are multiplied by, `first_gain` the strength of the encoder's first activations. The norms
    take it away again, but float16 ends at 65504.
    """
    widths = (128, 256, 512, 512)
    channels = widths[0]
    yield from layer_entries("encoder.conv_in", channels, 3, 3, 3, gain=first_gain)
    for level, width in enumerate(widths):
        for block in range(2):
            yield from _vae_res_block(f"encoder.down.{level}.block.{block}", channels, width)
            channels = width
        if level < len(widths) - 1:
            yield from layer_entries(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_middle("encoder.mid", channels)
    yield from norm_entries("encoder.norm_out", channels)
    yield from layer_entries("encoder.conv_out", 8, channels, 3, 3)
    # Channels 0..3 are the posterior's mean, brought to the scale of real latents; 4..7 its log-variance.
    gains = torch.tensor([1.7 / latent_scale] * 4 + [0.5] * 4)
    yield Entry("quant_conv.weight", (8, 8, 1, 1), mean=torch.diag(gains)[:, :, None, None])
    yield Entry("quant_conv.bias", (8,), mean=torch.tensor([0.0] * 4 + [-8.0] * 4))
    yield Entry("post_quant_conv.weight", (4, 4, 1, 1), mean=latent_scale * torch.eye(4)[:, :, None, None])
    yield Entry("post_quant_conv.bias", (4,))
    yield from layer_entries("decoder.conv_in", channels, 4, 3, 3)
    yield from _vae_middle("decoder.mid", channels)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(3):
            yield from _vae_res_block(f"decoder.up.{level}.block.{block}", channels, width)
            channels = width
        if level:
            yield from layer_entries(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from norm_entries("decoder.norm_out", channels)
    yield from layer_entries("decoder.conv_out", 3, channels, 3, 3, gain=0.8)


def text_scales(width: int, layers: int) -> tuple[float, float, float]:
    """Standard deviation of the token embeddings, and gains of the attention and MLP branches.

    Token embeddings get the row norm of the real models, 0.4. The branches add up to about one, as in
    OpenCLIP's own initialization; attention adds less than the MLP, or every position would end up as the
    same average of its predecessors.
    """
    branch = 1 / math.sqrt(2 * layers)
    return 0.4 / math.sqrt(width), 0.3 * branch, branch


def openclip_h_entries() -> Iterator[Entry]:
    """Layout of the full text encoder of SD 2.x; keys without `cond_stage_model.model.`."""
    return _openclip_entries(1024, SD2_TEXT)


def openclip_g_entries() -> Iterator[Entry]:
    """Layout of SDXL's second text encoder, CLIP-G; keys without `conditioner.embedders.1.model.`."""
    return _openclip_entries(1280, CLIP_G_TEXT)


def _openclip_entries(width: int, text: TextShape) -> Iterator[Entry]:
    token_std, attention, mlp = text_scales(width, text.layers)
    yield Entry("positional_embedding", (CONTEXT_LENGTH, width), std=token_std / 2)
    yield Entry("text_projection", (width, width), std=1 / math.sqrt(width))
    yield Entry("logit_scale", (), mean=math.log(100))
    yield Entry("token_embedding.weight", (VOCABULARY, width), std=token_std)
    for layer in range(text.layers):
        block = f"transformer.resblocks.{layer}"
        yield from norm_entries(f"{block}.ln_1", width)
        yield Entry(f"{block}.attn.in_proj_weight", (3 * width, width), std=1 / math.sqrt(width))
        yield Entry(f"{block}.attn.in_proj_bias", (3 * width,))
        yield from layer_entries(f"{block}.attn.out_proj", width, width, gain=attention)
        yield from norm_entries(f"{block}.ln_2", width)
        yield from layer_entries(f"{block}.mlp.c_fc", text.inner, width)
        yield from layer_entries(f"{block}.mlp.c_proj", width, text.inner, gain=mlp)
    yield from norm_entries("ln_final", width)


def clip_l_entries() -> Iterator[Entry]:
    """Layout of CLIP-L, the full text encoder of SD 1.x and SDXL's first one; keys without `...transformer.text_model.`."""
    width, (layers, inner) = 768, CLIP_L_TEXT
    token_std, attention, mlp = text_scales(width, layers)
    yield Entry("embeddings.token_embedding.weight", (VOCABULARY, width), std=token_std)
    yield Entry("embeddings.position_embedding.weight", (CONTEXT_LENGTH, width), std=token_std / 2)
    for layer in range(layers):
        block = f"encoder.layers.{layer}"
        yield from norm_entries(f"{block}.layer_norm1", width)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield from layer_entries(f"{block}.self_attn.{name}", width, width)
        yield from layer_entries(f"{block}.self_attn.out_proj", width, width, gain=attention)
        yield from norm_entries(f"{block}.layer_norm2", width)
        yield from layer_entries(f"{block}.mlp.fc1", inner, width)
        yield from layer_entries(f"{block}.mlp.fc2", width, inner, gain=mlp)
    yield from norm_entries("final_layer_norm", width)
