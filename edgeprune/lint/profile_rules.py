"""Rules about the profile: whether its bounds fit the inputs of the graph. TensorRT checks few of them.

Whether the bounds fit a device's memory or a model's context is not looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.bundle.build import Bounds
from edgeprune.lint.finding import Finding, Subject
from edgeprune.lint.shapes import DTYPES

if TYPE_CHECKING:
    from onnx import ValueInfoProto


def profile_name(subject: Subject) -> Iterator[Finding]:
    """TensorRT-RTX 1.7 takes bounds for a name that the network lacks; the input that was meant then has none."""
    for bounds in subject.profile:
        if bounds.name not in subject.view.inputs:
            yield _finding(
                "profile-name", f"bounds of {bounds.name!r}, which is no input; inputs are", *subject.view.inputs
            )


def profile_missing(subject: Subject) -> Iterator[Finding]:
    """An input whose shape or contents are free needs bounds: without them the build fails after the parse."""
    for name, value in subject.view.inputs.items():
        if subject.bounds(name) is not None:
            continue
        free = [dim for dim in _dims(value) if not isinstance(dim, int)]
        if free:
            yield _finding("profile-missing", f"input {name!r} has no bounds, but dynamic axes:", *map(str, free))
        elif _counts(subject, name):
            yield _finding("profile-missing", f"input {name!r} has no bounds, but shapes depend on its value")


def profile_dtype(subject: Subject) -> Iterator[Finding]:
    """Bounds record the element type that is bound at run time; a wrong one reads memory of another size."""
    for bounds, value in _matched(subject):
        dtype = DTYPES.get(value.type.tensor_type.elem_type)
        if dtype != bounds.dtype:
            yield _finding("profile-dtype", f"bounds of {bounds.name!r} are for {bounds.dtype}; the input is {dtype}")


def profile_rank(subject: Subject) -> Iterator[Finding]:
    """As many numbers as the input has axes, or, where its values are bounded, elements."""
    for bounds, value in _matched(subject):
        dims = _dims(value)
        count = len(dims) if bounds.kind == "shape" else _elements(dims)
        if count is not None and count != len(bounds.least):
            noun = "axes" if bounds.kind == "shape" else "elements"
            yield _finding(
                "profile-rank",
                f"bounds of {bounds.name!r} have {len(bounds.least)} numbers; the input has {count} {noun}",
            )


def profile_axis(subject: Subject) -> Iterator[Finding]:
    """An axis with a fixed size has that size at all three points."""
    for bounds, value in _matched(subject):
        for axis, dim in enumerate(_dims(value)):
            if bounds.kind != "shape" or not isinstance(dim, int) or axis >= len(bounds.least):
                continue
            given = bounds.least[axis], bounds.usual[axis], bounds.most[axis]
            if given != (dim, dim, dim):
                yield _finding(
                    "profile-axis", f"bounds of {bounds.name!r} give axis {axis} {given}; the graph fixes it to {dim}"
                )


def profile_scalar(subject: Subject) -> Iterator[Finding]:
    """Values are bounded for integer scalars, ``[]`` or ``[1]``, alone."""
    for bounds, value in _matched(subject):
        dims, dtype = _dims(value), DTYPES.get(value.type.tensor_type.elem_type)
        if bounds.kind == "values" and (dtype not in ("int32", "int64") or dims not in ([], [1])):
            yield _finding(
                "profile-scalar",
                f"bounds of {bounds.name!r} are values, but it is {dtype} of shape {dims}; expected an integer scalar: "
                "bound its shape",
            )


def profile_values(subject: Subject) -> Iterator[Finding]:
    """Where shapes depend on an input's value its values need bounds: TensorRT has ``set_shape_input`` for them.

    The bounds of its shape are refused at build with "static dimensions that don't match", which names no remedy.
    """
    for bounds, _ in _matched(subject):
        if bounds.kind == "shape" and _counts(subject, bounds.name):
            yield _finding(
                "profile-values",
                f"bounds of {bounds.name!r} are a shape, but shapes depend on its value: bound its values",
            )


def profile_symbol(subject: Subject) -> Iterator[Finding]:
    """Axes of one name have one size at run time, so at each point too: else TensorRT tunes for what cannot be."""
    seen: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for bounds, value in _matched(subject):
        for axis, dim in enumerate(_dims(value)):
            if bounds.kind != "shape" or not isinstance(dim, str) or axis >= len(bounds.least) or dim == "?":
                continue
            given = bounds.least[axis], bounds.usual[axis], bounds.most[axis]
            other, expected = seen.setdefault(dim, (bounds.name, given))
            if given != expected:
                yield _finding(
                    "profile-symbol",
                    f"axis {dim!r} is {given} in the bounds of {bounds.name!r} and {expected} in those of {other!r}; "
                    "expected one range",
                )


def _matched(subject: Subject) -> Iterator[tuple[Bounds, ValueInfoProto]]:
    for bounds in subject.profile:
        value = subject.view.inputs.get(bounds.name)
        if value is not None:
            yield bounds, value


def _dims(value: ValueInfoProto) -> list[int | str]:
    """Sizes, or names of axes that are free; "?" for those without a name."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def _elements(dims: list[int | str]) -> int | None:
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None


def _counts(subject: Subject, name: str) -> bool:
    """Whether an input is an integer scalar, or a short list of fixed length, that shapes are computed from."""
    value = subject.view.inputs[name]
    dims = _dims(value)
    integer = DTYPES.get(value.type.tensor_type.elem_type) in ("int32", "int64")
    return integer and len(dims) <= 1 and _elements(dims) is not None and name in subject.view.shape_inputs


def _finding(rule: str, text: str, *names: str) -> Finding:
    return Finding(rule, "", f"{text} {', '.join(names)}".rstrip())
