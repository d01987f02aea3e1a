"""One module to an ONNX graph in memory, traced with weights that were never written.

Graphs of the same structure (two segments of equal depth, two cuts of one method) are traced once: what differs
between them is names and weights, which come later. Weights enter as graph inputs while the graph is simplified,
so that no pass can read them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn

from edgeprune.bundle.manifest import Tensor
from edgeprune.errors import EdgePruneError
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.export.unroll import replace_calls
from edgeprune.layers.repeat import Repeated

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "int64": torch.int64}
# What a graph is traced with: any sizes do that differ from each other and from 0 and 1.
_EXAMPLE = {"B": 2, "C": 6, "S": 26, "P": 5, "K": 9, "V": 19, "N": 20, "J": 3, "t": 7, "q": 8}
_EXAMPLE |= {"w": 10, "p": 13, "l": 17}  # of pictures that keep their resolution
_EXAMPLE_SCALARS = {"keep": 9, "merge": 2, "seed": 11, "runs": 3, "text_after": 4}


@dataclass(frozen=True)
class Trace:
    """A traced module.

    Attributes:
        model: its graph, simplified, inputs and outputs in the plan's order.
        weights: the graph's value for each parameter in the module's order, None where the graph does not use it.
        paths: the module path each node came from, "" for the module itself, in the graph's order.
        modules: the paths of the traced module's submodules, in order.
    """

    model: ir.Model
    weights: tuple[ir.Value | None, ...]
    paths: tuple[str, ...]
    modules: tuple[str, ...]


class Tracer:
    """Traces modules, each structure once.

    Args:
        opset: the ONNX opset to ask for.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._traces: dict[Any, Trace] = {}

    def trace(self, plan: GraphPlan, module: nn.Module) -> Trace:
        """The trace of a module, or of one that differs from it in names only.

        Raises:
            EdgePruneError: PyTorch's exporter failed.
        """
        key = (
            plan.role,
            plan.structure,
            type(module),
            tuple((t.dtype, t.shape) for t in (*plan.inputs, *plan.outputs)),
            tuple((p.dtype, p.shape) for p in module.parameters()),
            tuple((b.dtype, b.shape) for b in module.buffers()),
        )
        if key not in self._traces:
            self._traces[key] = self._trace(plan, module)
        return self._traces[key]

    def _trace(self, plan: GraphPlan, module: nn.Module) -> Trace:
        arguments: list[Any] = [_example(tensor) for tensor in plan.inputs]
        axes: list[Any] = [_axes(tensor) for tensor in plan.inputs]
        if plan.role == "segment":  # the module takes its cache as one list
            arguments[2:], axes[2:] = [arguments[2:]], [axes[2:]]
        names = [tensor.name for tensor in plan.inputs], [tensor.name for tensor in plan.outputs]
        weights = _simplify(model := _export(plan.name, module, arguments, axes, names, self.opset), module)
        for step in module.modules():
            if isinstance(step, Repeated):
                replace_calls(model, step.name, self._body(plan.name, step))
        return Trace(
            model=model,
            weights=weights,
            paths=tuple(_path(node) for node in model.graph),
            modules=tuple(name for name, _ in module.named_modules()),
        )

    def _body(self, graph: str, step: Repeated) -> ir.Graph:
        """What a repeated step does, once."""
        arguments = [torch.zeros(_sizes(shape), dtype=dtype) for dtype, shape in step.inputs]
        axes = [{place: axis for place, axis in enumerate(shape) if isinstance(axis, str)} for _, shape in step.inputs]
        names = [f"in_{place}" for place in range(len(arguments))], ["out"]
        model = _export(f"{graph}, step {step.name}", step.body, arguments, axes, names, self.opset)
        _simplify(model, step.body)
        return model.graph


def _export(
    name: str, module: nn.Module, arguments: list[Any], axes: list[Any], names: tuple[list[str], list[str]], opset: int
) -> ir.Model:
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                tuple(arguments),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=tuple(axes),
                input_names=names[0],
                output_names=names[1],
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        raise EdgePruneError(f"graph {name}: PyTorch's ONNX exporter failed: {error}") from error
    assert program is not None  # only the exporter's older form returns nothing
    return program.model


def _example(tensor: Tensor) -> torch.Tensor:
    if not tensor.shape:
        return torch.tensor(_EXAMPLE_SCALARS[tensor.name])
    return torch.zeros(_sizes(tensor.shape), dtype=TORCH[tensor.dtype])


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    return [axis if isinstance(axis, int) else _EXAMPLE[axis] for axis in shape]


def _axes(tensor: Tensor) -> dict[int, str]:
    return {index: axis for index, axis in enumerate(tensor.shape) if isinstance(axis, str)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own internals and of packages that are not needed here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _simplify(model: ir.Model, module: nn.Module) -> tuple[ir.Value | None, ...]:
    """Fold shape arithmetic and drop what is unused, with the weights out of reach.

    Returns:
        The graph's value for each parameter in the module's order, None where the graph does not use it.
    """
    graph = model.graph
    stored = {name for name, _ in module.named_parameters()}
    weights = {name: value for name, value in graph.initializers.items() if name in stored}  # buffers keep their values
    for name, value in weights.items():
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    with _quiet():
        optimizer.optimize_ir(model)
    for name, value in weights.items():
        graph.inputs.remove(value)
        if value.uses():
            graph.initializers[name] = value
    used = {name: value for name, value in weights.items() if value.uses()}
    return tuple(used.get(name) for name, _ in module.named_parameters())


def _path(node: ir.Node) -> str:
    """Path of the module a node comes from: "layers.8.self_attn.q_proj"."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    scopes = [scope.strip(" '\"") for scope in text.strip("[]").split(",")]
    # The last scope is the operation; a scope that starts with _ is the exporter's own.
    return next((scope for scope in reversed(scopes[:-1]) if scope and not scope.startswith("_")), "")
