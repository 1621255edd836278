"""How tools lay a token out in a file: where its vectors are, and how each layout is written.

Read, in this order, by the names of the tensors:

| layout | written by |
|---|---|
| `string_to_param` | AUTOMATIC1111 (also as text in a PNG), the original textual inversion |
| a list of dictionaries | read by ComfyUI (`load_embed` in comfy/sd1_clip.py) |
| `emb_params` | kohya, invoke-training |
| `emp_params` | OneTrainer; its `emp_params_out` stands behind the text encoder, where no prompt reaches |
| `clip_l`, `clip_h` | ComfyUI's own keys |
| `clip_l` and `clip_g` | SDXL: kohya, OneTrainer, invoke-training, eden, diffusers' advanced trainings |
| `text_encoders_0` and `text_encoders_1` | SDXL: older trainings of diffusers, cog-sdxl (`.pti`) |
| `bundle_emb.NAME.KEY` | kohya and OneTrainer, beside a LoRA or alone; read by ComfyUI |
| `NAME_v0` .. `NAME_v{K-1}` | the published Cross Initialization |
| `<NAME>`, `<NAME>_1` .. | diffusers, which names the vectors of a token so |
| one tensor under any key, or bare | diffusers and many others |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..families import SDXL_WIDTHS
from ..text import quoted
from .pickles import Module
from .stored import BadFileError, StoredTensor

LONGEST_KEY = 1000

Found = list[tuple[str, StoredTensor]]
"""The tensors that are one text encoder's part of a token's vectors, in order, with their keys."""

_ONE_KEY = ("emb_params", "emp_params", "clip_h", "clip_l")
TWO_KEYS = ("clip_l", "clip_g")
"""CLIP-L's and CLIP-G's, as ComfyUI looks for them (`embedding_key` in comfy/sdxl_clip.py)."""
_OLDER_TWO_KEYS = ("text_encoders_0", "text_encoders_1")
_BUNDLE = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?P<key>string_to_param\.\*|[^.]+)", re.DOTALL)
_PUBLISHED = re.compile(r"(?P<name>.+)_v(?P<number>0|[1-9][0-9]{0,3})", re.DOTALL)
_OTHER_FAMILY = "Use one for SD 1.x, SD 2.x or SDXL"


def find_vectors(content: Any) -> tuple[Found, ...]:
    """The tensors of a token in what a file holds: one `Found`, or two for the two text encoders of SDXL, CLIP-L's first.

    Raises BadFileError with the reason if there is not exactly one token.
    """
    if isinstance(content, StoredTensor):
        return ([("tensor", content)],)
    if isinstance(content, list | tuple):
        return _in_list(content)
    if not isinstance(content, Mapping):
        raise BadFileError(f"holds a {type(content).__name__}, but a token file holds tensors by name")
    if long := next((key for key in content if len(str(key)) > LONGEST_KEY), None):
        raise BadFileError(
            f"has a key of {len(str(long))} characters, '{quoted(long, 60)}', but a key has at most {LONGEST_KEY}"
        )
    if "string_to_param" in content:
        return (_in_parameters(content["string_to_param"]),)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, StoredTensor)}
    if pair := _by_two_keys(tensors):
        return pair
    if found := _by_one_key(tensors):
        return (found,)
    if bundle := _bundled(tensors):
        return bundle
    for layout in (_published, _numbered, _single):
        if found := layout(tensors):
            return (found,)
    rows = [tensor for tensor in tensors.values() if len(tensor.shape) in (1, 2)]
    if len(rows) == len(tensors) > 1 and len({tensor.shape[-1] for tensor in rows if tensor.shape}) == 1:
        raise BadFileError(
            f"holds {len(tensors)} tokens, {_names(tensors)}, but one was expected. Save the one that you want alone"
        )
    raise BadFileError(
        f"is no token file: its keys are {_keys(content)}. Expected one tensor, or NAME_v0, NAME_v1 .. as the published "
        "code writes"
    )


def _keys(content: Mapping[Any, Any]) -> str:
    return ", ".join(quoted(key, 40) for key in sorted(map(str, content))[:6]) or "none"


def _names(keys: Sequence[str] | Mapping[str, object]) -> str:
    shown = [f"'{quoted(key, 40)}'" for key in list(keys)[:6]]
    return " and ".join(shown) if len(keys) == 2 else ", ".join(shown) + (" .." if len(keys) > len(shown) else "")


def _in_list(content: Sequence[Any]) -> tuple[Found, ...]:
    parts = [part for part in content if isinstance(part, Mapping)]
    if not parts or len(parts) != len(content):
        raise BadFileError("holds a list, but a token file holds tensors by name")
    found = [(str(key), value) for part in parts for key, value in part.items() if isinstance(value, StoredTensor)]
    merged = dict(found)
    if len(merged) == len(found):
        return find_vectors(merged if len(parts) > 1 else parts[0])
    if len(merged) != 1:
        raise BadFileError(
            f"holds several tokens, {_names(merged)}, but one was expected. Save the one that you want alone"
        )
    # ComfyUI gives each text encoder the tensors of its own width.
    widths = list(dict.fromkeys(tensor.shape[-1:] for _, tensor in found))
    if sorted(widths) != [(width,) for width in SDXL_WIDTHS]:
        return (found,)
    return tuple([(key, tensor) for key, tensor in found if tensor.shape[-1] == width] for width in SDXL_WIDTHS)


def _in_parameters(parameters: Any) -> Found:
    if isinstance(parameters, Module):
        parameters = parameters.state.get("_parameters") if isinstance(parameters.state, dict) else None
    items = parameters.items() if isinstance(parameters, Mapping) else ()
    found = [(str(key), value) for key, value in items if isinstance(value, StoredTensor)]
    if len(found) != 1:
        raise BadFileError(f"'string_to_param' holds {len(found)} tensors, but one was expected")
    return found


def _by_two_keys(tensors: Mapping[str, StoredTensor], prefix: str = "") -> tuple[Found, ...]:
    """SDXL's two parts, under either pair of names. Raises BadFileError if one of them is missing, or if there are more."""
    for first, second in (TWO_KEYS, _OLDER_TWO_KEYS):
        if second not in tensors:
            continue
        if first not in tensors:
            raise BadFileError(
                f"holds one half of an SDXL token, '{prefix}{second}', but '{prefix}{first}' is missing: SDXL has two text "
                "encoders. Ask for the whole token"
            )
        # OneTrainer's `_out` stands behind the text encoder, where no prompt reaches.
        for other, tensor in tensors.items():
            if other not in (first, second) and len(tensor.shape) == 2 and not other.endswith("_out"):
                raise BadFileError(
                    f"is an embedding of another model family: beside '{first}' and '{second}' it holds "
                    f"'{quoted(other, 60)}' of width {quoted(tensor.shape[1], 20)}. {_OTHER_FAMILY}"
                )
        return [(f"{prefix}{first}", tensors[first])], [(f"{prefix}{second}", tensors[second])]
    return ()


