"""Where a graph says its weights lie: found wherever ONNX allows a tensor, and damage is no traceback."""

import pytest

from edgeprune.bundle.external import locations


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, *content: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    body = b"".join(content)
    return varint(number << 3 | 2) + varint(len(body)) + body


def tensor(location: str) -> bytes:
    """A TensorProto's content: an int, a fixed32, and two entries."""
    offset = field(13, field(1, b"offset"), field(2, b"0"))
    return b"\x10\x01\x1d\0\0\0\0" + offset + field(13, field(1, b"location"), field(2, location.encode()))


def initializer(location: str) -> bytes:
    """A model with one weight outside."""
    return field(7, field(5, tensor(location)))


@pytest.mark.parametrize(
    "graph",
    [
        field(5, tensor("x")),
        field(15, field(1, tensor("x"))),
        field(15, field(2, tensor("x"))),
        field(1, field(5, field(5, tensor("x")))),
        field(1, field(5, field(10, tensor("x")))),
        field(1, field(5, field(22, field(1, tensor("x"))))),
        field(1, field(5, field(6, field(5, tensor("x"))))),
        field(1, field(5, field(11, field(1, field(5, field(6, field(5, tensor("x")))))))),
    ],
)
def test_found_wherever_a_tensor_may_be(graph: bytes) -> None:
    assert list(locations(b"\x08\x0a" + field(7, graph))) == ["x"]
    assert list(locations(field(20, field(1, graph)))) == ["x"]


def test_found_in_functions() -> None:
    assert list(locations(field(25, field(7, field(5, field(5, tensor("x"))))))) == ["x"]


def test_the_last_of_two_values_holds() -> None:
    entry = field(13, field(1, b"location"), field(2, b"good"), field(2, b"bad"))
    assert list(locations(field(7, field(5, entry)))) == ["bad"]
    assert list(locations(b"")) == []


@pytest.mark.parametrize("content", [b"\x3a", b"\x3a\x05x", b"\x00\x00", b"\x3b", b"\xff" * 12, b"\x3d\0"])
def test_damage(content: bytes) -> None:
    with pytest.raises(ValueError):
        list(locations(content))
