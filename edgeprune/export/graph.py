"""One traced module to one ONNX file, its weights streamed from the checkpoint.

requires: a module whose arguments and results are the plan's inputs and outputs, in order.
ensures:  1. the file's opset is the one asked for (PyTorch's exporter keeps silent where it fails to convert);
          2. inputs and outputs have exactly the plan's names, types and axes;
          3. ``onnx.checker`` accepts it, external data included;
          4. node and value names are paths of modules, and no axis has a made-up symbol.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from edgeprune.bundle.manifest import Tensor
from edgeprune.errors import CheckpointError, EdgePruneError
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.export.trace import TORCH, Trace, Tracer
from edgeprune.families.part import Part

ONNX = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "int64": ir.DataType.INT64}
INLINE_BYTES = 1024  # smaller tensors stay inside the graph file


def write_graph(plan: GraphPlan, tracer: Tracer, dtype: str, path: Path, progress: Callable[[int], None]) -> None:
    """Write ``path`` and, where the graph has weights, ``path``.data.

    Args:
        plan: the graph.
        tracer: makes or remembers its trace.
        dtype: element type of the weights, "fp32" or "fp16".
        path: of the .onnx file.
        progress: called with the bytes of each weight written.

    Raises:
        EdgePruneError: PyTorch's exporter failed, or the file is not what was planned.
    """
    part = _empty_part(plan, dtype)
    trace = tracer.trace(plan, part.module)
    _name(trace, plan, part)
    _attach(trace, part, dtype)
    ir.save(
        trace.model,
        path,
        external_data=path.name + ".data",
        size_threshold_bytes=INLINE_BYTES,
        callback=lambda tensor, _: progress(tensor.nbytes),
    )
    data = path.with_name(path.name + ".data")
    if data.exists() and not data.stat().st_size:
        data.unlink()
    _ensure(plan, tracer.opset, path)


def _empty_part(plan: GraphPlan, dtype: str) -> Part:
    """The plan's part in its dtype from the start: converting it would write to memory that is never read."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(TORCH[dtype])
    try:
        return plan.part()
    finally:
        torch.set_default_dtype(before)


def weight_bytes(plan: GraphPlan, dtype: str) -> int:
    """Bytes of the weights that ``write_graph`` will write, for a progress bar."""
    size = TORCH[dtype].itemsize
    sizes = (parameter.numel() * size for parameter in plan.part().module.parameters())
    return sum(size for size in sizes if size >= INLINE_BYTES)


def _name(trace: Trace, plan: GraphPlan, part: Part) -> None:
    """Give nodes and values the path of the module they come from, and declare the planned axes."""
    model, graph = trace.model, trace.model.graph
    graph.name = plan.name
    graph.doc_string = None
    for holder in (model, graph):
        holder.metadata_props.clear()
    model.producer_name, model.producer_version = "edgeprune", ""
    _name_initializers(trace, part)
    _name_nodes(trace, plan, part)
    for value, tensor in zip((*graph.inputs, *graph.outputs), (*plan.inputs, *plan.outputs), strict=True):
        value.name = tensor.name
        value.dtype = ONNX[tensor.dtype]
        value.shape = ir.Shape(tensor.shape)
        value.metadata_props.clear()


def _name_initializers(trace: Trace, part: Part) -> None:
    """Weights by their name in the module; constants of the code, "val_87" to the exporter, numbered."""
    initializers = trace.model.graph.initializers
    weights = [value for value in trace.weights if value is not None]
    constants = [value for value in initializers.values() if value not in weights]
    initializers.clear()
    for (name, _), weight in zip(part.module.named_parameters(), trace.weights, strict=True):
        if weight is not None:
            weight.name = name
            weight.metadata_props.clear()  # names of the module that was traced, which may be another layer
            initializers[name] = weight
    for index, constant in enumerate(constants):
        constant.name = f"constant_{index}"
        initializers[constant.name] = constant


def _name_nodes(trace: Trace, plan: GraphPlan, part: Part) -> None:
    modules = dict(zip(trace.modules, (name for name, _ in part.module.named_modules()), strict=True))
    graph = trace.model.graph
    outputs = {id(value) for value in graph.outputs}
    known = {axis for tensor in (*plan.inputs, *plan.outputs) for axis in tensor.shape}
    count: dict[str, int] = {}
    for node, traced_path in zip(graph, trace.paths, strict=True):
        path = modules.get(traced_path, traced_path)
        stem = f"{path}/{node.op_type}" if path else node.op_type
        count[stem] = count.get(stem, 0) + 1
        node.name = stem if count[stem] == 1 else f"{stem}_{count[stem]}"
        node.metadata_props.clear()  # stack traces hold paths of the machine that exported
        node.doc_string = None
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if id(value) in outputs:
                continue
            value.name = node.name + (f":{index}" if index else "")
            if value.shape is not None and not _symbols(value.shape) <= known:
                value.shape = None  # a made-up symbol; every runtime infers it anyway


def _symbols(shape: ir.Shape) -> set[Any]:
    return {axis.value for axis in shape if not isinstance(axis, int)}


def _attach(trace: Trace, part: Part, dtype: str) -> None:
    """Point every weight at the checkpoint; nothing is read before it is written."""
    for (name, parameter), weight in zip(part.module.named_parameters(), trace.weights, strict=True):
        if weight is None:
            continue

        def read(name: str = name) -> ir.TensorProtocol:
            value = part.tensor(name).to(TORCH[dtype])
            if not torch.isfinite(value).all():
                raise CheckpointError(
                    f"weight {name} of {trace.model.graph.name} is not finite in {dtype}; try --dtype fp32"
                )
            return ir.tensor(value.contiguous().numpy(), name=name)

        shape = ir.Shape(parameter.shape)
        weight.const_value = ir.LazyTensor(read, dtype=ONNX[dtype], shape=shape, name=name, cache=False)


def _ensure(plan: GraphPlan, opset: int, path: Path) -> None:
    proto = onnx.load(path, load_external_data=False)
    written = {entry.domain: entry.version for entry in proto.opset_import}
    if written != {"": opset}:
        raise EdgePruneError(f"graph {plan.name}: asked for opset {opset}, the exporter wrote {written}")
    for kind, values, tensors in (
        ("input", proto.graph.input, plan.inputs),
        ("output", proto.graph.output, plan.outputs),
    ):
        found = tuple(_read(value) for value in values)
        if found != tensors:
            raise EdgePruneError(f"graph {plan.name}: {kind}s are {found}, planned were {tensors}")
    known = {axis for tensor in (*plan.inputs, *plan.outputs) for axis in tensor.shape}
    made_up = {axis for value in proto.graph.value_info for axis in _shape(value) if isinstance(axis, str)} - known
    if made_up:
        raise EdgePruneError(f"graph {plan.name}: axes {sorted(made_up)} are not the plan's")
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise EdgePruneError(f"graph {plan.name}: onnx.checker rejects it: {error}") from error


def _read(value: Any) -> Tensor:
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT64: "int64"}
    return Tensor(value.name, names[value.type.tensor_type.elem_type], _shape(value))


def _shape(value: Any) -> tuple[int | str, ...]:
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
