"""Token files as containers: safetensors, the zip files and the older pickles of torch.save.

The first bytes say which, whatever the file is called. What a file declares is checked before anything is unpacked, and of its
tensors only those that are asked for are read. Nothing is mapped into memory: a mapped file that shrinks ends the interpreter.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from ..text import quoted
from .pickles import ITEM_SIZES, Storage, values_of
from .stored import REAL, BadFileError, StoredTensor, contiguous

LONGEST_HEADER = 4 * 2**20
"""Bytes of a safetensors header; a LoRA's with a picture in it takes one or two million."""

LARGEST_PICKLE = 2 * 2**20

MOST_UNPACKED = 16
"""Times its own size that a zip file may unpack to. What torch.save writes is not compressed at all."""

LARGEST_MEMBER = 256 * 2**20
"""Bytes of a tensor in a zip file of which a token may be a part: the whole vocabulary of SDXL's second encoder takes 253 million."""

_LARGEST_READ = 8 * 2**20
_PIECE = 2**20
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""`MAGIC_NUMBER` of PyTorch's torch/serialization.py."""

_PNG = b"\x89PNG\r\n\x1a\n"
_IN_PNG = b"tEXtsd-ti-embedding\0"
_LONGEST_TEXT = 3 * 2**20
"""Bytes of base64 in a picture: 75 vectors of width 1024 take 2.2 million."""

_MOST_CHUNKS = 100_000
_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"GIF8": "GIF"}
_DTYPES = {name: dtype for dtype, name in REAL.items()}

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    struct.error,
    KeyError,
    OverflowError,
)

DAMAGED = "is damaged or no token file"


@dataclass(frozen=True)
class Content:
    """What a file holds. `values` is a dictionary, list, or `StoredTensor`; `metadata` is that of a safetensors file."""

    kind: Literal["safetensors", "zip", "pickle", "picture"]
    values: Any
    metadata: dict[str, str] = field(default_factory=dict)


