"""A bundle of which one method cannot run."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def break_bundle(bundle: Path, folder: Path) -> None:
    """Copy a bundle; in the copy, VisionDrop's first graph loads, and fails when it runs: it takes row 99,999."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "edgeprune.json").read_text())
    graph = next(graph for graph in manifest["graphs"] if graph["name"].startswith("prune_visiondrop_vision"))
    path = folder / graph["file"]["path"]
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if "kept" in node.output)
    node.output[list(node.output).index("kept")] = "kept_inside"
    for other in model.graph.node:
        for place, name in enumerate(other.input):
            if name == "kept":
                other.input[place] = "kept_inside"
    model.graph.initializer.append(numpy_helper.from_array(np.array([99_999], np.int64), "far"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["kept_inside", "far"], ["kept"], axis=1))
    path.write_bytes(model.SerializeToString())
    graph["file"] |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "edgeprune.json").write_text(json.dumps(manifest))
