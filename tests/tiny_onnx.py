"""ONNX files that are written by hand: the package onnx is large, and nothing else here needs it.

The numbers are those of the protocol buffer, `onnx/onnx.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path


def pooling_network(
    path: Path,
    shape: Sequence[int | str] = ("batch", 3, 112, 112),
    *,
    scales: bool = False,
    name: str = "features",
) -> Path:
    """A network whose features are the mean colours of 7 x 7 blocks of its picture: channel by channel, row by row.

    `scales`: it begins with a subtraction of 127.5 and a multiplication by 1/128, as networks from MXNet do.
    """
    nodes, given = [], "picture"
    constants = b""
    if shape[-1] == 3:
        nodes.append(_node("Transpose", [given], "first", _attribute("perm", [0, 3, 1, 2])))
        given = "first"
    if scales:
        constants = b"".join(
            _field(5, _constant(label, value)) for label, value in (("mean", 127.5), ("part", 1 / 128))
        )
        nodes += [_node("Sub", [given, "mean"], "less"), _node("Mul", ["less", "part"], "scaled")]
        given = "scaled"
    side = shape[1] if shape[-1] == 3 else shape[-1]
    assert isinstance(side, int)
    window = [side // 7, side // 7]
    nodes.append(
        _node("AveragePool", [given], "blocks", _attribute("kernel_shape", window), _attribute("strides", window))
    )
    nodes.append(_node("Flatten", ["blocks"], name))
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny") + constants
    graph += _field(11, _value("picture", shape)) + _field(12, _value(name, [shape[0], 147]))
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13)))
    return path


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _node(kind: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    found = b"".join(_field(1, each.encode()) for each in inputs) + _field(2, output.encode())
    return found + _field(4, kind.encode()) + b"".join(_field(5, each) for each in attributes)


def _attribute(name: str, values: Sequence[int]) -> bytes:
    return _field(1, name.encode()) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _constant(name: str, value: float) -> bytes:
    return _number(2, 1) + _field(8, name.encode()) + _field(9, struct.pack("<f", value))


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    sizes = b"".join(
        _field(1, _number(1, size) if isinstance(size, int) else _field(2, size.encode())) for size in shape
    )
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, 1) + _field(2, sizes)))
