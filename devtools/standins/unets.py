"""Layouts of stand-in models: the UNets of Stable Diffusion, and the ControlNets and LoRAs that fit them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .weights import Entry, TextShape, layer_entries, norm_entries, text_scales

# ComfyUI reads the prediction type of a SD 2.x file off this tensor (SD20.model_type in
# comfy/supported_models.py): a standard deviation above 0.09 means v-prediction.
V_PREDICTION_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass(frozen=True)
class UNetShape:
    """Size of a Stable Diffusion UNet; a ControlNet or a LoRA fits the checkpoint made with the same one.

    The real models have `channel_mult=(1, 2, 4, 4)`. ComfyUI takes a UNet for SD 1.x or 2.x only if
    `model_channels` is 320, and can see v-prediction only if there are twelve output blocks, as here.
    As in the real models, every level but the last attends to the text.

    SDXL says how many transformer blocks there are: `depths` for each level, `output_depths` for each output
    block from the first level's to the last's (as ComfyUI's `transformer_depth_output`), `middle_depth` (-1: the middle
    is a residual block alone). `extra_dim` is the length of what comes beside the timestep: pooled output and sizes.

    Raises ValueError if `model_channels` is not a multiple of 64, the width of an attention head.
    """

    context_dim: int
    linear_projection: bool
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 1, 1, 1)
    num_res_blocks: int = 2
    depths: tuple[int, ...] = ()
    output_depths: tuple[int, ...] = ()
    middle_depth: int = 1
    in_channels: int = 4
    extra_dim: int = 0

    def __post_init__(self) -> None:
        if self.model_channels % 64:
            raise ValueError(f"model_channels is {self.model_channels}; expected a multiple of 64")

    def depth(self, level: int) -> int:
        """Transformer blocks after each residual block of a level."""
        if self.depths:
            return self.depths[level]
        return int(level < len(self.channel_mult) - 1)

    def output_depth(self, level: int, index: int) -> int:
        """The same in the output half, where the residual blocks of a level can differ."""
        if self.output_depths:
            return self.output_depths[(level + 1) * (self.num_res_blocks + 1) - 1 - index]
        return self.depth(level)

    def skip_channels(self) -> list[int]:
        """Channels that leave each input block, in order: one skip connection, one ControlNet output each."""
        channels = [self.model_channels]
        for level, mult in enumerate(self.channel_mult):
            downsamples = level < len(self.channel_mult) - 1
            channels += [mult * self.model_channels] * (self.num_res_blocks + downsamples)
        return channels


SD2_UNET = UNetShape(context_dim=1024, linear_projection=True)
SD1_UNET = UNetShape(context_dim=768, linear_projection=False)


def _res_block(key: str, inner: int, outer: int, time_dim: int) -> Iterator[Entry]:
    yield from norm_entries(f"{key}.in_layers.0", inner)
    yield from layer_entries(f"{key}.in_layers.2", outer, inner, 3, 3)
    yield from layer_entries(f"{key}.emb_layers.1", outer, time_dim)
    yield from norm_entries(f"{key}.out_layers.0", outer)
    yield from layer_entries(f"{key}.out_layers.3", outer, outer, 3, 3)
    if inner != outer:
        yield from layer_entries(f"{key}.skip_connection", outer, inner, 1, 1)


def _transformer(key: str, channels: int, depth: int, unet: UNetShape) -> Iterator[Entry]:
    kernel = () if unet.linear_projection else (1, 1)
    yield from norm_entries(f"{key}.norm", channels)
    yield from layer_entries(f"{key}.proj_in", channels, channels, *kernel)
    for number in range(depth):
        yield from _transformer_block(f"{key}.transformer_blocks.{number}", channels, unet, 1 / math.sqrt(depth))
    yield from layer_entries(f"{key}.proj_out", channels, channels, *kernel)


def _transformer_block(block: str, channels: int, unet: UNetShape, share: float) -> Iterator[Entry]:
    """`share` scales the branches, so that many blocks add up to what one adds."""
    # At gain 1 attention averages the 77 text positions away; at 1.5 another prompt moves half the output.
    for name, context, gain in (("attn1", channels, 1.0), ("attn2", unet.context_dim, 1.5)):
        yield from layer_entries(f"{block}.{name}.to_q", channels, channels, gain=gain, bias=False)
        yield from layer_entries(f"{block}.{name}.to_k", channels, context, bias=False)
        yield from layer_entries(f"{block}.{name}.to_v", channels, context, bias=False)
        yield from layer_entries(f"{block}.{name}.to_out.0", channels, channels, gain=gain * share)
    yield from layer_entries(f"{block}.ff.net.0.proj", 8 * channels, channels)
    yield from layer_entries(f"{block}.ff.net.2", channels, 4 * channels, gain=share)
    for norm in ("norm1", "norm2", "norm3"):
        yield from norm_entries(f"{block}.{norm}", channels)


def _unet_encoder(unet: UNetShape) -> Iterator[Entry]:
    """The half that UNet and ControlNet share: time embedding, input blocks, middle block."""
    width = unet.model_channels
    time_dim = 4 * width
    yield from layer_entries("time_embed.0", time_dim, width)
    yield from layer_entries("time_embed.2", time_dim, time_dim)
    if unet.extra_dim:
        yield from layer_entries("label_emb.0.0", time_dim, unet.extra_dim)
        yield from layer_entries("label_emb.0.2", time_dim, time_dim)
    yield from layer_entries("input_blocks.0.0", width, unet.in_channels, 3, 3)
    block, channels = 1, width
    for level, mult in enumerate(unet.channel_mult):
        for _ in range(unet.num_res_blocks):
            yield from _res_block(f"input_blocks.{block}.0", channels, mult * width, time_dim)
            channels = mult * width
            if depth := unet.depth(level):
                yield from _transformer(f"input_blocks.{block}.1", channels, depth, unet)
            block += 1
        if level < len(unet.channel_mult) - 1:
            yield from layer_entries(f"input_blocks.{block}.0.op", channels, channels, 3, 3)
            block += 1
    yield from _res_block("middle_block.0", channels, channels, time_dim)
    if unet.middle_depth >= 0:
        yield from _transformer("middle_block.1", channels, unet.middle_depth, unet)
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
            depth = unet.output_depth(level, index)
            if depth:
                yield from _transformer(f"output_blocks.{block}.1", channels, depth, unet)
            if level and index == unet.num_res_blocks:
                module = 2 if depth else 1
                yield from layer_entries(f"output_blocks.{block}.{module}.conv", channels, channels, 3, 3)
            block += 1
    yield from norm_entries("out.0", channels)
    yield from layer_entries("out.2", 4, channels, 3, 3)


def controlnet_entries(unet: UNetShape, gain: float = 0.25) -> Iterator[Entry]:
    """ControlNet layout; keys without `control_model.`. `gain` is the strength of its outputs."""
    yield from _unet_encoder(unet)
    # SiLU with no norm between these layers: the gain makes up for what it swallows.
    hint_channels = (3, 16, 16, 32, 32, 96, 96, 256, unet.model_channels)
    for index, (inner, outer) in enumerate(pairwise(hint_channels)):
        yield from layer_entries(f"input_hint_block.{2 * index}", outer, inner, 3, 3, gain=1.7)
    # Training starts these at zero; zeros make a stand-in that does nothing.
    skips = unet.skip_channels()
    for index, channels in enumerate(skips):
        yield from layer_entries(f"zero_convs.{index}.0", channels, channels, 1, 1, gain=gain)
    yield from layer_entries("middle_block_out.0", skips[-1], skips[-1], 1, 1, gain=gain)


def lora_entries(unet: UNetShape, rank: int, text: TextShape, strength: float = 1.0) -> Iterator[Entry]:
    """Layout of a SD 2.x LoRA over attention and text encoder, in kohya's key names.

    At strength 1 it is half as strong as the UNet's weights, and a fifth as strong as the text encoder's.
    """
    width = unet.context_dim

    def pair(name: str, outer: int, inner: int, gain: float) -> Iterator[Entry]:
        return lora_pair(name, outer, inner, rank, gain * strength)

    def transformer(block: str, channels: int) -> Iterator[Entry]:
        for attention, context in (("attn1", channels), ("attn2", width)):
            name = f"lora_unet_{block}_transformer_blocks_0_{attention}"
            for layer, inner in (("q", channels), ("k", context), ("v", context), ("out_0", channels)):
                yield from pair(f"{name}_to_{layer}", channels, inner, 0.5)

    last = len(unet.channel_mult) - 1
    for level, mult in enumerate(unet.channel_mult):
        if unet.depth(level):
            channels = mult * unet.model_channels
            for index in range(unet.num_res_blocks):
                yield from transformer(f"down_blocks_{level}_attentions_{index}", channels)
            for index in range(unet.num_res_blocks + 1):
                yield from transformer(f"up_blocks_{last - level}_attentions_{index}", channels)
    yield from transformer("mid_block_attentions_0", unet.channel_mult[-1] * unet.model_channels)
    yield from lora_text_entries("lora_te", width, text, rank, strength)


def lora_pair(name: str, outer: int, inner: int, rank: int, gain: float) -> Iterator[Entry]:
    """The two factors for one layer, whose product maps standard normal input to standard deviation `gain`."""
    yield Entry(f"{name}.alpha", (), mean=float(rank))
    yield from layer_entries(f"{name}.lora_down", rank, inner, bias=False)
    yield from layer_entries(f"{name}.lora_up", outer, rank, gain=gain, bias=False)


def lora_text_entries(prefix: str, width: int, text: TextShape, rank: int, strength: float) -> Iterator[Entry]:
    """The part of a LoRA over a text encoder of this width. Nobody trains the last layer, which SD 2.x and SDXL do not use."""
    _, attention_gain, mlp_gain = text_scales(width, text.layers)
    for layer in range(text.layers - 1):
        name = f"{prefix}_text_model_encoder_layers_{layer}"
        for projection in ("q_proj", "k_proj", "v_proj"):
            yield from lora_pair(f"{name}_self_attn_{projection}", width, width, rank, 0.2 * strength)
        yield from lora_pair(f"{name}_self_attn_out_proj", width, width, rank, 0.2 * attention_gain * strength)
        yield from lora_pair(f"{name}_mlp_fc1", text.inner, width, rank, 0.2 * strength)
        yield from lora_pair(f"{name}_mlp_fc2", width, text.inner, rank, 0.2 * mlp_gain * strength)
