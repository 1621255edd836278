"""Files that claim, or unpack to, far more than they are: each is refused in one line, quickly and in little memory."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .guard import guarded, limit_memory
from .learner import Child
from .record import Record

HARMLESS = {"token, a name of megabytes"}
"""What may be read as well: the file's name counts, not what is inside."""

Write = Callable[[Path], object]


def bombs(folder: Path, kinds: Sequence[str] = ("",)) -> Record:
    """Each in a process of its own; `kinds` are the beginnings of their names."""
    record = Record(
        "bombs",
        "It is refused in one line of at most 600 characters that names the file, within a second of CPU time and 200 MB.",
    )
    slowest, largest = 0.0, 0
    for number, (name, file, write, read) in enumerate(_all()):
        if not name.startswith(tuple(kinds)):
            continue
        place = folder / f"bomb-{number}"
        place.mkdir()
        path = place / file
        write(path)

        def work(send: Callable[[Any], None], read: Callable[[Path], object] = read, path: Path = path) -> None:
            limit_memory()
            send(guarded(lambda: read(path), path.name))

        child = Child(work)
        try:
            outcome = child.news(60)
        except (TimeoutError, EOFError) as end:
            child.kill()
            record.add(f"{name}: {type(end).__name__}, the process ended with {child.end()}")
            continue
        child.end()
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
        problem = outcome.problem or (None if outcome.refused or name in HARMLESS else "it was believed")
        record.add(problem and f"{name}: {problem}")
        path.unlink(missing_ok=True)
    record.facts = {"slowest, s of CPU time": round(slowest, 2), "most memory, MB": round(largest / 2**20, 1)}
    return record


def _all() -> Iterator[tuple[str, str, Write, Callable[[Path], object]]]:
    """A name, a file name, how it is written, and how it is read."""
    from crossinit_core import load_celebrity_names, load_learned_token, load_photo
    from crossinit_core.prompts import load_prompts

    for name, write in {**_SAFETENSORS, "a terabyte of nothing": _sparse}.items():
        yield f"token, {name}", "anna.safetensors", write, load_learned_token
        yield f"resume file, {name}", f"{'0' * 24}-12.resume.safetensors", write, _read_resume_file
    for name, write in {**_PICKLES, "a terabyte of nothing": _sparse}.items():
        yield f"token, {name}", "anna.pt", write, load_learned_token
    for name, write in {**_PICTURES, "a terabyte of nothing": _sparse}.items():
        yield f"photo, {name}", "photo.png", write, load_photo
    yield "names, a terabyte of nothing", "names.txt", _sparse, load_celebrity_names
    yield "names, no end of a line", "names.txt", lambda path: path.write_bytes(b"a" * 2**26), load_celebrity_names
    yield "prompts, a terabyte of nothing", "prompts.txt", _sparse, load_prompts


