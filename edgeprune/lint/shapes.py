"""What every value of a graph is at the three points of a profile: shape, element type, and content where it is small.

At a point all sizes are numbers, so a graph's shape arithmetic can be computed instead of reasoned about. Three cases,
in this order, per node:

1. ONNX's own inference for that operator, given the contents that are known, yields element types and shapes.
2. Where all inputs are known arrays and the output is small, the node is computed.
3. What neither yields is taken from the graph's own annotations, or stays unknown: None, never a guess.

Control flow is not entered. Nothing here knows TensorRT; weights without bytes have a shape and no content.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgeprune.bundle.build import Bounds
from edgeprune.lint.view import View, nested

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TypeProto

Place = Literal["least", "usual", "most"]

SMALL = 64
"""Elements of the largest content that is kept: enough for shapes, axes and counts."""

DTYPES: dict[int, str] = {
    1: "fp32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "fp16", 11: "fp64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bf16", 17: "fp8",
    18: "fp8-e4m3fnuz", 19: "fp8-e5m2", 20: "fp8-e5m2fnuz", 21: "uint4", 22: "int4", 23: "fp4", 24: "fp8-e8m0",
    25: "uint2", 26: "int2",
}  # fmt: skip
"""Words for ONNX's ``TensorProto.DataType``; "fp8" is E4M3FN, the one TensorRT has."""

BITS: dict[str, int] = {
    "fp64": 64, "int64": 64, "uint64": 64, "complex64": 64, "complex128": 128, "fp32": 32, "int32": 32, "uint32": 32,
    "fp16": 16, "bf16": 16, "int16": 16, "uint16": 16, "int4": 4, "uint4": 4, "fp4": 4, "int2": 2, "uint2": 2,
}  # fmt: skip
"""Of one element; 8 for what is not listed, strings excepted."""

_GROWS = ("ConstantOfShape", "Expand", "Range", "Tile", "Pad", "Resize", "OneHot")
_SAMPLES = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass
class Point:
    """A graph at one point of its profile; every name of the main graph is a key of ``shapes`` and ``dtypes``.

    Attributes:
        place: which of the three.
        shapes: None where unknown.
        dtypes: a word of ``DTYPES``, "other" for sequences and the like, None where unknown.
        values: contents of at most ``SMALL`` elements.
    """

    place: Place
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, str | None] = field(default_factory=dict)
    values: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def nbytes(self, name: str) -> int | None:
        """Bytes of a value, None where its shape or element type is unknown."""
        shape, dtype = self.shapes.get(name), self.dtypes.get(name)
        if shape is None or dtype in (None, "other", "string"):
            return None
        return (math.prod(shape) * BITS.get(str(dtype), 8) + 7) // 8


def points(model: ModelProto, profile: Sequence[Bounds]) -> tuple[Point, Point, Point]:
    """The graph at kMIN, kOPT and kMAX of a profile, all inputs at the same of the three.

    Args:
        model: loaded without external data, or with; not changed.
        profile: bounds per input; inputs of fixed shape need none, a name that is no input is passed over.
    """
    view = View(model)
    kernels: dict[tuple[str, ...], Any] = {}
    least, usual, most = (_Evaluation(view, profile, place, kernels).run() for place in get_args(Place))
    return least, usual, most


