"""Pickles of torch.save, read without running anything: an own walk over the opcodes that token files are made of.

Neither `pickle` nor `torch.load(weights_only=True)` is used. Both obey a file that asks for gigabytes, for hashes that take
for ever or for a recursion that ends the interpreter. The opcodes are parsed by Python's `pickletools`. What `torch.save`
writes is in PyTorch's `torch/serialization.py` (`_save`, `_legacy_save`) and `torch/_utils.py` (`_rebuild_tensor_v2`).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..text import quoted
from .stored import BadFileError, StoredTensor

MOST_OPCODES = 100_000
"""A token takes about a hundred, a LoRA some ten thousand."""

LARGEST_INTEGER_IN_BITS = 128

_DTYPES: dict[str, torch.dtype | str] = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
    "torch ComplexFloatStorage": "C64",
    "torch ComplexDoubleStorage": "C128",
}
ITEM_SIZES: dict[torch.dtype | str | None, int] = {
    torch.float32: 4,
    torch.float64: 8,
    torch.float16: 2,
    torch.bfloat16: 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
    "C128": 16,
}

_CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES"),
}


class ForeignCodeError(BadFileError):
    """A pickle asks for something that no token file holds, and that might run."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function; nothing is imported."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The numbers behind tensors: `count` of `dtype`, kept under `key` beside the pickle."""

    dtype: torch.dtype | str
    key: str
    count: int


@dataclass
class Module:
    """A `torch.nn.ParameterDict`, as the original textual inversion writes its vectors."""

    state: Any = None


ReadStorage = Callable[[Storage, int, int], Tensor]
_MARK = object()


def values_of(stream: BinaryIO, read: ReadStorage) -> tuple[Any, dict[str, Storage]]:
    """The value of the pickle that starts here, and the storages that it names, by their keys.

    Values are str, bytes, numbers, bool, None, lists, tuples, dictionaries, `StoredTensor`, `Module`. `read` gives numbers of a
    storage. Raises BadFileError if the pickle is damaged or holds anything else.
    """
    machine = _Machine(read)
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            count += 1
            if count > MOST_OPCODES:
                raise BadFileError("is no token file: it holds far too many values")
            machine.obey(opcode.name, argument)
    except BadFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, SyntaxError) as error:
        raise BadFileError("is damaged or no token file") from error
    if len(machine.stack) != 1:
        raise BadFileError("is damaged or no token file")
    return machine.stack[0], machine.storages


class _Machine:
    """The stack and the memo of one pickle. An opcode that is not here is refused."""

    def __init__(self, read: ReadStorage) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.read = read

    def obey(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            if isinstance(argument, int) and argument.bit_length() > LARGEST_INTEGER_IN_BITS:
                raise BadFileError("is damaged or no token file: it holds a number of too many digits")
            stack.append(argument)
        elif name in ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            items = self._marked() if name == "TUPLE" else self._last({"1": 1, "2": 2, "3": 3}.get(name[-1], 0))
            stack.append(tuple(items))
        elif name in ("EMPTY_LIST", "LIST"):
            stack.append(self._marked() if name == "LIST" else [])
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else self._last(1)
            self._top(list).extend(items)
        elif name in ("EMPTY_DICT", "DICT"):
            stack.append(_pairs(self._marked()) if name == "DICT" else {})
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else self._last(2)
            self._top(dict).update(_pairs(items))
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = self._last(2)
            stack.append(_known(f"{module} {attribute}"))
        elif name == "BINPERSID":
            stack.append(self._storage(*self._last(1)))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self._last(2)
            stack.append(self._call(function.name, *arguments))
        elif name == "BUILD":
            (state,) = self._last(1)
            top = stack[-1]
            if isinstance(top, Module):
                top.state = state
            elif not isinstance(top, dict):  # an OrderedDict of an older torch keeps attributes beside its items
                raise BadFileError("is damaged or no token file")
        else:
            raise ForeignCodeError("holds more than tensors")

    def _last(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :] if count else []
        if len(items) < count or any(item is _MARK for item in items):
            raise BadFileError("is damaged or no token file")
        del self.stack[len(self.stack) - count :]
        return items

    def _marked(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise BadFileError("is damaged or no token file")
        return self.stack[-1]

    def _storage(self, identity: tuple[Any, ...]) -> Storage | Global:
        if identity[0] == "module" and isinstance(identity[1], Global):  # an old file keeps a class with its source
            return identity[1]
        what, kind, key, _, count = identity[:5]
        if what != "storage" or not isinstance(key, str | int) or not isinstance(count, int) or count < 0:
            raise BadFileError("is damaged or no token file")
        if len(identity) > 5 and identity[5] is not None:
            raise BadFileError("is of a version of PyTorch before 0.4. Ask for it in the safetensors format")
        storage = Storage(_DTYPES[kind.name], str(key), count)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise BadFileError("is damaged or no token file")
        return storage

    def _call(self, function: str, *arguments: Any) -> Any:
        if function == "collections OrderedDict":
            return dict(map(_pair, arguments[0] if arguments else []))
        if function == "torch.nn.modules.container ParameterDict":
            return Module()
        if function in ("__builtin__ set", "builtins set"):
            return []
        if function == "torch Size":
            return tuple(arguments[0])
        if function == "torch._utils _rebuild_parameter":
            if not isinstance(arguments[0], StoredTensor):
                raise BadFileError("is damaged or no token file")
            return arguments[0]
        if function in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
            storage, start, shape, strides = arguments[:4]
            sizes = [start, *shape, *strides]
            if not all(isinstance(size, int) and size >= 0 for size in sizes) or len(shape) != len(strides):
                raise BadFileError("holds a tensor that is not dense")
            return StoredTensor(
                storage.dtype,
                tuple(shape),
                tuple(strides),
                start,
                lambda start, count: self.read(storage, start, count),
            )
        raise ForeignCodeError("holds more than tensors")


_GLOBALS = {
    *_DTYPES,
    "collections OrderedDict",
    "torch.nn.modules.container ParameterDict",
    "__builtin__ set",
    "builtins set",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",
}


def _known(name: str) -> Global:
    if name in _GLOBALS:
        return Global(name)
    if name.startswith(("torch._utils _rebuild", "torch.sparse", "torch.serialization _get_layout")):
        raise BadFileError(f"holds a tensor that is not dense ({quoted(name.split()[-1], 60)})")
    raise ForeignCodeError("holds more than tensors")


def _pair(pair: Any) -> tuple[Any, Any]:
    key, value = pair
    # Anything else as a key could take for ever to hash.
    if not isinstance(key, str | int | bytes):
        raise BadFileError("is damaged or no token file")
    return key, value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise BadFileError("is damaged or no token file")
    return dict(map(_pair, zip(items[::2], items[1::2], strict=True)))