def _read_resume_file(path: Path) -> None:
    """Through the run's own reader; its note is a refusal."""
    import torch

    from crossinit_core.learning.resume_files import ResumeFile
    from crossinit_core.learning.resume_format import Expected
    from crossinit_core.learning.settings import InversionSettings

    notes: list[str] = []
    file = ResumeFile(path.parent, InversionSettings(steps=12), notes.append)
    expected = Expected("0" * 64, torch.Size((2, 768)), 12, "fp32", lambda *_: None, lambda *_: None)
    assert file.find(expected, None) is None  # type: ignore[arg-type]
    if notes:
        raise ValueError(notes[0])


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _raw(header: bytes, data: bytes = b"", length: int | None = None) -> Write:
    return lambda path: path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def _entry(dtype: str, shape: list[int], size: int) -> bytes:
    return json.dumps({"anna": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()


_SAFETENSORS: dict[str, Write] = {
    "a header of 2^63 bytes": _raw(b"{}", length=2**63),
    "a header of 99 MB": _raw(b" " * (99 * 2**20)),
    "a header of nested lists": _raw(b"[" * 500_000),
    "a header of nested objects": _raw(b'{"a":' * 500_000),
    "a million tensors": _raw(
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(1_000_000)) + b"}"
    ),
    "a number of a million digits": _raw(b'{"__metadata__":{"a":' + b"1" * 1_000_000 + b"}}"),
    "declared gigabytes": _raw(_entry("F32", [2, 10**9], 8 * 10**9)),
    "a shape that overflows": _raw(_entry("F32", [2**32, 2**32], 0)),
    "a name of megabytes": _raw(
        json.dumps({"x" * 5_000_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode(), b"1234"
    ),
    "a gigabyte of real zeros": lambda path: _zeros(path, 2**30),
}


def _zeros(path: Path, size: int) -> None:
    """A right file; the disk keeps nothing of its zeros."""
    header = _entry("F32", [size // 4 // 1024, 1024], size)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def _storage_pickle(shape: tuple[int, ...], stride: tuple[int, ...], count: int) -> bytes:
    """What torch.save writes for {'anna': tensor}, of any claim."""

    class Rebuilt:
        def __reduce__(self) -> tuple[Any, ...]:
            import torch._utils

            return torch._utils._rebuild_tensor_v2, (_Persistent(count), 0, shape, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> Any:
            import torch

            return ("storage", torch.FloatStorage, "0", "cpu", value.count) if isinstance(value, _Persistent) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"anna": Rebuilt()})
    return buffer.getvalue()


class _Persistent:
    def __init__(self, count: int) -> None:
        self.count = count


def _torch_zip(content: bytes, storage: bytes, method: int = zipfile.ZIP_STORED) -> Write:
    return _zip({"a/data.pkl": content, "a/version": b"3\n", "a/data/0": storage}, method)


def _hash_bomb() -> bytes:
    """A dictionary whose key is a tuple of the same two tuples, thirty deep: its hash takes 2^30 steps."""
    return (
        b"\x80\x02"
        + b"K\x01"
        + b"q\x00"
        + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(30))
        + b"0}h\x1eK\x01s."
    )


_PICKLES: dict[str, Write] = {
    "400 MB of zeros, deflated": lambda path: _torch_zip(
        _storage_pickle((2, 768), (768, 1), 100 * 2**20), bytes(400 * 2**20), zipfile.ZIP_DEFLATED
    )(path),
    "a pickle of 400 MB, deflated": lambda path: _torch_zip(
        b"\x80\x02X" + struct.pack("<I", 400 * 2**20) + b"x" * (400 * 2**20) + b".", b"", zipfile.ZIP_DEFLATED
    )(path),
    "a tensor of stride 0": lambda path: _torch_zip(_storage_pickle((2, 5 * 10**8), (0, 0), 1), bytes(4))(path),
    "gigabytes that are not there": lambda path: _torch_zip(
        _storage_pickle((2, 10**9), (10**9, 1), 2 * 10**9), bytes(64)
    )(path),
    "sixty thousand members": lambda path: _zip({f"a/data/{n}": b"" for n in range(60_000)})(path),
    "a pickle nested deeply": lambda path: path.write_bytes(b"\x80\x02" + b"]" * 1 + b"(" * 1_000_000 + b"."),
    "a pickle of lists in lists": lambda path: _torch_zip(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", b"")(
        path
    ),
    "a tuple whose hash never ends": lambda path: _torch_zip(_hash_bomb(), b"")(path),
    "a bytearray of 8 GB": lambda path: path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"."),
    "a number of 5 MB": lambda path: _torch_zip(
        b"\x80\x02\x8b" + struct.pack("<i", 5_000_000) + b"\x01" * 5_000_000 + b".", b""
    )(path),
}


def _png(width: int, height: int, data: bytes, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _deflated_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(size >> 20)) + packer.flush()


_PICTURES: dict[str, Write] = {
    "a PNG of 50,000 x 50,000": lambda path: path.write_bytes(_png(50_000, 50_000, _deflated_zeros(2**20))),
    "a PNG of 2^31 x 2^31": lambda path: path.write_bytes(_png(2**31 - 1, 2**31 - 1, b"")),
    "a PNG of 20,000 x 20,000 zeros": lambda path: path.write_bytes(_png(20_000, 20_000, _deflated_zeros(2**29))),
    "nested TIFF folders without end": lambda path: path.write_bytes(
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    ),
}
