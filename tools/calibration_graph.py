"""Writes the two graphs that ``edgeprune estimate --calibrate`` runs, into ``edgeprune/bench``.

    python tools/calibration_graph.py            write them
    python tools/calibration_graph.py --check    fail unless the files are what this writes

Each is the feed-forward of a decoder layer, silu(x W1) * (x W3) times W2, on any number of rows. The weights are
``ConstantOfShape``: a few bytes here, and ONNX Runtime makes real arrays of them when it loads the graph.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edgeprune.bench.calibrate import HIDDEN, INTERMEDIATE, graph_path
from edgeprune.bundle.manifest import OPSET

_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
_WEIGHTS = {"w1": 2.0**-10, "w3": 2.0**-11, "w2": 2.0**-10}
"""Rows of ones stay of the order of one, in fp16 as well, and nothing is denormal. The first two must differ: of two
equal products ONNX Runtime computes one."""


def make_graph(dtype: str) -> bytes:
    """The graph in "fp32" or "fp16", serialised."""
    kind = _TYPES[dtype]
    nodes = []
    shapes = {"w1": (HIDDEN, INTERMEDIATE), "w3": (HIDDEN, INTERMEDIATE), "w2": (INTERMEDIATE, HIDDEN)}
    for name, shape in shapes.items():
        axes = helper.make_tensor(f"{name}_shape", TensorProto.INT64, [2], list(shape))
        nodes.append(helper.make_node("Constant", [], [f"{name}_shape"], value=axes))
        value = helper.make_tensor("value", kind, [1], [_WEIGHTS[name]])
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=value))
    nodes += [
        helper.make_node("MatMul", ["x", "w1"], ["gate"]),
        helper.make_node("Sigmoid", ["gate"], ["share"]),
        helper.make_node("Mul", ["gate", "share"], ["silu"]),
        helper.make_node("MatMul", ["x", "w3"], ["up"]),
        helper.make_node("Mul", ["silu", "up"], ["both"]),
        helper.make_node("MatMul", ["both", "w2"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, kind, ["rows", HIDDEN]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "calibration", [x], [y])
    opset = helper.make_opsetid("", OPSET["base"])
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10, producer_name="edgeprune")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file differs")
    check = parser.parse_args().check
    for dtype in _TYPES:
        path, data = Path(graph_path(dtype)), make_graph(dtype)
        if not check:
            path.write_bytes(data)
        elif not path.is_file() or path.read_bytes() != data:
            raise SystemExit(f"{path} is not what this writes: python tools/calibration_graph.py")


if __name__ == "__main__":
    main()
