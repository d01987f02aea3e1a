"""A read-only view of an ONNX graph: who makes a value, what is constant, which inputs decide shapes.

Knows the structure alone; sizes at a point of a profile are in ``shapes.py``. Weights kept in another file have no
bytes here, so they are constants without a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

SHAPE_INPUTS: dict[str, tuple[int, ...]] = {
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Loop": (0,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs whose values decide the shape of an output: what TensorRT must know on the host before it launches."""


class View:
    """The graph of a model and all graphs nested in it.

    Args:
        model: loaded without external data, or with.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph = model.graph

    @cached_property
    def opset(self) -> int:
        """Of the default domain; 0 where none is imported."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    @cached_property
    def inputs(self) -> dict[str, ValueInfoProto]:
        """What is fed at run time, by name, in order."""
        held = {tensor.name for tensor in self.graph.initializer}
        return {value.name: value for value in self.graph.input if value.name not in held}

    @cached_property
    def graphs(self) -> tuple[GraphProto, ...]:
        """The main graph first, then those inside its nodes."""
        found = [self.graph]
        for graph in found:  # grows while it is walked
            found.extend(inner for node in graph.node for inner in nested(node))
        return tuple(found)

    @cached_property
    def nodes(self) -> tuple[NodeProto, ...]:
        """Of all graphs."""
        return tuple(node for graph in self.graphs for node in graph.node)

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that makes a value."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """The stored tensors of all graphs."""
        return {tensor.name: tensor for graph in self.graphs for tensor in graph.initializer}

    @cached_property
    def annotations(self) -> dict[str, TypeProto]:
        """The types that inputs, outputs and values of the main graph are declared with."""
        graph = self.graph
        return {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}

    def dynamic(self, name: str, axis: int | None = None) -> bool:
        """Whether a value is declared with a name, or nothing, for the size of an axis, or of any.

        To a parser it is dynamic then, even where all bounds agree.
        """
        declared = self.annotations.get(name)
        dims = [] if declared is None else list(declared.tensor_type.shape.dim)
        return any(not dim.HasField("dim_value") for dim in (dims if axis is None else dims[axis : axis + 1]))

    def constant(self, name: str) -> bool:
        """Whether a value is an initializer or made by Constant: what the parser holds as weights."""
        node = self.producers.get(name)
        return name in self.initializers or (node is not None and node.op_type == "Constant")

    def value(self, name: str) -> NDArray[np.generic] | None:
        """The bytes of a constant, None where there are none or where they lie in another file."""
        from onnx import TensorProto, numpy_helper

        tensor = self.initializers.get(name)
        if tensor is not None:
            return None if tensor.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(tensor)
        node = self.producers.get(name)
        return None if node is None or node.op_type != "Constant" else constant_value(node)

    def ancestors(self, name: str) -> frozenset[str]:
        """Inputs of the graph whose contents, not whose shapes, a value is computed from.

        What a Loop carries is a new value in each turn, so nothing is traced into the inputs of a body; TensorRT does
        not either.
        """
        found: set[str] = set()
        seen: set[str] = set()
        pending = [name]
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self.inputs:
                found.add(current)
            node = self.producers.get(current)
            if node is not None and node.op_type not in ("Shape", "Size"):
                pending.extend(used(node))
        return frozenset(found)

    @cached_property
    def shape_values(self) -> tuple[str, ...]:
        """Values that decide the shape of another: TopK's K, the ends of a Slice."""
        names = (
            node.input[index]
            for node in self.nodes
            for index in SHAPE_INPUTS.get(node.op_type, ())
            if index < len(node.input) and node.input[index]
        )
        return tuple(dict.fromkeys(names))

    @cached_property
    def shape_inputs(self) -> frozenset[str]:
        """Inputs of the graph whose contents decide the shape of anything."""
        return frozenset(name for value in self.shape_values for name in self.ancestors(value))


def nested(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop and Scan."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def used(node: NodeProto) -> list[str]:
    """Names a node reads, those its bodies read or return included."""
    names = [name for name in node.input if name]
    for graph in nested(node):
        names.extend(value.name for value in graph.output)
        for inner in graph.node:
            names.extend(used(inner))
    return names


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute: int, float, str, or a list of them; the default where it is not given."""
    from onnx import helper

    entry: AttributeProto
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def argument(node: NodeProto, index: int) -> str:
    """The name of an input by position, empty where it is left out."""
    return str(node.input[index]) if index < len(node.input) else ""


def constant_value(node: NodeProto) -> NDArray[np.generic] | None:
    """What a Constant holds, None for strings and sparse tensors."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    entry = node.attribute[0] if node.attribute else None
    if entry is None:
        return None
    if entry.name == "value":
        return None if entry.t.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(entry.t)
    if entry.name in ("value_int", "value_ints"):
        return np.array(entry.i if entry.name == "value_int" else list(entry.ints), dtype=np.int64)
    if entry.name in ("value_float", "value_floats"):
        return np.array(entry.f if entry.name == "value_float" else list(entry.floats), dtype=np.float32)
    return None