class _Evaluation:
    """One walk over the nodes, in the order they are stored."""

    def __init__(
        self, view: View, profile: Sequence[Bounds], place: Place, kernels: dict[tuple[str, ...], Any]
    ) -> None:
        self.view = view
        self.point = Point(place)
        self.types: dict[str, TypeProto] = {}
        self.symbols: dict[str, int] = {}
        self.kernels = kernels  # per node, shared by the points: making one costs more than running it
        self.bounds = {bounds.name: bounds for bounds in profile}

    def run(self) -> Point:
        for name, tensor in self.view.initializers.items():
            self._set(name, tensor.data_type, tuple(tensor.dims))
            value = self.view.value(name) if math.prod(tensor.dims) <= SMALL else None
            if value is not None:
                self.point.values[name] = value
        for name in self.view.inputs:
            self._input(name)
        for node in self.view.graph.node:
            self._infer(node)
            if not any(nested(node)):
                self._compute(node)
        return self.point

    def _input(self, name: str) -> None:
        import numpy as np

        declared, bounds = self.view.inputs[name].type, self.bounds.get(name)
        shape = self._declared_shape(declared)
        if bounds is not None:
            given = getattr(bounds, self.point.place)
            if bounds.kind == "shape":
                shape = given
                self._bind(declared, given)
            elif shape is not None and math.prod(shape) == len(given) <= SMALL:
                dtype = np.int32 if declared.tensor_type.elem_type == 6 else np.int64
                self.point.values[name] = np.array(given, dtype=dtype).reshape(shape)
        self._set(name, declared.tensor_type.elem_type, shape)

    def _bind(self, declared: TypeProto, given: tuple[int, ...]) -> None:
        dims = declared.tensor_type.shape.dim
        for dim, size in zip(dims, given, strict=False):  # a rank that differs is the lint's to report
            if dim.dim_param:
                self.symbols.setdefault(dim.dim_param, size)

    def _declared_shape(self, declared: TypeProto) -> tuple[int, ...] | None:
        tensor = declared.tensor_type
        if not declared.HasField("tensor_type") or not tensor.HasField("shape"):
            return None
        sizes = [
            dim.dim_value if dim.HasField("dim_value") else self.symbols.get(dim.dim_param, -1)
            for dim in tensor.shape.dim
        ]
        return None if any(size < 0 for size in sizes) else tuple(sizes)

    def _set(self, name: str, dtype: int, shape: tuple[int, ...] | None) -> None:
        from onnx import helper

        self.point.shapes[name] = shape
        self.point.dtypes[name] = DTYPES.get(dtype)
        if dtype:
            self.types[name] = helper.make_tensor_type_proto(dtype, shape)

    def _infer(self, node: NodeProto) -> None:
        """Cases 1 and 3."""
        found = self._inferred(node)
        for name in filter(None, node.output):
            kind, annotated = found.get(name), self.view.annotations.get(name)
            shape = None if kind is None else self._declared_shape(kind)
            if shape is None and annotated is not None:
                shape = self._declared_shape(annotated)
            known = kind if kind is not None and kind.WhichOneof("value") else annotated
            if known is not None and known.WhichOneof("value") not in (None, "tensor_type"):
                self.point.shapes[name], self.point.dtypes[name] = None, "other"
                self.types[name] = known
                continue
            self._set(name, 0 if known is None else known.tensor_type.elem_type, shape)

    def _inferred(self, node: NodeProto) -> dict[str, TypeProto]:
        from onnx import defs, numpy_helper, shape_inference

        names = [name for name in node.input if name]
        if not all(name in self.types for name in names):
            return {}
        values, opsets = self.point.values, self.view.model.opset_import
        version = next((entry.version for entry in opsets if entry.domain == node.domain), self.view.opset)
        try:
            schema = defs.get_schema(node.op_type, version, node.domain)
            # A body sees all that is in scope; other operators see their inputs.
            types = self.types if any(nested(node)) else {name: self.types[name] for name in names}
            data = {name: numpy_helper.from_array(values[name], name) for name in names if name in values}
            found: dict[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=list(opsets), ir_version=self.view.model.ir_version
            )
        except Exception:  # no such operator, or shapes that do not fit: both mean that nothing is known
            return {}
        return found

    def _compute(self, node: NodeProto) -> None:
        """Case 2."""
        import numpy as np
        from onnx import helper

        operands = self._operands(node)
        sizes = [self.point.shapes.get(name) for name in node.output if name]
        large = any(math.prod(size) > SMALL if size is not None else node.op_type in _GROWS for size in sizes)
        if operands is None or large or node.op_type in _SAMPLES:
            return
        try:
            key = tuple(node.output)
            if key not in self.kernels:
                self.kernels[key] = _kernel(node, self.view)
            with np.errstate(all="ignore"):
                results = self.kernels[key].run(None, operands, attributes={})
        except Exception:  # the reference lacks the operator, or the values do not fit: nothing is known
            return
        for name, result in zip(filter(None, node.output), results, strict=False):
            if isinstance(result, np.ndarray | np.generic) and result.size <= SMALL:
                self.point.values[name] = np.asarray(result)
                dtype = self.types[name].tensor_type.elem_type if name in self.types else 0
                self._set(name, dtype or helper.np_dtype_to_tensor_dtype(result.dtype), tuple(result.shape))

    def _operands(self, node: NodeProto) -> dict[str, NDArray[np.generic]] | None:
        """Contents of a node's inputs, None where one is unknown. Shape and Size need no contents."""
        import numpy as np

        found: dict[str, NDArray[np.generic]] = {}
        for name in filter(None, node.input):
            value = self.point.values.get(name)
            shape = self.point.shapes.get(name) if node.op_type in ("Shape", "Size") else None
            if value is None and shape is not None:
                value = np.broadcast_to(np.float32(0), shape)  # takes four bytes at any size
            if value is None:
                return None
            found[name] = value
        return found


def _kernel(node: NodeProto, view: View) -> Any:
    """The node alone, as ONNX's reference implementation runs it at the model's opsets."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    inputs = list(dict.fromkeys(filter(None, node.input)))
    outputs = [name for name in node.output if name]
    imports = list(view.model.opset_import)
    return ReferenceEvaluator(helper.make_function("edgeprune", "Node", inputs, outputs, [node], imports))
