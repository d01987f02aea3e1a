"""What an exported graph looks like to a reader: opset, operators, names, axes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

EXPORTS = {"bundle_tiny": 18, "bundle_tiny_fp16": 18, "bundle_gqa": 18, "bundle_gqa_fused": 23}
FUSED = {"Attention", "RMSNormalization", "RotaryEmbedding"}
AXES = {"B", "C", "S", "P", "T", "K", "R", "V", "t"}


@pytest.fixture(params=EXPORTS)
def export(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, onnx.ModelProto], int]:
    """A bundle's manifest, its graphs without weights, and the opset it must have."""
    root: Path = request.getfixturevalue(request.param)
    manifest = json.loads((root / "edgeprune.json").read_text())
    for graph in manifest["graphs"]:
        onnx.checker.check_model(str(root / graph["file"]["path"]))
    models = {g["name"]: onnx.load(root / g["file"]["path"], load_external_data=False) for g in manifest["graphs"]}
    return manifest, models, EXPORTS[request.param]


Export = tuple[dict[str, Any], dict[str, onnx.ModelProto], int]


def test_opset_and_operators(export: Export) -> None:
    manifest, models, opset = export
    assert manifest["opset"] == opset
    used = set()
    for model in models.values():
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        used |= {node.op_type for node in model.graph.node}
        for node in model.graph.node:
            if node.op_type == "Attention":  # one output, no cache inputs, an explicit mask: what TensorRT takes
                assert len(node.output) == 1
                assert len([name for name in node.input if name]) <= 4
                assert not any(attribute.name == "is_causal" and attribute.i for attribute in node.attribute)
    assert used & FUSED == (FUSED if opset == 23 else set())
    assert not used & {"NonZero", "Compress", "Unique", "OneHot", "ScatterND", "Loop"}


def test_axes_and_names_read_well(export: Export) -> None:
    _, models, _ = export
    for model in models.values():
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            assert {axis.dim_param for axis in value.type.tensor_type.shape.dim if axis.dim_param} <= AXES
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        for name in (*names, *(tensor.name for tensor in model.graph.initializer)):
            assert not re.match(r"(val|u|s|node|sym|arg|p)_?\d", name), name
        assert "/" not in str(model.doc_string)
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)  # no paths of a machine


def test_weights_have_the_checkpoints_names(export: Export) -> None:
    _, models, _ = export
    names = {
        tensor.name for tensor in models["segment_1_2" if "segment_1_2" in models else "segment_2_4"].graph.initializer
    }
    layer = 1 if "segment_1_2" in models else 2
    assert {f"layers.{layer}.self_attn.q_proj.weight", f"layers.{layer}.mlp.down_proj.weight", "rotary.cos"} <= names


def test_the_manifest_says_what_the_graphs_say(export: Export) -> None:
    manifest, models, _ = export
    types = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "int64": onnx.TensorProto.INT64}
    for graph in manifest["graphs"]:
        proto = models[graph["name"]].graph
        for listed, values in ((graph["inputs"], proto.input), (graph["outputs"], proto.output)):
            for entry, value in zip(listed, values, strict=True):
                kind = value.type.tensor_type
                assert (value.name, kind.elem_type) == (entry["name"], types[entry["dtype"]])
                assert [axis.dim_param or axis.dim_value for axis in kind.shape.dim] == entry["shape"]
