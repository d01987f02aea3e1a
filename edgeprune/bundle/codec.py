"""Frozen dataclasses to JSON and back, strictly: an unknown key, a missing key or a wrong type is an error.

Only a field that says so may be missing: ``field(default=..., metadata=MAY_LACK)``, for what older files do not have;
without a default it is None then.
It knows nothing of what the values mean; each dataclass validates its own in ``__post_init__``.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from edgeprune.errors import BundleError

T = TypeVar("T")

MAY_LACK = {"may_lack": True}
"""Metadata of a dataclass field whose key may be missing in JSON; its default then stands."""


def encode(value: Any) -> Any:
    """Turn a dataclass into what ``json.dumps`` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(kind: type[T], value: Any, where: str) -> T:
    """Read a ``kind`` from parsed JSON.

    Args:
        kind: a dataclass.
        value: what ``json.loads`` gave.
        where: path of the value, for messages ("edgeprune.json: graphs[2]").

    Raises:
        BundleError: a key is unknown or missing, or a value has another type.
    """
    result: T = _decode(kind, value, where)
    return result


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(typing.get_args(kind), value, where)
    if origin is typing.Literal:
        if value in typing.get_args(kind):
            return value
        raise _mismatch(where, " or ".join(map(repr, typing.get_args(kind))), value)
    if origin is tuple:
        return _tuple(typing.get_args(kind), value, where)
    if origin is dict:
        return _mapping(typing.get_args(kind)[1], value, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return _float(value, where)
    if kind is types.NoneType:
        kind_ok = value is None
    else:
        kind_ok = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not kind_ok:
        raise _mismatch(where, "null" if kind is types.NoneType else kind.__name__, value)
    return value


def _float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _mismatch(where, "a number below 1e308", value) from None


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(where, "an object", value)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    known = list(fields)
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise BundleError(f"{where}: unknown key {key!r}{hint}")
    for name, field in fields.items():
        if name not in value and "may_lack" not in field.metadata:
            raise BundleError(f"{where}: key {name!r} is missing")
    have = {name: _decode(hints[name], value[name], f"{where}.{name}") for name in known if name in value}
    none = {name: None for name, field in fields.items() if name not in value and field.default is dataclasses.MISSING}
    return kind(**have, **none)


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise _mismatch(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _mismatch(where, f"a list of {len(kinds)}", value)
    return tuple(_decode(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))


def _mapping(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(where, "an object", value)
    return {key: _decode(kind, item, f"{where}.{key}") for key, item in value.items()}


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The member whose JSON type fits; where it is the only one, its own message about what is wrong inside."""
    fitting = [kind for kind in kinds if _fits(kind, value)]
    if not fitting:
        raise _mismatch(where, " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds), value)
    return _decode(fitting[0], value, where)


def _fits(kind: Any, value: Any) -> bool:
    if kind is types.NoneType:
        return value is None
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        return isinstance(value, dict)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list)
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _mismatch(where: str, expected: str, value: Any) -> BundleError:
    shown = repr(value)
    return BundleError(f"{where} is {shown if len(shown) < 60 else shown[:57] + '...'}; expected {expected}")
