"""Rules about any graph: its opset, and whether TensorRT has each operator for the element types it is used with.

Knows no operator's own traps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.lint import operators
from edgeprune.lint.finding import Finding, Subject, called
from edgeprune.lint.shapes import DTYPES
from edgeprune.lint.view import argument, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

REFUSED = frozenset({"fp64", "string", "complex64", "complex128", "other"})
"""Element types no engine of ours may hold. TensorRT narrows fp64 to fp32, clamping; the rest it lacks."""

_DATA: dict[str, tuple[int, ...]] = {"Where": (1,), "OneHot": (2,), "If": (), "Loop": (), "Scan": ()}
_MADE = ("Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "Cast", "CastLike")
_EXTENSIONS = {"Attention": {"TRT_decomposable", "TRT_normalization_op"}}


def opset_range(subject: Subject) -> Iterator[Finding]:
    """onnx-tensorrt's ``docs/operators.md`` names the opsets of each version; TensorRT-RTX 1.7 parsed up to 26."""
    least, most = operators.opsets(subject.flavour, subject.version)
    if not least <= subject.view.opset <= most:
        yield Finding(
            "opset-range",
            "",
            f"opset {subject.view.opset}; {subject.library} reads {least} to {most}: export another dialect",
        )


def operator_domain(subject: Subject) -> Iterator[Finding]:
    """Outside the default domain a node is a plugin's; those of com.microsoft are not in the TensorRT-RTX wheel."""
    for node in subject.view.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield Finding(
                "operator-domain",
                called(node),
                f"operator {node.op_type} is of domain {node.domain!r}; expected ONNX's own: {subject.library} would "
                "need a plugin for it",
            )


def operator_unknown(subject: Subject) -> Iterator[Finding]:
    """The tables in ``operators.py``: NonZero is not in TensorRT-RTX, Compress and Unique are nowhere."""
    for node in subject.view.nodes:
        if node.domain not in ("", "ai.onnx"):
            continue
        first = operators.since(node.op_type, subject.flavour)
        if first is not None and subject.version >= first:
            continue
        when = "no version has it" if first is None else f"{'.'.join(map(str, first))} was the first to have it"
        yield Finding(
            "operator-unknown",
            called(node),
            f"operator {node.op_type} does not exist in {subject.library}, {when}: export the base dialect, or "
            "write it in operators that exist",
        )


def operator_dtype(subject: Subject) -> Iterator[Finding]:
    """The types that ``docs/operators.md`` gives each operator."""
    for node in subject.view.nodes:
        known = operators.dtypes(node.op_type, subject.flavour, subject.version)
        if node.domain not in ("", "ai.onnx") or not known:
            continue
        for name in _data(node):
            dtype = subject.dtype(name)
            if dtype is not None and dtype not in known and dtype not in REFUSED:
                yield Finding(
                    "operator-dtype",
                    called(node),
                    f"{node.op_type} of {dtype} ({name!r}); {subject.library} has it for {', '.join(sorted(known))}: "
                    "cast before it",
                )
                break


def dtype_refused(subject: Subject) -> Iterator[Finding]:
    """TensorRT turns fp64 into fp32, clamps its values and says nothing; strings, sequences and complex it lacks."""
    for name, tensor in subject.view.initializers.items():
        if DTYPES.get(tensor.data_type) in REFUSED:
            yield _refused(name, str(DTYPES[tensor.data_type]), "")
    for name in subject.view.inputs:
        dtype = subject.dtype(name)
        if dtype in REFUSED or not subject.view.inputs[name].type.HasField("tensor_type"):
            yield _refused(name, dtype or "other", "")
    for node in subject.view.nodes:
        for name in node.output:
            if subject.dtype(name) in REFUSED:
                yield _refused(name, str(subject.dtype(name)), called(node))


def attribute_ignored(subject: Subject) -> Iterator[Finding]:
    """The parser reads the attributes it knows and passes over the rest: ``causal_kind`` on Attention does nothing.

    Those of ``_EXTENSIONS`` are TensorRT's own and read, though other runtimes refuse them.
    """
    from onnx import defs

    for node in subject.view.nodes:
        if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type):
            continue
        try:
            known = set(defs.get_schema(node.op_type, subject.view.opset, "").attributes)
        except defs.SchemaError:  # newer than the opset, which operator-unknown or the ONNX checker says
            continue
        for entry in node.attribute:
            if entry.name not in known | _EXTENSIONS.get(node.op_type, set()):
                yield Finding(
                    "attribute-ignored",
                    called(node),
                    f"{node.op_type} has no attribute {entry.name!r} at opset {subject.view.opset}, and TensorRT "
                    "ignores it without a word: remove it",
                )


def axes_constant(subject: Subject) -> Iterator[Finding]:
    """``docs/operators.md`` of every version: axes of reductions must be an initializer."""
    for node in subject.view.nodes:
        if node.op_type.startswith("Reduce") and subject.given(node, 1):
            yield Finding(
                "axes-constant",
                called(node),
                f"the axes of {node.op_type} are computed ({argument(node, 1)!r}); expected an initializer: fold "
                "constants, or fix the axes",
            )


def _data(node: NodeProto) -> list[str]:
    """Names of the values whose element type the table speaks of."""
    read = [argument(node, index) for index in _DATA.get(node.op_type, (0,))]
    if node.op_type in ("ConstantOfShape", "EyeLike"):
        read = []
    made = [str(name) for name in node.output[:1]] if node.op_type in _MADE else []
    if node.op_type == "Constant" and attribute(node, "value_string") is not None:
        return []
    return [name for name in read + made if name]


def _refused(name: str, dtype: str, node: str) -> Finding:
    what = {"other": "a sequence, map or optional"}.get(dtype, f"of {dtype}")
    return Finding("dtype-refused", node, f"value {name!r} is {what}; expected fp32, fp16, bf16, an integer or bool")
