"""Layouts of stand-in models: the weights of Stable Diffusion's parts by key and shape, and how each is drawn.

A layout is a table of `Entry`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

VOCABULARY = 49408
POSITIONS = 77
LATENT_SCALE = 0.18215
# ComfyUI reads the prediction type of a SD 2.x file off this tensor (SD20.model_type in
# comfy/supported_models.py): a standard deviation above 0.09 means v-prediction.
V_PREDICTION_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


class Entry(NamedTuple):
    """One weight of a layout: `mean + std * standard normal`, in `shape`."""

    key: str
    shape: tuple[int, ...]
    mean: float | torch.Tensor = 0.0
    std: float = 0.0


@dataclass(frozen=True)
class UNetShape:
    """Size of a Stable Diffusion UNet; a ControlNet or a LoRA fits the checkpoint made with the same one.

    The real models have `channel_mult=(1, 2, 4, 4)`. ComfyUI takes a UNet for SD 1.x or 2.x only if
    `model_channels` is 320, and can see v-prediction only where there are twelve output blocks, as here.
    As in the real models, every level but the last attends to the text.

    Raises ValueError if `model_channels` is no multiple of 64, the width of an attention head.
    """

    context_dim: int
    linear_projection: bool
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 1, 1, 1)
    num_res_blocks: int = 2

    def __post_init__(self) -> None:
        if self.model_channels % 64:
            raise ValueError(f"model_channels is {self.model_channels}; expected a multiple of 64")

    def attends(self, level: int) -> bool:
        return level < len(self.channel_mult) - 1

    def skip_channels(self) -> list[int]:
        """Channels that leave each input block, in order: one skip connection, one ControlNet output each."""
        channels = [self.model_channels]
        for level, mult in enumerate(self.channel_mult):
            downsamples = level < len(self.channel_mult) - 1
            channels += [mult * self.model_channels] * (self.num_res_blocks + downsamples)
        return channels


class TextShape(NamedTuple):
    """Layers of a text encoder, the last included, and the inner width of each."""

    layers: int = 24
    inner: int = 4096


SD2_UNET = UNetShape(context_dim=1024, linear_projection=True)
SD1_UNET = UNetShape(context_dim=768, linear_projection=False)
SD2_TEXT = TextShape()


# ------------------------------------------------------------------------------------------------- layouts


def _layer(key: str, *shape: int, gain: float = 1.0, bias: bool = True) -> Iterator[Entry]:
    """A linear layer or convolution that maps standard normal input to standard deviation `gain`."""
    yield Entry(f"{key}.weight", shape, std=gain / math.sqrt(math.prod(shape[1:])))
    if bias:
        yield Entry(f"{key}.bias", shape[:1])


def _norm(key: str, channels: int) -> Iterator[Entry]:
    yield Entry(f"{key}.weight", (channels,), mean=1.0)
    yield Entry(f"{key}.bias", (channels,))


def prefixed(prefix: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    return (entry._replace(key=prefix + entry.key) for entry in entries)


def _res_block(key: str, inner: int, outer: int, time_dim: int) -> Iterator[Entry]:
    yield from _norm(f"{key}.in_layers.0", inner)
    yield from _layer(f"{key}.in_layers.2", outer, inner, 3, 3)
    yield from _layer(f"{key}.emb_layers.1", outer, time_dim)
    yield from _norm(f"{key}.out_layers.0", outer)
    yield from _layer(f"{key}.out_layers.3", outer, outer, 3, 3)
    if inner != outer:
        yield from _layer(f"{key}.skip_connection", outer, inner, 1, 1)


def _transformer(key: str, channels: int, unet: UNetShape) -> Iterator[Entry]:
    kernel = () if unet.linear_projection else (1, 1)
    block = f"{key}.transformer_blocks.0"
    yield from _norm(f"{key}.norm", channels)
    yield from _layer(f"{key}.proj_in", channels, channels, *kernel)
    # At gain 1 attention averages the 77 text positions away; at 1.5 another prompt moves half the output.
    for name, context, gain in (("attn1", channels, 1.0), ("attn2", unet.context_dim, 1.5)):
        yield from _layer(f"{block}.{name}.to_q", channels, channels, gain=gain, bias=False)
        yield from _layer(f"{block}.{name}.to_k", channels, context, bias=False)
        yield from _layer(f"{block}.{name}.to_v", channels, context, bias=False)
        yield from _layer(f"{block}.{name}.to_out.0", channels, channels, gain=gain)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * channels, channels)
    yield from _layer(f"{block}.ff.net.2", channels, 4 * channels)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _norm(f"{block}.{norm}", channels)
    yield from _layer(f"{key}.proj_out", channels, channels, *kernel)


def _unet_encoder(unet: UNetShape) -> Iterator[Entry]:
    """The half that UNet and ControlNet share: time embedding, input blocks, middle block."""
    width = unet.model_channels
    time_dim = 4 * width
    yield from _layer("time_embed.0", time_dim, width)
    yield from _layer("time_embed.2", time_dim, time_dim)
    yield from _layer("input_blocks.0.0", width, 4, 3, 3)
    block, channels = 1, width
    for level, mult in enumerate(unet.channel_mult):
        for _ in range(unet.num_res_blocks):
            yield from _res_block(f"input_blocks.{block}.0", channels, mult * width, time_dim)
            channels = mult * width
            if unet.attends(level):
                yield from _transformer(f"input_blocks.{block}.1", channels, unet)
            block += 1
        if level < len(unet.channel_mult) - 1:
            yield from _layer(f"input_blocks.{block}.0.op", channels, channels, 3, 3)
            block += 1
    yield from _res_block("middle_block.0", channels, channels, time_dim)
    yield from _transformer("middle_block.1", channels, unet)
    yield from _res_block("middle_block.2", channels, channels, time_dim)


def unet_entries(unet: UNetShape) -> Iterator[Entry]:
    """UNet layout; keys without `model.diffusion_model.`."""
    yield from _unet_encoder(unet)
    skips = unet.skip_channels()
    channels, block, time_dim = skips[-1], 0, 4 * unet.model_channels
    for level in reversed(range(len(unet.channel_mult))):
        width = unet.channel_mult[level] * unet.model_channels
        for index in range(unet.num_res_blocks + 1):
            yield from _res_block(f"output_blocks.{block}.0", channels + skips.pop(), width, time_dim)
            channels = width
            if unet.attends(level):
                yield from _transformer(f"output_blocks.{block}.1", channels, unet)
            if level and index == unet.num_res_blocks:
                module = 2 if unet.attends(level) else 1
                yield from _layer(f"output_blocks.{block}.{module}.conv", channels, channels, 3, 3)
            block += 1
    yield from _norm("out.0", channels)
    yield from _layer("out.2", 4, channels, 3, 3)


def controlnet_entries(unet: UNetShape, gain: float = 0.25) -> Iterator[Entry]:
    """ControlNet layout; keys without `control_model.`. `gain` is the strength of its outputs."""
    yield from _unet_encoder(unet)
    # SiLU with no norm between these layers: the gain makes up for what it swallows.
    hint_channels = (3, 16, 16, 32, 32, 96, 96, 256, unet.model_channels)
    for index, (inner, outer) in enumerate(pairwise(hint_channels)):
        yield from _layer(f"input_hint_block.{2 * index}", outer, inner, 3, 3, gain=1.7)
    # Training starts these at zero; zeros make a stand-in that does nothing.
    skips = unet.skip_channels()
    for index, channels in enumerate(skips):
        yield from _layer(f"zero_convs.{index}.0", channels, channels, 1, 1, gain=gain)
    yield from _layer("middle_block_out.0", skips[-1], skips[-1], 1, 1, gain=gain)


def lora_entries(unet: UNetShape, rank: int, text: TextShape, strength: float = 1.0) -> Iterator[Entry]:
    """Layout of a SD 2.x LoRA over attention and text encoder, in kohya's key names.

    At strength 1 it is half as strong as the UNet's weights, and a fifth as strong as the text encoder's.
    """
    width = unet.context_dim
    _, attention_gain, mlp_gain = _text_scales(width, text.layers)

    def pair(name: str, outer: int, inner: int, gain: float) -> Iterator[Entry]:
        yield Entry(f"{name}.alpha", (), mean=float(rank))
        yield from _layer(f"{name}.lora_down", rank, inner, bias=False)
        yield from _layer(f"{name}.lora_up", outer, rank, gain=gain * strength, bias=False)

    def transformer(block: str, channels: int) -> Iterator[Entry]:
        for attention, context in (("attn1", channels), ("attn2", width)):
            name = f"lora_unet_{block}_transformer_blocks_0_{attention}"
            for layer, inner in (("q", channels), ("k", context), ("v", context), ("out_0", channels)):
                yield from pair(f"{name}_to_{layer}", channels, inner, 0.5)

    last = len(unet.channel_mult) - 1
    for level, mult in enumerate(unet.channel_mult):
        if unet.attends(level):
            channels = mult * unet.model_channels
            for index in range(unet.num_res_blocks):
                yield from transformer(f"down_blocks_{level}_attentions_{index}", channels)
            for index in range(unet.num_res_blocks + 1):
                yield from transformer(f"up_blocks_{last - level}_attentions_{index}", channels)
    yield from transformer("mid_block_attentions_0", unet.channel_mult[-1] * unet.model_channels)
    for layer in range(text.layers - 1):  # SD 2.x does not use the text encoder's last layer, so nobody trains it
        name = f"lora_te_text_model_encoder_layers_{layer}"
        for projection in ("q_proj", "k_proj", "v_proj"):
            yield from pair(f"{name}_self_attn_{projection}", width, width, 0.2)
        yield from pair(f"{name}_self_attn_out_proj", width, width, 0.2 * attention_gain)
        yield from pair(f"{name}_mlp_fc1", text.inner, width, 0.2)
        yield from pair(f"{name}_mlp_fc2", width, text.inner, 0.2 * mlp_gain)


def _vae_res_block(key: str, inner: int, outer: int) -> Iterator[Entry]:
    yield from _norm(f"{key}.norm1", inner)
    yield from _layer(f"{key}.conv1", outer, inner, 3, 3)
    yield from _norm(f"{key}.norm2", outer)
    yield from _layer(f"{key}.conv2", outer, outer, 3, 3)
    if inner != outer:
        yield from _layer(f"{key}.nin_shortcut", outer, inner, 1, 1)


def _vae_middle(key: str, channels: int) -> Iterator[Entry]:
    yield from _vae_res_block(f"{key}.block_1", channels, channels)
    yield from _norm(f"{key}.attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{key}.attn_1.{name}", channels, channels, 1, 1)
    yield from _vae_res_block(f"{key}.block_2", channels, channels)


def vae_entries() -> Iterator[Entry]:
    """Layout of the full AutoencoderKL of SD 1.x and 2.x; keys without `first_stage_model.`."""
    widths = (128, 256, 512, 512)
    channels = widths[0]
    yield from _layer("encoder.conv_in", channels, 3, 3, 3)
    for level, width in enumerate(widths):
        for block in range(2):
            yield from _vae_res_block(f"encoder.down.{level}.block.{block}", channels, width)
            channels = width
        if level < len(widths) - 1:
            yield from _layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_middle("encoder.mid", channels)
    yield from _norm("encoder.norm_out", channels)
    yield from _layer("encoder.conv_out", 8, channels, 3, 3)
    # Channels 0..3 are the posterior's mean, brought to the scale of real latents; 4..7 its log-variance.
    gains = torch.tensor([1.7 / LATENT_SCALE] * 4 + [0.5] * 4)
    yield Entry("quant_conv.weight", (8, 8, 1, 1), mean=torch.diag(gains)[:, :, None, None])
    yield Entry("quant_conv.bias", (8,), mean=torch.tensor([0.0] * 4 + [-8.0] * 4))
    yield Entry("post_quant_conv.weight", (4, 4, 1, 1), mean=LATENT_SCALE * torch.eye(4)[:, :, None, None])
    yield Entry("post_quant_conv.bias", (4,))
    yield from _layer("decoder.conv_in", channels, 4, 3, 3)
    yield from _vae_middle("decoder.mid", channels)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(3):
            yield from _vae_res_block(f"decoder.up.{level}.block.{block}", channels, width)
            channels = width
        if level:
            yield from _layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _norm("decoder.norm_out", channels)
    yield from _layer("decoder.conv_out", 3, channels, 3, 3, gain=0.8)


def _text_scales(width: int, layers: int) -> tuple[float, float, float]:
    """Standard deviation of the token embeddings, and gains of the attention and MLP branches.

    Token embeddings get the row norm of the real models, 0.4. The branches add up to about one, as in
    OpenCLIP's own initialization; attention adds less than the MLP, or every position would end up as the
    same average of its predecessors.
    """
    branch = 1 / math.sqrt(2 * layers)
    return 0.4 / math.sqrt(width), 0.3 * branch, branch


def openclip_h_entries() -> Iterator[Entry]:
    """Layout of the full text encoder of SD 2.x; keys without `cond_stage_model.model.`."""
    width, layers = 1024, 24
    token_std, attention, mlp = _text_scales(width, layers)
    yield Entry("positional_embedding", (POSITIONS, width), std=token_std / 2)
    yield Entry("text_projection", (width, width), std=1 / math.sqrt(width))
    yield Entry("logit_scale", (), mean=math.log(100))
    yield Entry("token_embedding.weight", (VOCABULARY, width), std=token_std)
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}"
        yield from _norm(f"{block}.ln_1", width)
        yield Entry(f"{block}.attn.in_proj_weight", (3 * width, width), std=1 / math.sqrt(width))
        yield Entry(f"{block}.attn.in_proj_bias", (3 * width,))
        yield from _layer(f"{block}.attn.out_proj", width, width, gain=attention)
        yield from _norm(f"{block}.ln_2", width)
        yield from _layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from _layer(f"{block}.mlp.c_proj", width, 4 * width, gain=mlp)
    yield from _norm("ln_final", width)


def clip_l_entries() -> Iterator[Entry]:
    """Layout of the full text encoder of SD 1.x; keys without `cond_stage_model.transformer.text_model.`."""
    width, layers = 768, 12
    token_std, attention, mlp = _text_scales(width, layers)
    yield Entry("embeddings.token_embedding.weight", (VOCABULARY, width), std=token_std)
    yield Entry("embeddings.position_embedding.weight", (POSITIONS, width), std=token_std / 2)
    for layer in range(layers):
        block = f"encoder.layers.{layer}"
        yield from _norm(f"{block}.layer_norm1", width)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield from _layer(f"{block}.self_attn.{name}", width, width)
        yield from _layer(f"{block}.self_attn.out_proj", width, width, gain=attention)
        yield from _norm(f"{block}.layer_norm2", width)
        yield from _layer(f"{block}.mlp.fc1", 4 * width, width)
        yield from _layer(f"{block}.mlp.fc2", width, 4 * width, gain=mlp)
    yield from _norm("final_layer_norm", width)
