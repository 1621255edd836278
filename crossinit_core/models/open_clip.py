"""Text encoders of checkpoint files, their weights under transformers' names.

The names of OpenCLIP (mlfoundations/open_clip, src/open_clip/transformer.py) follow from ComfyUI's
`clip_text_transformers_convert` (comfy/utils.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_NAMES = {
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
}
_LAYER_NAMES = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}
_PROJECTION = "text_projection"


def clip_weights(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Of OpenAI's encoder, of SD 1.x and SDXL. Older files have no level `text_model`."""
    return {
        key.removeprefix(prefix).removeprefix("text_model."): value
        for key, value in state.items()
        if key.startswith(prefix)
    }


def open_clip_weights(state: Mapping[str, Tensor], prefix: str, *, whole: bool) -> dict[str, Tensor]:
    """Of OpenCLIP's encoder. `whole` as SDXL uses it, with last layer and projection; SD 2.x uses neither."""
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    last = max((int(key.split(".")[2]) for key in own if key.startswith("transformer.resblocks.")), default=0)
    weights: dict[str, Tensor] = {}
    for old, value in own.items():
        if whole and old in (_PROJECTION, f"{_PROJECTION}.weight"):
            # A matrix that is multiplied from the left; some tools write it as a linear layer.
            weights[f"{_PROJECTION}.weight"] = value.t() if old == _PROJECTION else value
            continue
        start = next((start for start in _NAMES if old.startswith(start)), None)
        if start is None or (not whole and old.startswith(f"transformer.resblocks.{last}.")):
            continue
        key = _NAMES[start] + old.removeprefix(start)
        for before, after in _LAYER_NAMES.items():
            key = key.replace(before, after)
        layer, joined, kind = key.partition(".attn.in_proj_")
        if joined:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                weights[f"{layer}.self_attn.{name}_proj.{kind}"] = part
        else:
            weights[key] = value
    return weights
