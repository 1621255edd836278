"""A compact model folder: a small model of Stable Diffusion 2's architecture in a few files. The miniature ships so.

config.json             configurations of `unet`, `vae`, `text_encoder` and `scheduler`, as diffusers writes them
model-1.safetensors ... unet.*, vae.* and text_encoder.*. Of the token table only the rows that are used are stored
                        (`text_encoder.rows`, ids in `text_encoder.row_ids`); all other words share one row
                        (`text_encoder.other_row`)

The tokenizer is CLIP's own; `data/merges.txt` has its merges (openai/CLIP, MIT licence).
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..families import CONTEXT_LENGTH
from ..text import quoted
from .loading import reading

FORMAT = 1
PARTS = ("text_encoder", "unet", "vae")
VOCABULARY, POSITIONS = 49408, CONTEXT_LENGTH
BOS, EOS, PAD = 49406, 49407, 0
"""Special tokens of CLIP; SD 2.x pads with 0."""

MERGES = Path(__file__).resolve().parents[1] / "data" / "merges.txt"

TABLE = "text_model.embeddings.token_embedding.weight"
_RESTORE = "Restore it: download the pack again, or run git checkout in its folder."


def is_compact(folder: Path) -> bool:
    """Whether a folder is laid out like this."""
    return (folder / "config.json").is_file() and not (folder / "unet").exists()


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a compact folder.

    Raises FileNotFoundError if there is none, and ValueError if it is of another format.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' holds no miniature: config.json is missing. {_RESTORE}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"'{path}' does not hold a JSON object, so it is damaged. {_RESTORE}")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"'{path}' has format {quoted(repr(config.get('format')), 40)}, but this version reads {FORMAT}."
        )
    lacking = [part for part in (*PARTS, "scheduler") if not isinstance(config.get(part), dict)]
    if lacking:
        raise ValueError(f"'{path}' has no object '{lacking[0]}', so it is damaged. {_RESTORE}")
    return config


def read_states(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, Tensor]]:
    """The weights of `unet`, `vae` and `text_encoder` under their usual names, with the whole token table.

    Raises ValueError if a file cannot be read or is missing.
    """
    states: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for path in sorted(folder.glob("model-*.safetensors")):
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"'{path}' is damaged ({error}). {_RESTORE}") from error
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            if part not in states:
                raise ValueError(
                    f"'{path}' holds '{quoted(key, 60)}', which is of none of {', '.join(PARTS)}. {_RESTORE}"
                )
            states[part][name] = value if name == "row_ids" else value.to(dtype)
    text = states["text_encoder"]
    if not all(states.values()) or not {"row_ids", "rows", "other_row"} <= text.keys():
        raise ValueError(f"'{folder}' lacks weights: not every model-*.safetensors is there. {_RESTORE}")
    with reading(folder, _RESTORE):
        ids, rows = text.pop("row_ids").long(), text.pop("rows")
        table = text.pop("other_row").repeat(VOCABULARY, 1)
        table[ids] = rows
    text[TABLE] = table
    return states


def check_complete(folder: Path, part: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raises ValueError if the weights of a part are not those that its network has."""
    missing = sorted(key for key in wanted.keys() - state.keys() if not key.endswith("position_ids"))
    unknown = sorted(state.keys() - wanted.keys())
    if missing or unknown:
        raise ValueError(
            f"'{folder}' does not fit its config.json: of {part}, {len(missing)} weights are missing and {len(unknown)} "
            f"are unknown ({', '.join((missing + unknown)[:3])} ..). {_RESTORE}"
        )


def build_modules(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Fresh networks in diffusers' and transformers' classes, with the host's random state."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    return {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        "unet": UNet2DConditionModel(**configs["unet"]),
        "vae": AutoencoderKL(**configs["vae"]),
    }


def load_modules(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The networks with their weights, frozen, on the CPU. Raises as `read_config` and `read_states` do."""
    config, states = read_config(folder), read_states(folder, dtype)
    with reading(folder / "config.json", _RESTORE):
        modules = build_modules({part: config[part] for part in PARTS})
    for part, module in modules.items():
        state, own = states[part], module.state_dict()
        if part == "text_encoder" and not any(key.startswith("text_model.") for key in own):
            # transformers 5 has no level of that name.
            state = {key.removeprefix("text_model."): value for key, value in state.items()}
        check_complete(folder, part, state, own)
        if dtype != torch.float32:
            module.to(dtype)
        with reading(folder, _RESTORE):
            module.load_state_dict(state, strict=False)
        module.train(False).requires_grad_(False)
    return modules


def write_tokenizer(folder: Path, pad: int = PAD) -> None:
    """A transformers folder of CLIP's tokenizer, padding as SD 2.x does or with another token.

    The vocabulary follows from the merges (openai/CLIP, simple_tokenizer.py): bytes, bytes that end a word, what each merge
    makes, and two special tokens.
    """
    lines = MERGES.read_text(encoding="utf-8").splitlines()
    joined = ["".join(line.split()) for line in lines if line and not line.startswith("#version")]
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(256 - len(plain))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    if len(words) != VOCABULARY:
        raise ValueError(f"'{MERGES}' gives {len(words)} tokens, but CLIP has {VOCABULARY}. {_RESTORE}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    special = {"bos_token": words[BOS], "eos_token": words[EOS], "unk_token": words[EOS], "pad_token": words[pad]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    config = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": POSITIONS, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def load_tokenizer(pad: int = PAD) -> Any:
    """transformers' CLIPTokenizer with CLIP's whole vocabulary, padding as SD 2.x does or with another token."""
    from transformers import CLIPTokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), pad)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
