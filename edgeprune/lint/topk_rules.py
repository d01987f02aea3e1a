"""Rules about TopK, whose K decides how many visual rows stay: TensorRT limits it and checks little of it.

Sizes come from the points of the profile; what lies between them is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.lint.finding import Finding, Subject, called
from edgeprune.lint.shapes import Point
from edgeprune.lint.view import argument, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

LIMIT = 3840


def topk_limit(subject: Subject) -> Iterator[Finding]:
    """TensorRT's TopK keeps at most 3840: it refuses more as a constant or at kMIN, and builds more at kMAX alone.

    The limit is in ``docs/operators.md`` and NVIDIA/TensorRT issue 4244; what is built beyond it fails at run time.
    """
    for node, point, k in _counts(subject):
        if k > LIMIT:
            yield Finding(
                "topk-limit",
                called(node),
                f"K is {k} at {point.place}; TensorRT's limit is {LIMIT}: lower the bounds that K is computed from",
            )
            return


def topk_axis(subject: Subject) -> Iterator[Finding]:
    """K beyond the axis is undefined; TensorRT looks at kMIN and kOPT and takes it at kMAX (TensorRT-RTX 1.7)."""
    for node, point, k in _counts(subject):
        shape, axis = point.shapes.get(node.input[0]), attribute(node, "axis", -1)
        if shape and -len(shape) <= axis < len(shape) and k > shape[axis]:
            yield Finding(
                "topk-axis",
                called(node),
                f"K is {k} at {point.place}, where the axis has {shape[axis]}; expected no more: make the bounds agree",
            )
            return


def topk_sorted(subject: Subject) -> Iterator[Finding]:
    """``docs/operators.md``: sorted must be 1. TensorRT-RTX 1.7 takes 0 and says nothing of the order."""
    for node in subject.nodes("TopK"):
        if attribute(node, "sorted", 1) != 1:
            yield Finding("topk-sorted", called(node), "sorted is 0; TensorRT knows only 1: leave it out")


def topk_source(subject: Subject) -> Iterator[Finding]:
    """K must be a shape tensor: TensorRT-RTX 1.7's parser fails an assertion on one computed from a float input.

    One that is computed from integer data it builds, but then no bounds say how many rows there may be.
    """
    for node in subject.nodes("TopK"):
        for name in sorted(subject.view.ancestors(argument(node, 1))):
            declared = subject.view.inputs[name].type.tensor_type
            if declared.elem_type in (6, 7) and len(declared.shape.dim) <= 1:
                continue  # a count, or counts: profile_rules.py asks for their bounds
            what = "a float" if declared.elem_type not in (6, 7, 9) else "data, not a count"
            yield Finding(
                "topk-source",
                called(node),
                f"K is computed from input {name!r}, which is {what}; expected an integer scalar input, a shape or a "
                "constant: feed the count itself",
            )
            break


def _counts(subject: Subject) -> Iterator[tuple[NodeProto, Point, int]]:
    for node in subject.nodes("TopK"):
        for point in subject.points:
            value = point.values.get(argument(node, 1))
            value = subject.view.value(argument(node, 1)) if value is None else value
            if value is not None and value.size == 1:
                yield node, point, int(value.reshape(-1)[0])