def opened(path: Path) -> BinaryIO:
    """An ordinary file, open for reading. Raises FileNotFoundError for anything else: a folder, a pipe, a device."""
    missing = f"There is no token file at '{quoted(path, 300)}'."
    try:
        if not path.is_file():
            raise FileNotFoundError(missing)
        file = path.open("rb", buffering=2**16)
    except FileNotFoundError:
        raise FileNotFoundError(missing) from None
    except ValueError:
        raise FileNotFoundError(missing) from None
    except OSError as error:
        raise BadFileError(f"cannot be read ({quoted(error.strerror or type(error).__name__)})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(missing)
    return file


def read_container(file: BinaryIO) -> Content:
    """What an open file holds; its tensors can be read as long as it is open. Raises BadFileError."""
    try:
        start = file.read(9)
        if start[:4] in _ZIP:
            return _zip(file)
        # A header of 128 or 384 bytes begins like a pickle.
        if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _size(file) - 8:
            return _safetensors(file)
        if start[:1] == b"\x80":
            return _legacy(file)
        if start[:8] == _PNG and (found := _png(file)):
            return found
        for magic, name in _PICTURES.items():
            if start.startswith(magic):
                raise BadFileError(
                    f"is a picture ({name}), not a token file. If AUTOMATIC1111 wrote an embedding into it, use that program to "
                    "save it as .pt"
                )
        raise BadFileError(DAMAGED)
    except OSError as error:
        raise BadFileError(f"cannot be read ({quoted(error.strerror or type(error).__name__)})") from error
    except (RecursionError, MemoryError) as error:
        raise BadFileError(DAMAGED) from error


def _png(file: BinaryIO) -> Content | None:
    """An embedding of AUTOMATIC1111 in a picture: base64 of JSON. `embedding_from_b64` in Forge, textual_inversion.py."""
    size, place = _size(file), len(_PNG)
    for _ in range(_MOST_CHUNKS):
        if place + 12 > size:
            break
        (length,) = struct.unpack(">I", _exactly(file, place, 4))
        if length > len(_IN_PNG) and _exactly(file, place + 4, min(len(_IN_PNG), size - place - 4)) == _IN_PNG:
            if length > _LONGEST_TEXT:
                raise BadFileError(f"is no token file: the text in the picture takes {length / 2**20:.0f} MB")
            chunk = _exactly(file, place + 4, length + 8)
            if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise BadFileError(DAMAGED)
            try:
                text = base64.b64decode(chunk[len(_IN_PNG) : -4], validate=True)
                return Content("picture", json.loads(text, object_hook=_tensor_in_json))
            except ValueError as error:
                raise BadFileError(DAMAGED) from error
        place += 12 + length
    return None


def _tensor_in_json(found: dict[str, Any]) -> Any:
    rows = found.get("TORCHTENSOR")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        return found
    shape = (len(rows), len(rows[0]))
    numbers = [number for row in rows for number in row]
    if any(len(row) != shape[1] for row in rows) or any(type(number) not in (int, float) for number in numbers):
        raise BadFileError(f"{DAMAGED}: its vectors are not rows of numbers")
    return StoredTensor(
        torch.float64, shape, contiguous(shape), 0, lambda start, count: _doubles(numbers[start : start + count])
    )


def _doubles(numbers: list[float]) -> Tensor:
    try:
        return torch.tensor(numbers, dtype=torch.float64)
    except (OverflowError, RuntimeError) as error:
        raise BadFileError(f"{DAMAGED}: its vectors are not rows of numbers") from error


def _exactly(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    content = file.read(count)
    if len(content) != count:
        raise BadFileError(f"{DAMAGED}: it ends too early")
    return content


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _numbers(content: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=dtype)


def _safetensors(file: BinaryIO) -> Content:
    """The format: https://github.com/huggingface/safetensors#format."""
    size = _size(file)
    (length,) = struct.unpack("<Q", _exactly(file, 0, 8))
    if length > LONGEST_HEADER:
        raise BadFileError(f"is no token file: its header takes {length / 2**20:.0f} MB")
    try:
        header = json.loads(_exactly(file, 8, length).decode())
    except (ValueError, RecursionError) as error:
        raise BadFileError(DAMAGED) from error
    metadata = header.pop("__metadata__", {}) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFileError(f"{DAMAGED}: its metadata is not text")
    values, data = {}, 8 + length
    covered = []
    for key, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            fits = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and begin <= end
        except (TypeError, KeyError, ValueError) as error:
            raise BadFileError(DAMAGED) from error
        if not fits or data + end > size:
            raise BadFileError(f"{DAMAGED}: the place of '{quoted(key, 60)}' is not in it")
        covered.append((begin, end))
        real = _DTYPES.get(dtype) if isinstance(dtype, str) else None
        if real is not None:
            numbers = 1
            for number in shape:
                numbers *= number
                if numbers > size:
                    break
            if numbers * real.itemsize != end - begin:
                raise BadFileError(f"{DAMAGED}: the size of '{quoted(key, 60)}' is not that of its shape")
        values[key] = StoredTensor(
            real or quoted(dtype, 30),
            shape,
            contiguous(shape) if len(shape) < 3 else (1,) * len(shape),
            0,
            _slice(file, data + begin, real),
        )
    # As the library has it: no holes, nothing twice, nothing behind.
    position = 0
    for begin, end in sorted(covered):
        if begin != position:
            raise BadFileError(f"{DAMAGED}: its tensors do not lie side by side")
        position = end
    if data + position != size:
        raise BadFileError(f"{DAMAGED}: its size is not what its header says")
    return Content("safetensors", values, metadata)


def _slice(file: BinaryIO, begin: int, dtype: torch.dtype | None) -> Callable[[int, int], Tensor]:
    def read(start: int, count: int) -> Tensor:
        assert dtype is not None
        return _numbers(_exactly(file, begin + start * dtype.itemsize, count * dtype.itemsize), dtype)

    return read


class _Bounded(io.RawIOBase):
    """A file that gives no more than `_LARGEST_READ` bytes at once: `zipfile` reads a whole directory of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            here = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        if size > _LARGEST_READ:
            raise BadFileError("is no token file: its list of members is far too long")
        return self._file.read(size)


_DATA_PICKLE = re.compile(r"[^/]+/data\.pkl")


def _zip(file: BinaryIO) -> Content:
    size = _size(file)
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MOST_UNPACKED * size:
                raise BadFileError("is no token file: it would unpack to many times its size")
            by_name = {member.filename: member for member in members}
            pickles = [name for name in by_name if _DATA_PICKLE.fullmatch(name)]
            if len(pickles) != 1 or len(by_name) != len(members):
                raise BadFileError(f"{DAMAGED}: it does not hold one data.pkl")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in by_name and _member(archive, by_name[f"{root}byteorder"], 16) != b"little":
                raise BadFileError(
                    "was written on a computer with another byte order. Ask for it in the safetensors format"
                )
            content = _member(archive, by_name[pickles[0]], LARGEST_PICKLE)

        def read(storage: Storage, start: int, count: int) -> Tensor:
            dtype = storage.dtype
            assert isinstance(dtype, torch.dtype)
            member = by_name.get(f"{root}data/{storage.key}")
            if member is None or start + count > storage.count or storage.count * dtype.itemsize > member.file_size:
                raise BadFileError(f"{DAMAGED}: a tensor is larger than its numbers")
            begin, length = start * dtype.itemsize, count * dtype.itemsize
            return _numbers(_part(file, member, begin, length), dtype)

        values, _ = values_of(io.BytesIO(content), read)
        return Content("zip", values)
    except BadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise BadFileError(DAMAGED) from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of a member of at most `most`."""
    if member.file_size > most or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFileError(f"is no token file: its '{quoted(member.filename, 60)}' is not what torch.save writes")
    with archive.open(member) as stream:
        content = b"".join(iter(lambda: stream.read(2**16), b""))
    if len(content) != member.file_size:
        raise BadFileError(f"{DAMAGED}: it ends too early")
    return content


def _part(file: BinaryIO, member: zipfile.ZipInfo, begin: int, length: int) -> bytes:
    """Bytes of a member. Of one that is not compressed only these are kept: it may hold a whole vocabulary."""
    if member.compress_type == zipfile.ZIP_STORED and member.file_size > _LARGEST_READ:
        if member.file_size > LARGEST_MEMBER:
            raise BadFileError(
                f"holds a part of a tensor of {member.file_size / 2**20:.0f} MB. Ask for a file with the vectors alone"
            )
        header = _exactly(file, member.header_offset, 30)
        if header[:4] != _ZIP[0]:
            raise BadFileError(DAMAGED)
        name, extra = struct.unpack("<HH", header[26:30])
        first = member.header_offset + 30 + name + extra
        checksum = 0
        for place in range(0, member.file_size, _PIECE):
            checksum = zlib.crc32(_exactly(file, first + place, min(_PIECE, member.file_size - place)), checksum)
        if checksum != member.CRC:
            raise BadFileError(DAMAGED)
        return _exactly(file, first + begin, length)
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            return _member(archive, member, _LARGEST_READ)[begin : begin + length]
    except _ZIP_ERRORS as error:
        raise error if isinstance(error, BadFileError) else BadFileError(DAMAGED) from error


def _legacy(file: BinaryIO) -> Content:
    """Five pickles, the fifth with the order of the storages; then each storage's count of numbers and the numbers."""
    size = _size(file)
    file.seek(0)
    stream = io.BytesIO(file.read(LARGEST_PICKLE))
    places: dict[str, tuple[int, int]] = {}

    def read(storage: Storage, start: int, count: int) -> Tensor:
        dtype = storage.dtype
        assert isinstance(dtype, torch.dtype)
        begin, stored = places.get(storage.key, (0, 0))
        if start + count > min(storage.count, stored):
            raise BadFileError(f"{DAMAGED}: a tensor is larger than its numbers")
        return _numbers(_exactly(file, begin + start * dtype.itemsize, count * dtype.itemsize), dtype)

    if values_of(stream, read)[0] != _LEGACY_MAGIC:
        raise BadFileError(DAMAGED)
    if values_of(stream, read)[0] != 1001:
        raise BadFileError(DAMAGED)
    system, _ = values_of(stream, read)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise BadFileError("was written on a computer with another byte order. Ask for it in the safetensors format")
    values, storages = values_of(stream, read)
    keys, _ = values_of(stream, read)
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise BadFileError(DAMAGED)
    position = stream.tell()
    for key in map(str, keys):
        (count,) = struct.unpack("<q", _exactly(file, position, 8))
        if key not in storages or key in places or count < 0:
            raise BadFileError(DAMAGED)
        places[key] = (position + 8, count)
        position += 8 + count * ITEM_SIZES[storages[key].dtype]
        if position > size:
            raise BadFileError(f"{DAMAGED}: it ends too early")
    if position != size:
        raise BadFileError(DAMAGED)
    return Content("pickle", values)
