"""Rules about single operators that a parser takes in some form only, many of them fixed in a later version.

Where a version is named, it is the one whose notes in NVIDIA/TensorRT's CHANGELOG say that the form is read; the rest
is in onnx-tensorrt's ``docs/operators.md`` or was tried with TensorRT-RTX 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.lint.finding import Finding, Subject, called
from edgeprune.lint.view import argument, attribute

if TYPE_CHECKING:
    from onnx import NodeProto


def scatter_reduction(subject: Subject) -> Iterator[Finding]:
    """No version reduces in ScatterND; ScatterElements reduces through a plugin that TensorRT-RTX lacks."""
    operators = ("ScatterND", "ScatterElements") if subject.flavour == "tensorrt-rtx" else ("ScatterND",)
    for node in subject.nodes(*operators):
        reduction = attribute(node, "reduction", "none")
        if reduction != "none":
            yield Finding(
                "scatter-reduction",
                called(node),
                f"{node.op_type} with reduction {reduction!r}; {subject.library} has 'none' alone: sum by MatMul with "
                "a one-hot matrix",
            )


def scatter_opset(subject: Subject) -> Iterator[Finding]:
    """ScatterND of opset 18 and later is read since 10.9."""
    if subject.before(10, 9) and subject.view.opset >= 18:
        for node in subject.nodes("ScatterND"):
            yield Finding(
                "scatter-opset",
                called(node),
                f"ScatterND at opset {subject.view.opset}; {subject.library} reads it up to 17: use Gather, Where or "
                "MatMul",
            )


def onehot_depth(subject: Subject) -> Iterator[Finding]:
    """The builder says that depth must be a build time constant; so does ``docs/operators.md``."""
    for node in subject.nodes("OneHot"):
        if subject.value(argument(node, 1)) is None:
            yield Finding(
                "onehot-depth",
                called(node),
                f"depth is computed ({argument(node, 1)!r}); TensorRT needs a constant: compare with a Range by Equal",
            )


def resize_antialias(subject: Subject) -> Iterator[Finding]:
    """The parser says "Antialiasing is not supported currently." and so does ``docs/operators.md``."""
    for node in subject.nodes("Resize"):
        if attribute(node, "antialias", 0):
            yield Finding(
                "resize-antialias", called(node), "antialias is 1; TensorRT has only 0: resize on the host, before it"
            )


def cumsum_axis(subject: Subject) -> Iterator[Finding]:
    """The axis must be an initializer, and since 10.8 at least computable when the engine is built."""
    for node in subject.nodes("CumSum"):
        name = argument(node, 1)
        if subject.value(name) is None or (subject.before(10, 8) and not subject.view.constant(name)):
            yield Finding(
                "cumsum-axis",
                called(node),
                f"the axis is computed ({name!r}); {subject.library} needs an initializer: fold constants, or fix it",
            )


def loop_scan(subject: Subject) -> Iterator[Finding]:
    """``docs/operators.md`` of 10.6 and 10.15: scan output length cannot be dynamic. TensorRT-RTX 1.7 builds it."""
    if not subject.before(11):
        return
    for node in subject.nodes("Loop"):
        carried = max(len(node.input) - 2, 0)
        scanned = [name for name in node.output[carried:] if name]
        if scanned and subject.value(argument(node, 0)) is None:
            yield Finding(
                "loop-scan",
                called(node),
                f"scan output {scanned[0]!r} has as many entries as the Loop has turns, which is not fixed; "
                f"{subject.library} needs a fixed length: carry a buffer of fixed size, then Slice",
            )


def pow_exponent(subject: Subject) -> Iterator[Finding]:
    """Pow with an integer exponent is read since 10.8."""
    for node in subject.nodes("Pow") if subject.before(10, 8) else ():
        dtype = subject.dtype(argument(node, 1))
        if dtype is not None and "int" in dtype:
            yield Finding(
                "pow-exponent",
                called(node),
                f"the exponent is {dtype}; {subject.library} needs the base's type: cast it, or multiply",
            )


def squeeze_axes(subject: Subject) -> Iterator[Finding]:
    """Axes that are no initializer are read since 10.7, and after it they must still come out constant."""
    for node in subject.nodes("Squeeze", "Unsqueeze"):
        name = argument(node, 1)
        if name and (subject.value(name) is None or (subject.before(10, 7) and not subject.view.constant(name))):
            yield Finding(
                "squeeze-axes",
                called(node),
                f"the axes of {node.op_type} are computed ({name!r}); {subject.library} needs "
                f"{'an initializer' if subject.before(10, 7) else 'a constant'}: fold constants, or use Reshape",
            )


def squeeze_implicit(subject: Subject) -> Iterator[Finding]:
    """Squeeze without axes is read since 11.5 where the shape is dynamic, and by TensorRT-RTX 1.7.

    Before, the parser says "Cannot infer squeeze dimensions from a dynamic shape!".
    """
    for node in subject.nodes("Squeeze") if subject.before(11, 5) else ():
        omitted = not argument(node, 1) and attribute(node, "axes") is None
        if omitted and subject.varies(argument(node, 0)):
            yield Finding(
                "squeeze-implicit",
                called(node),
                f"Squeeze of {argument(node, 0)!r} names no axes, and its shape is dynamic; {subject.library} cannot "
                "tell which to drop: give axes",
            )


def pad_axes(subject: Subject) -> Iterator[Finding]:
    """Pad with its axes as an input is read since 10.4."""
    for node in subject.nodes("Pad") if subject.before(10, 4) else ():
        if argument(node, 3):
            yield Finding(
                "pad-axes",
                called(node),
                f"axes are given ({argument(node, 3)!r}); {subject.library} pads all axes: give pads for each of them",
            )


def einsum_form(subject: Subject) -> Iterator[Finding]:
    """Ellipsis, diagonals and broadcasting are read since 10.12."""
    for node in subject.nodes("Einsum") if subject.before(10, 12) else ():
        equation = str(attribute(node, "equation", ""))
        terms = [term.strip() for term in equation.split("->")[0].split(",")]
        if "..." in equation:
            what = "an ellipsis"
        elif any(len(set(term)) < len(term) for term in terms):
            what = "a letter twice in one term"
        elif _broadcasts(subject, node, terms):
            what = "an axis of 1 against a longer one"
        else:
            continue
        yield Finding(
            "einsum-form",
            called(node),
            f"equation {equation!r} has {what}; {subject.library} lacks that: use MatMul and Transpose",
        )


def groupnorm_opset(subject: Subject) -> Iterator[Finding]:
    """GroupNormalization of opset 21 is read since 10.9."""
    if subject.before(10, 9) and subject.view.opset >= 21:
        for node in subject.nodes("GroupNormalization"):
            yield Finding(
                "groupnorm-opset",
                called(node),
                f"GroupNormalization at opset {subject.view.opset}; {subject.library} reads it up to 20: export at 18",
            )


def _broadcasts(subject: Subject, node: NodeProto, terms: list[str]) -> bool:
    """Whether one letter stands for 1 and for more at the same point."""
    for point in subject.points:
        sizes: dict[str, set[int]] = {}
        for name, term in zip(node.input, terms, strict=False):
            for letter, size in zip(term, point.shapes.get(name) or (), strict=False):
                sizes.setdefault(letter, set()).add(size)
        if any(len(found) > 1 and 1 in found for found in sizes.values()):
            return True
    return False
