"""Token files of every layout, and endless damaged ones made of them: for the tests, and for `benchmarks.torture`."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save


def valid_files(width: int = 16) -> dict[str, bytes]:
    """Whole files by a name that ends in their suffix: each layout of each tool, in each container, of two vectors.

    Those that begin with `two` are for two text encoders."""
    vectors = torch.arange(2 * width, dtype=torch.float32).reshape(2, width) / 7
    second = 1280 if width == 768 else 2 * width
    wide = torch.arange(2 * second, dtype=torch.float32).reshape(2, second) / 9
    layouts: dict[str, dict[str, torch.Tensor]] = {
        "named": {"<ann>": vectors},
        "diffusers-multi": {"<ann>": vectors[0].clone(), "<ann>_1": vectors[1].clone()},
        "published": {"ann_v0": vectors[0].clone(), "ann_v1": vectors[1].clone()},
        "emb-params": {"emb_params": vectors},
        "emp-params": {"emp_params": vectors, "emp_params_out": vectors + 1},
        "clip": {"clip_h": vectors},
        "bundle": {"bundle_emb.ann.b.clip_l": vectors, "lora_up.weight": torch.ones(4, 4)},
        "bundle-param": {"bundle_emb.ann.string_to_param.*": vectors},
        "half": {"<ann>": vectors.half()},
        "brain": {"<ann>": vectors.bfloat16()},
        # Two text encoders, the second one's part wider: SDXL's or those of a small model.
        "two": {"clip_l": vectors, "clip_g": wide},
        "two-onetrainer": {"clip_l": vectors, "clip_g": wide, "clip_l_out": vectors + 1, "clip_g_out": wide + 1},
        "two-older": {"text_encoders_0": vectors.half(), "text_encoders_1": wide},
        "two-bundle": {
            "bundle_emb.ann.clip_l": vectors,
            "bundle_emb.ann.clip_g": wide,
            "lora_up.weight": torch.ones(4, 4),
        },
    }
    files: dict[str, bytes] = {}
    for name, tensors in layouts.items():
        files[f"{name}.safetensors"] = save(tensors, {"crossinit.steps": "25", "modelspec.title": "Zoë"})
        files[f"{name}.pt"] = _pickled(tensors)
        files[f"{name}.bin"] = _pickled(tensors, zipped=False)
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors.clone())})
    others: dict[str, Any] = {
        "a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "ann", "step": 3},
        "original": {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters},
        "list": [{"<ann>": vectors}],
        "two-list": [{"clip_l": vectors}, {"clip_g": wide}],
        "bare": vectors,
    }
    for name, content in others.items():
        files[f"{name}.pt"] = _pickled(content)
        files[f"{name}.bin"] = _pickled(content, zipped=False)
    two = {"clip_l": {"TORCHTENSOR": vectors.tolist()}, "clip_g": {"TORCHTENSOR": wide.tolist()}, "name": "ann"}
    files["two-picture.png"] = picture(two)
    files["picture.png"] = picture({"string_to_param": {"*": {"TORCHTENSOR": vectors.tolist()}}, "name": "ann"})
    return files


def picture(content: object) -> bytes:
    """A picture with an embedding in its text, as AUTOMATIC1111 saves one."""
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(content).encode()).decode())
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _pickled(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


_SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_WORDS = (
    b"data.pkl",
    b"F32",
    b"shape",
    b"data_offsets",
    b"storage",
    b"_rebuild_tensor_v2",
    b"FloatStorage",
    b"OrderedDict",
)
_PUT = (
    b"I64",
    b"F4",
    b"[[",
    b"1e999",
    b"-1",
    b"9" * 40,
    b"null",
    b"\xff\xfe",
    b"posix\nsystem",
    b"R",
    b"\x86h\x00",
    b"2",
    b"0" * 8,
)


def damaged(content: bytes, number: random.Random) -> bytes:
    """One more damaged form of a file: bits, bytes, sizes and words are changed, pieces are cut, doubled or moved."""
    data = bytearray(content)
    for _ in range(number.choice((1, 1, 1, 2, 4, 16))):
        place = number.randrange(len(data) + 1)
        if number.random() < 0.4:  # what a file declares stands at its beginning or end
            place = min(place % 400, len(data)) if number.random() < 0.6 else max(0, len(data) - place % 400)
        kind = number.randrange(9)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << number.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = number.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + number.randrange(1, 40)]
        elif kind == 4:
            data[place:place] = number.randbytes(number.randrange(1, 40))
        elif kind == 5:
            data[place:place] = data[place : place + number.randrange(1, 200)]
        elif kind == 6:
            size = struct.pack("<Q", number.choice(_SIZES))[: number.choice((1, 2, 4, 8))]
            data[place : place + len(size)] = size
        elif kind == 7:
            word = number.choice(_WORDS)
            at = data.find(word)
            if at >= 0:
                data[at : at + len(word)] = number.choice(_PUT)
        else:
            data[place:place] = number.choice(_PUT)
    return bytes(data)


def damaged_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Endless damaged files as (name, content); the same ones for the same seed."""
    number = random.Random(seed)
    files = list(valid_files().items())
    while True:
        name, content = number.choice(files)
        yield name, damaged(content, number)