def _by_one_key(tensors: Mapping[str, StoredTensor]) -> Found:
    key = next((key for key in _ONE_KEY if key in tensors), None)
    if key is None:
        if outputs := [name for name in ("emp_params_out", "clip_l_out", "clip_g_out") if name in tensors]:
            raise BadFileError(
                f"is an output embedding of OneTrainer ({_names(outputs)}), which stands behind the text encoder, where no "
                "prompt reaches. Train it with 'output embedding' off"
            )
        return []
    if key == "clip_l" and "clip_g_out" in tensors:
        raise BadFileError(
            "holds one half of an SDXL token, 'clip_l', and of the other only 'clip_g_out', which stands behind the text "
            "encoder, where no prompt reaches. Train it with 'output embedding' off"
        )
    width = tensors[key].shape[-1:]
    for other, tensor in tensors.items():
        if len(tensor.shape) == 2 and tensor.shape[-1:] != width:
            raise BadFileError(
                f"is an embedding of another model family: beside '{key}' of width {quoted(width[0] if width else 0, 20)} it holds "
                f"'{quoted(other, 60)}' of width {quoted(tensor.shape[1], 20)}. {_OTHER_FAMILY}"
            )
    return [(key, tensors[key])]


def _bundled(tensors: Mapping[str, StoredTensor]) -> tuple[Found, ...]:
    bundles: dict[str, dict[str, StoredTensor]] = {}
    for key, tensor in tensors.items():
        if match := _BUNDLE.fullmatch(key):
            bundles.setdefault(match["name"], {})[match["key"]] = tensor
    if not bundles:
        return ()
    if len(bundles) > 1:
        raise BadFileError(f"holds {len(bundles)} tokens, {_names(bundles)}, but one was expected. Use the file of one")
    ((name, bundle),) = bundles.items()
    if "string_to_param.*" not in bundle and (pair := _by_two_keys(bundle, f"bundle_emb.{quoted(name, 60)}.")):
        return pair
    keys = [key for key in ("string_to_param.*", *_ONE_KEY) if key in bundle]
    if not keys:
        raise BadFileError(
            f"bundles the token '{quoted(name, 60)}' as {_names(bundle)}, but string_to_param.*, clip_l, clip_h or both of "
            "clip_l and clip_g were expected"
        )
    key = keys[0]
    _by_one_key({key: bundle[key]} | {other: tensor for other, tensor in bundle.items() if not other.endswith("_out")})
    return ([(f"bundle_emb.{name}.{key}", bundle[key])],)


def _published(tensors: Mapping[str, StoredTensor]) -> Found:
    """`NAME_v0` .. `NAME_v{K-1}`: save_progress in train_cross_init.py of lyuPang/CrossInitialization."""
    matches = {key: match for key in tensors if (match := _PUBLISHED.fullmatch(key))}
    if len(matches) < 2 or len(matches) < len(tensors) or len({match["name"] for match in matches.values()}) != 1:
        return []
    order = {int(match["number"]): key for key, match in matches.items()}
    name = next(iter(matches.values()))["name"]
    _check_no_gap(order, range(max(order) + 1), f"{name}_v")
    return [(order[number], tensors[order[number]]) for number in sorted(order)]


