"""Ways to break a file or a text: each takes a generator of random numbers, so that a seed gives the same ones again."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
)
_TEXTS = (
    "",
    " ",
    "\0",
    "\n",
    "\r\n",
    "\x0b\x0c\x85",
    "\u2028",
    "\u2029",
    "\ud83d",
    "\ufeff",
    "\u200b",
    "\u202e",
    "é",
    "e\u0301",
    "{}",
    "{1}",
    "{2}",
    "{anna}",
    "{",
    "}}",
    "%s",
    "\\",
    "/",
    "..",
    ":",
    "|",
    "#",
    "<img src=x onerror=alert(1)>",
    "embedding:anna",
    "(a:1.2)",
    "CON",
    "COM¹.txt",
    "🙂",
    "名前",
    "محمد",
    "anna",
    "Anna Smith",
    "a photo of a person",
    "9" * 5000,
    "x" * 3000,
)


def any_text(numbers: random.Random, most: int = 12) -> str:
    """A text of pieces that people paste and that go wrong, halves of surrogate pairs included."""
    pieces = [
        numbers.choice(_TEXTS) if numbers.random() < 0.8 else chr(numbers.randrange(0x110000))
        for _ in range(numbers.randint(0, most))
    ]
    return "".join(pieces)


def any_value(numbers: random.Random, depth: int = 3) -> Any:
    """Something that JSON can say."""
    choices: list[Callable[[], Any]] = [
        lambda: numbers.choice(_NUMBERS),
        lambda: numbers.choice((0.5, 1e308, float("nan"), float("inf"), -0.0)),
        lambda: any_text(numbers, 4),
        lambda: numbers.choice((None, True, False)),
    ]
    if depth:
        choices += [
            lambda: [any_value(numbers, depth - 1) for _ in range(numbers.randint(0, 4))],
            lambda: {any_text(numbers, 2): any_value(numbers, depth - 1) for _ in range(numbers.randint(0, 4))},
        ]
    return numbers.choice(choices)()


def mutated(content: bytes, numbers: random.Random, other: bytes = b"") -> bytes:
    """The content with one to four places broken: bits, bytes, numbers, pieces that are missing, doubled or of `other`."""
    changed = bytearray(content)
    for _ in range(numbers.choice((1, 1, 1, 2, 3, 4))):
        if not changed:
            break
        place = numbers.randrange(len(changed)) if numbers.random() < 0.6 else numbers.randrange(min(len(changed), 512))
        length = min(numbers.choice((1, 2, 4, 8, 64, 1024)), len(changed) - place)
        kind = numbers.randrange(8)
        if kind == 0:
            changed[place] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            changed[place] = numbers.choice((0, 1, 0x7F, 0x80, 0xFF, numbers.randrange(256)))
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            del changed[place : place + length]
        elif kind == 4:
            changed[place:place] = changed[place : place + length] * numbers.choice((1, 2, 50))
        elif kind == 5:
            width = numbers.choice(["<B", "<H", "<I", "<Q", ">H", ">I"])
            number = numbers.choice(_NUMBERS) % 2 ** (8 * struct.calcsize(width))
            changed[place : place + struct.calcsize(width)] = struct.pack(width, number)
        elif kind == 6:
            changed[place : place + length] = numbers.randbytes(length)
        elif other:
            start = numbers.randrange(len(other))
            changed[place : place + length] = other[start : start + numbers.choice((8, 64, 4096))]
    return bytes(changed)


def with_broken_header(content: bytes, numbers: random.Random) -> bytes:
    """A safetensors file whose header is right JSON and says something else."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    for _ in range(numbers.randint(1, 3)):
        _break_entry(header, numbers)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _break_entry(header: dict[str, Any], numbers: random.Random) -> None:
    key = numbers.choice(list(header) or [""])
    entry = header.get(key)
    kind = numbers.randrange(7)
    if kind == 0:
        header[any_text(numbers, 3)] = header.pop(key, None)
    elif kind == 1:
        header.pop(key, None)
    elif kind == 2:
        header[key] = any_value(numbers)
    elif isinstance(entry, dict) and "shape" in entry:
        if kind == 3:
            entry["dtype"] = numbers.choice(
                ["F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", "F32"]
            )
        elif kind == 4:
            entry["shape"] = [numbers.choice(_NUMBERS) for _ in range(numbers.randint(0, 4))]
        elif kind == 5:
            entry["data_offsets"] = [numbers.choice(_NUMBERS), numbers.choice(_NUMBERS)]
        else:
            header[any_text(numbers, 2) + "_1"] = dict(entry)
    elif isinstance(entry, dict) and entry:
        inner = numbers.choice(list(entry))
        if kind == 3:
            entry[inner] = any_text(numbers)
        elif kind == 4:
            entry[any_text(numbers, 3)] = entry.pop(inner)
        elif kind == 5:
            entry[inner] = json.dumps(any_value(numbers))
        else:
            entry[inner] = any_value(numbers)
