"""Where a graph says its weights lie, read from the ONNX file without the onnx package.

A device has neither onnx nor protobuf, and a runtime that opens a hostile graph would follow its words out of the
bundle. So this walks the protobuf wire format, down the few fields that lead to a tensor, and looks at no other.
"""

from __future__ import annotations

from collections.abc import Iterator

_TENSOR, _GRAPH, _ENTRY = "tensor", "graph", "entry"

_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: _GRAPH, 20: "training", 25: "function"},
    "training": {1: _GRAPH, 2: _GRAPH},
    "function": {7: "node", 11: "attribute"},
    _GRAPH: {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
}
"""Per message, the fields of onnx.proto that lead to a tensor's external data, and the message each one holds."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def locations(content: bytes) -> Iterator[str]:
    """Every file that a tensor of the graph names as the place of its data.

    Args:
        content: of the .onnx file.

    Raises:
        ValueError: it is no protobuf message.
    """
    waiting = [("model", memoryview(content))]
    while waiting:
        kind, message = waiting.pop()
        if kind == _ENTRY:
            pair = dict(_fields(message))  # where a field comes twice, the last one holds, as in any parser
            if bytes(pair.get(1, b"")) == b"location":
                yield bytes(pair.get(2, b"")).decode("utf-8")
            continue
        inner = _FIELDS[kind]
        waiting += [(inner[number], value) for number, value in _fields(message) if number in inner]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of a message's length-delimited fields; any other is stepped over."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise ValueError(f"field {number} does not exist")
        if wire == _VARINT:
            _, position = _varint(message, position)
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:  # groups, which ONNX never had
            raise ValueError(f"field {number} has wire type {wire}")
        if size > end - position:
            raise ValueError(f"field {number} is cut short")
        if wire == _BYTES:
            yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("a number is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than 64 bits")