def _numbered(tensors: Mapping[str, StoredTensor]) -> Found:
    """`<anna>`, `<anna>_1` ..: `_extend_tokens_and_embeddings` in diffusers' loaders/textual_inversion.py."""
    base = min(tensors, key=len, default="")
    pattern = re.compile(re.escape(base) + r"_([1-9][0-9]{0,3})")
    matches = {key: match for key in tensors if key != base and (match := pattern.fullmatch(key))}
    if not matches or len(matches) != len(tensors) - 1:
        return []
    order = {0: base, **{int(match[1]): key for key, match in matches.items()}}
    _check_no_gap(order, range(1, max(order) + 1), f"{base}_")
    return [(order[number], tensors[order[number]]) for number in sorted(order)]


def _check_no_gap(order: Mapping[int, str], expected: range, prefix: str) -> None:
    missing = [number for number in expected if number not in order]
    if missing:
        raise BadFileError(
            f"holds {_names([order[number] for number in sorted(order)])}, but '{quoted(prefix, 60)}{missing[0]}' is missing. "
            "Ask for the whole token"
        )


def _single(tensors: Mapping[str, StoredTensor]) -> Found:
    return list(tensors.items()) if len(tensors) == 1 else []


# Written


@dataclass(frozen=True)
class Layout:
    """How a token is written. `content` makes the tensors by name of (K, d) vectors and the token's name.

    `two_encoders` says whether a token of two text encoders can be written so: then as `two_parts`, which is all that tools
    read of SDXL.
    """

    suffixes: tuple[str, ...]
    content: Callable[[Tensor, str], dict[str, Tensor]]
    two_encoders: bool = False


LAYOUTS: dict[str, Layout] = {
    "named": Layout((".safetensors", ".bin"), lambda vectors, name: {f"<{name}>": vectors}, two_encoders=True),
    "emb_params": Layout((".safetensors", ".pt", ".bin"), lambda vectors, name: {"emb_params": vectors}),
    "emp_params": Layout((".safetensors", ".pt"), lambda vectors, name: {"emp_params": vectors}),
    "published": Layout(
        (".bin", ".pt"), lambda vectors, name: {f"{name}_v{k}": vector.clone() for k, vector in enumerate(vectors)}
    ),
    "a1111": Layout((".pt", ".bin"), lambda vectors, name: {"*": vectors}, two_encoders=True),
}
"""By their names in `save_learned_token`. `a1111` is what stands in `string_to_param`."""


def two_parts(parts: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors by name of a token of two text encoders, of its parts (K, w) each."""
    return {key: part.clone() for key, part in zip(TWO_KEYS, parts, strict=True)}


DEFAULT_LAYOUTS = {".safetensors": "named", ".pt": "a1111", ".bin": "named"}

_SDXL_READERS = ("ComfyUI", "SwarmUI", "AUTOMATIC1111", "Forge", "kohya", "InvokeAI", "OneTrainer")


@dataclass(frozen=True)
class Format:
    """A format as people choose it: the file's suffix, the layout in it, and the tools that read all vectors of it.

    `readers` are those of a token for one text encoder, `sdxl_readers` of one for SDXL's two: nobody, if it cannot be written.
    """

    suffix: str
    layout: str
    readers: tuple[str, ...]
    sdxl_readers: tuple[str, ...] = ()

    def readers_of(self, widths: Sequence[int]) -> tuple[str, ...]:
        """The tools that read the format of a token with these widths, which are `LearnedToken.widths`."""
        return self.sdxl_readers if len(widths) == 2 else self.readers


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        ".safetensors",
        "named",
        ("ComfyUI", "SwarmUI", "diffusers", "AUTOMATIC1111", "Forge", "kohya"),
        (*_SDXL_READERS, "diffusers"),
    ),
    "pt": Format(
        ".pt",
        "a1111",
        ("ComfyUI", "SwarmUI", "diffusers", "AUTOMATIC1111", "Forge", "kohya", "InvokeAI"),
        (*_SDXL_READERS, "diffusers"),
    ),
    "bin": Format(
        ".bin",
        "named",
        ("ComfyUI", "SwarmUI", "diffusers", "AUTOMATIC1111", "Forge", "kohya"),
        (*_SDXL_READERS, "diffusers"),
    ),
    "safetensors for InvokeAI": Format(
        ".safetensors",
        "emb_params",
        ("InvokeAI", "ComfyUI", "SwarmUI", "diffusers", "AUTOMATIC1111", "Forge", "kohya"),
    ),
    "safetensors for OneTrainer": Format(
        ".safetensors",
        "emp_params",
        ("OneTrainer", "ComfyUI", "SwarmUI", "diffusers", "AUTOMATIC1111", "Forge", "kohya"),
    ),
    "bin for the published script": Format(".bin", "published", ("the published script",)),
}
"""By the names that people see. The first three are those of before. tests/test_readers.py holds who reads what."""
