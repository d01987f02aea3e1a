"""Puts the body of a repeated step in the place of every node that stands for it (see ``layers.repeat``)."""

from __future__ import annotations

import onnx_ir as ir

from edgeprune.layers.repeat import DOMAIN


def replace_calls(model: ir.Model, name: str, body: ir.Graph) -> None:
    """Unroll a step.

    Args:
        model: changed in place; its nodes ``edgeprune::<name>`` disappear.
        name: of the step.
        body: its graph, with one output; its constants are taken over once and shared by all copies.
    """
    graph = model.graph
    constants = {id(value): _adopt(graph, value, name) for value in list(body.initializers.values())}
    for call in [node for node in graph if node.domain == DOMAIN and node.op_type == name]:
        values: dict[int, ir.Value | None] = dict(constants)
        values |= {id(value): given for value, given in zip(body.inputs, call.inputs, strict=True)}
        for node in body:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else values[id(value)] for value in node.inputs],
                list(node.attributes.values()),
                num_outputs=len(node.outputs),
            )
            copy.metadata_props.update(call.metadata_props)  # the path of the step, which names it
            for value, own in zip(node.outputs, copy.outputs, strict=True):
                own.type, own.shape = value.type, value.shape
                values[id(value)] = own
            graph.insert_before(call, copy)
        result = values[id(body.outputs[0])]
        assert result is not None  # a body gives something
        ir.convenience.replace_all_uses_with(call.outputs[0], result)
        graph.remove(call, safe=True)
    model.opset_imports.pop(DOMAIN, None)


def _adopt(graph: ir.Graph, value: ir.Value, step: str) -> ir.Value:
    """A constant of the body as one of the graph."""
    own = ir.Value(name=f"{step}.{value.name}", type=value.type, shape=value.shape, const_value=value.const_value)
    graph.initializers[own.name or ""] = own
    return own
